"""The ERA algorithms but SACERA and XQCERA: their policies, losses and arguments."""

from functools import partial
from typing import Any, ClassVar

from sb3_contrib import TQC, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from era_rl.sb3.actor_critic import (
    ERAActorCriticCnnPolicy,
    ERAActorCriticPolicy,
    ERAMaskableCnnPolicy,
    ERAMaskableMultiInputPolicy,
    ERAMaskablePolicy,
    ERAMultiInputActorCriticPolicy,
    ERARecurrentCnnPolicy,
    ERARecurrentMultiInputPolicy,
    ERARecurrentPolicy,
)
from era_rl.sb3.compiling import Update
from era_rl.sb3.gradients import (
    ActorLoss,
    CriticLoss,
    crossq_critic_loss,
    least_value,
    mean_quantile,
    tqc_critic_loss,
)
from era_rl.sb3.on_policy import Objective, Weights
from era_rl.sb3.policies import (
    CrossQERAPolicy,
    TQCERACnnPolicy,
    TQCERAMultiInputPolicy,
    TQCERAPolicy,
)
from era_rl.sb3.rollouts import OnPolicyERAMixin, RolloutMixin, RolloutTrainingMixin
from era_rl.sb3.simba import TQCERASimbaMultiInputPolicy, TQCERASimbaPolicy
from era_rl.sb3.update import OffPolicyUpdate, ReplayTrainingMixin


class TQCERA(ReplayTrainingMixin, TQC):
    """TQC in which the policy's entropy is held by the actor's head, not by the losses.

    H[pi(.|s)] >= H0 for every state, so TQC's losses keep no entropy term: the targets are truncated
    quantiles of r + gamma Z(s', a'), and the actor maximises their mean. Drop-in for
    ``sb3_contrib.TQC``, with its losses; the arguments before ``**kwargs`` are those of
    :class:`SACERA`.

    Args:
        policy: As of :class:`SACERA`.
        env: Environment or its id; the action space must be a bounded Box.
        *args: TQC's arguments by position.
        **kwargs: The fields of :class:`~era_rl.core.PolicyOptions`, ``layer_norm`` and ``compile`` as
            for :class:`SACERA`, and TQC's own.

    Raises:
        ValueError: As :class:`SACERA`.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": TQCERAPolicy,
        "CnnPolicy": TQCERACnnPolicy,
        "MultiInputPolicy": TQCERAMultiInputPolicy,
        "SimbaPolicy": TQCERASimbaPolicy,
        "SimbaMultiInputPolicy": TQCERASimbaMultiInputPolicy,
    }

    def _make_update(self) -> Update:
        critic = self.critic
        kept = critic.quantiles_total - self.top_quantiles_to_drop_per_net * critic.n_critics
        loss = partial(tqc_critic_loss, kept=kept)
        losses = CriticLoss(self.policy, loss), ActorLoss(self.policy, mean_quantile)
        return OffPolicyUpdate(self.policy, *losses)


class CrossQERA(ReplayTrainingMixin, CrossQ):
    """CrossQ in which the policy's entropy is held by the actor's head, not by the losses.

    H[pi(.|s)] >= H0 for every state, without an entropy term in CrossQ's losses. Drop-in for
    ``sb3_contrib.CrossQ``, with its losses.

    Args:
        policy: "MlpPolicy", the only one that CrossQ has, or a policy class derived from it.
        env: Environment or its id; the action space must be a bounded Box.
        *args: CrossQ's arguments by position.
        **kwargs: The fields of :class:`~era_rl.core.PolicyOptions` and ``compile`` as for
            :class:`SACERA`, and CrossQ's own.

    Raises:
        ValueError: As :class:`SACERA`, and for ``layer_norm``: the critics have batch
            renormalisation.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": CrossQERAPolicy}

    def __init__(
        self, policy: str | type[BasePolicy], env: GymEnv | str | None, *args: Any, **kwargs: Any
    ) -> None:
        if kwargs.get("layer_norm"):
            raise ValueError(
                f"layer_norm={kwargs['layer_norm']!r} must be False: CrossQ's critics are "
                "batch-renormalised"
            )
        super().__init__(policy, env, *args, **kwargs)

    def _make_update(self) -> Update:
        losses = CriticLoss(self.policy, crossq_critic_loss), ActorLoss(self.policy, least_value)
        return OffPolicyUpdate(self.policy, *losses, joint=True)


