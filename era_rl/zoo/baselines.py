"""Policies of the comparison runs: stock algorithms with what the ERA ones have beside the floor."""

from typing import Any

from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.sac.policies import SACPolicy

from era_rl.sb3.policies import LayerNormCriticMixin


class LayerNormSACPolicy(LayerNormCriticMixin, SACPolicy):
    """``MlpPolicy`` of SAC with layer-normalised critics and, on request, their weight decay."""

    def __init__(self, *args: Any, layer_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, layer_norm=layer_norm, **kwargs)


class LayerNormTQCPolicy(LayerNormCriticMixin, TQCPolicy):
    """``MlpPolicy`` of TQC with layer-normalised critics and, on request, their weight decay."""

    def __init__(self, *args: Any, layer_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, layer_norm=layer_norm, **kwargs)
