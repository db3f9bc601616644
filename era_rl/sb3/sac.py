"""SACERA: Soft Actor-Critic with a guaranteed policy entropy and no entropy term in its losses."""

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.sac.sac import SAC

from era_rl.sb3.compiling import Update
from era_rl.sb3.gradients import ActorLoss, CriticLoss, least_value, sac_critic_loss
from era_rl.sb3.policies import SACERACnnPolicy, SACERAMultiInputPolicy, SACERAPolicy
from era_rl.sb3.simba import SACERASimbaMultiInputPolicy, SACERASimbaPolicy
from era_rl.sb3.update import OffPolicyUpdate, ReplayTrainingMixin


class SACERA(ReplayTrainingMixin, SAC):  # pyright: ignore[reportIncompatibleVariableOverride]
    """SAC in which the policy's entropy is held by the actor's head, not by the losses.

    pi(.|s) has H[pi(.|s)] >= H0 for every state, so the critic target is
    r + gamma min_j Q_j(s', a') and the actor maximises min_j Q_j(s, a), with no entropy term in
    either. Drop-in for ``stable_baselines3.SAC``: every other argument, and ``save``, ``load``,
    ``predict`` and callbacks, are SB3's. Entropies, and on CUDA the losses too, stay on the device
    until logs are written: they are in the logger then, not after every update.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy", or "SimbaPolicy" and
            "SimbaMultiInputPolicy" (residual networks on observations that the policy normalises, with
            AdamW and a learning rate of 1e-4: :class:`~era_rl.sb3.simba.SimbaMixin`), or a policy class
            derived from theirs.
        env: Environment or its id; the action space must be a bounded Box.
        *args: SB3's SAC arguments by position.
        layer_norm: Whether the critics have a LayerNorm after each hidden layer.
        compile: Whether the gradients of an update, and the sampling of actions, run under
            torch.compile, which takes tens of seconds at the first step: True, False, or "auto" where
            it pays, by what trainings of the same kind took on this machine, else from 20,000 updates
            on (unless ``train_freq`` counts episodes and ``gradient_steps`` is fixed: their number is
            unknown then); the logger says which it is. On CUDA gradients and optimizer steps become
            one CUDA graph besides. Equal to the eager update up to rounding: where runs are to be
            equal bit by bit, choose. Without a C++ compiler, or where compilation fails, it warns and
            runs eagerly.
        ent_coef: Must be 0: there is no entropy term; SAC's "auto" is taken with a warning.
        use_sde: Must be False.
        policy_kwargs: As in SB3.
        **kwargs: The fields of :class:`~era_rl.core.PolicyOptions`, by name: ``target_entropy``,
            ``nats_per_dim``, ``floor``, ``slack``, ``min_entropy_per_dim``, ``delta``, ``log_std_min``,
            ``log_std_max``, ``distribution`` ("truncated" or "tanh") and ``deterministic_action``, for
            which ``load`` takes another too. And SB3's SAC arguments (``tau`` is its Polyak
            coefficient, not softmax_era's).

    Raises:
        ValueError: For an infeasible floor, a non-zero ``ent_coef``, ``use_sde``, or arguments that
            exclude each other, and for action bounds without a range; the message names the argument,
            its value and the allowed range.

    ``target_entropy`` or ``nats_per_dim`` may be a function of the remaining progress, as
    ``learning_rate`` may, such as :class:`~era_rl.core.EntropySchedule`: the floor moves when the
    learning rate does. ``model.target_entropy = -3.0`` changes it at any time, checked and at once.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": SACERAPolicy,
        "CnnPolicy": SACERACnnPolicy,
        "MultiInputPolicy": SACERAMultiInputPolicy,
        "SimbaPolicy": SACERASimbaPolicy,
        "SimbaMultiInputPolicy": SACERASimbaMultiInputPolicy,
    }

    def _make_update(self) -> Update:
        policy = self.policy
        losses = CriticLoss(policy, sac_critic_loss), ActorLoss(policy, least_value)
        return OffPolicyUpdate(policy, *losses)


def paper_preset(action_space: spaces.Box) -> dict[str, Any]:
    """Return the arguments with which SACERA has the settings of the paper's reference code.

    ``SACERA("MlpPolicy", env, **paper_preset(env.action_space))``: Eq. 11 at 0.25 nats per dimension
    without delta, log_std in [-8, 0], networks of 2 x 512 ELU, LayerNorm critics under AdamW (weight
    decay 1e-4, the default of the optax optimizer used there), two updates a step, 5,000 random
    steps. Departs from it in nothing known but the framework.

    Args:
        action_space: The environment's action space, for its number of dimensions.
    """
    action_dim = int(torch.Size(action_space.shape).numel())
    return {
        "floor": "gaussian",
        "target_entropy": 0.25 * action_dim,
        "log_std_min": -8.0,
        "log_std_max": 0.0,
        "layer_norm": True,
        "learning_starts": 5_000,
        "gradient_steps": 2,
        "policy_kwargs": {
            "net_arch": [512, 512],
            "activation_fn": torch.nn.ELU,
            "critic_weight_decay": 1e-4,
        },
    }