class PPOERA(RolloutTrainingMixin, PPO):
    """PPO whose policy has an entropy floor in every state.

    H[pi(.|s)] >= H0 by the policy's head. A Box action space takes a truncated normal on actions
    normalised to [-1, 1], with a log_std that depends on the state; Discrete, MultiDiscrete and
    MultiBinary take categoricals. Drop-in for ``stable_baselines3.PPO``, with its loss.

    The exact floor bounds the density of the policy, p(a|s) <= exp(D / 2 - H0), and with it the
    importance ratio of the clipped objective.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class derived from theirs.
        env: Environment or its id.
        *args: PPO's arguments by position.
        compile: Whether the policy's ``forward`` in rollouts and the gradients of its loss run under
            torch.compile, which takes tens of seconds at their first calls: True, False, or "auto"
            where it pays, by what trainings of the same kind took on this machine, else where they are
            called 50,000 times and more, once a step of the (vectorised) environment and once a
            minibatch; the logger says which it is. Equal to the eager ones up to rounding. Without a
            C++ compiler, or where compilation fails, it warns and runs eagerly.
        use_sde: Must be False.
        **kwargs: The fields of :class:`~era_rl.core.OnPolicyOptions`, by name: for a Box
            ``target_entropy``, ``nats_per_dim``, ``floor``, ``slack``, ``min_entropy_per_dim``,
            ``delta``, ``log_std_min``, ``log_std_max``, ``distribution`` ("normal" is unbounded, and
            SB3 clips its actions) and ``deterministic_action``; for discrete actions
            ``target_entropy`` or ``target_entropy_fraction``; these and ``nats_per_dim`` may be
            functions of the remaining progress, as ``learning_rate`` may. And PPO's arguments:
            ``ent_coef`` is 0 by default and may be set, the paper's PPO runs kept a bonus of 0.01
            besides the floor.

    Raises:
        ValueError: For an infeasible floor, an action space without a head, ``use_sde``, or arguments
            that exclude each other; the message names the argument, its value and the allowed range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ERAActorCriticPolicy,
        "CnnPolicy": ERAActorCriticCnnPolicy,
        "MultiInputPolicy": ERAMultiInputActorCriticPolicy,
    }

    def _objective(self) -> Objective:
        return Objective(
            clips=True,
            clips_values=self.clip_range_vf is not None,
            normalises=self.normalize_advantage,
            rewards_entropy=self.ent_coef != 0.0,
        )

    def _record_figures(self, seen: list[list[Tensor]], weights: Weights) -> None:
        super()._record_figures(seen, weights)
        self.logger.record("train/clip_range", weights.clip_range.item())
        if self.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", weights.clip_range_vf.item())


class A2CERA(RolloutTrainingMixin, A2C):
    """A2C whose policy has an entropy floor in every state: see :class:`PPOERA` for its arguments.

    Drop-in for ``stable_baselines3.A2C``, with its loss.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = PPOERA.policy_aliases
    figures: ClassVar[dict[str, str]] = {
        "entropy_loss": "entropy_loss",
        "policy_gradient_loss": "policy_loss",
        "value_loss": "value_loss",
    }

    def _objective(self) -> Objective:
        return Objective(
            clips=False,
            clips_values=False,
            normalises=self.normalize_advantage,
            rewards_entropy=self.ent_coef != 0.0,
        )


class RecurrentPPOERA(OnPolicyERAMixin, RecurrentPPO):
    """PPO with a recurrent policy, which has an entropy floor at every state of its memory.

    H[pi(.|s, h)] >= H0 for every observation s and state h of the LSTM. Drop-in for
    ``sb3_contrib.RecurrentPPO``, whose training loop it runs.

    Args:
        policy: "MlpLstmPolicy", "CnnLstmPolicy", "MultiInputLstmPolicy" or a policy class derived from
            theirs.
        env: Environment or its id.
        *args: RecurrentPPO's arguments by position.
        **kwargs: As of :class:`PPOERA`, but for ``compile``, and RecurrentPPO's arguments.

    Raises:
        ValueError: As :class:`PPOERA`.
        TypeError: For ``compile``: the host's passes branch on where episodes begin.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpLstmPolicy": ERARecurrentPolicy,
        "CnnLstmPolicy": ERARecurrentCnnPolicy,
        "MultiInputLstmPolicy": ERARecurrentMultiInputPolicy,
    }

    def _entropy_of(self, data: Any) -> Tensor:
        entropy = self._entropy(data.observations, data.lstm_states.pi, data.episode_starts)
        return entropy[data.mask > 1e-8]  # what pads sequences to one length is none of it


class MaskablePPOERA(RolloutMixin, MaskablePPO):  # pyright: ignore[reportIncompatibleVariableOverride]
    """PPO with invalid action masking and an entropy floor on the actions that the mask leaves.

    H[pi(.|s)] >= f sum_i ln m_i(s), with m_i(s) >= 1 the number of valid actions of component i: the
    floor is met after masking, masked actions keep probability zero, and where one action is valid
    it is taken; where none is, all are as likely, as in the host. Drop-in for
    ``sb3_contrib.MaskablePPO``, whose training loop it runs.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class derived from theirs.
        env: Environment with ``action_masks``; its action space is discrete.
        *args: MaskablePPO's arguments by position.
        **kwargs: ``target_entropy_fraction``, f in [0, 1), or ``target_entropy`` = f sum_i ln n_i, and
            MaskablePPO's arguments; ``ent_coef`` is 0 by default and may be set.

    Raises:
        ValueError: For a fraction outside [0, 1), an action space without a head, or ``use_sde``.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ERAMaskablePolicy,
        "CnnPolicy": ERAMaskableCnnPolicy,
        "MultiInputPolicy": ERAMaskableMultiInputPolicy,
    }
