"""Policies of the comparison runs: stock ones with the critics that the ERA ones have.

Their argument ``layer_norm`` is :class:`era_rl.sb3.policies.LayerNormCriticMixin`'s.
"""

from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.sac.policies import SACPolicy

from era_rl.sb3.policies import LayerNormCriticMixin
from era_rl.sb3.simba import SimbaMixin


class LayerNormSACPolicy(LayerNormCriticMixin, SACPolicy):
    """``MlpPolicy`` of SAC with layer-normalised critics on request."""


class LayerNormTQCPolicy(LayerNormCriticMixin, TQCPolicy):
    """``MlpPolicy`` of TQC with layer-normalised critics on request."""


class SimbaSACPolicy(SimbaMixin, LayerNormCriticMixin, SACPolicy):
    """SimBa's networks for SAC, with ``normalize_obs=False``: VecNormalize is what SAC feeds."""
