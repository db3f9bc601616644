"""The ERA algorithms whose training loops are the host's: only policy and arguments differ."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from torch import Tensor

from era_rl.core import OnPolicyOptions
from era_rl.core.head import as_number
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
from era_rl.sb3.base import (
    ERAMixin,
    refuse_nonfinite,
    refuse_sde,
)
from era_rl.sb3.gradients import (
    ActorLoss,
    CriticLoss,
    crossq_critic_loss,
    least_value,
    mean_quantile,
    slopes_by,
    tqc_critic_loss,
)
from era_rl.sb3.learned_delta import LearnedDeltaMixin
from era_rl.sb3.metrics import std_figures
from era_rl.sb3.policies import (
    CrossQERAPolicy,
    TQCERACnnPolicy,
    TQCERAMultiInputPolicy,
    TQCERAPolicy,
)
from era_rl.sb3.simba import TQCERASimbaMultiInputPolicy, TQCERASimbaPolicy
from era_rl.sb3.update import CompilingMixin, OffPolicyUpdate, ReplayTrainingMixin, Update


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
                "layer_norm=True must be False: CrossQ's critics are batch-renormalised"
            )
        super().__init__(policy, env, *args, **kwargs)

    def _make_update(self) -> Update:
        losses = CriticLoss(self.policy, crossq_critic_loss), ActorLoss(self.policy, least_value)
        return OffPolicyUpdate(self.policy, *losses, joint=True)


class _CheckedSteps:
    """Environments whose actions are checked before each step.

    Args:
        env: The environments.
        check: Raises an error for actions that they are not to take.
    """

    def __init__(self, env: Any, check: Callable[[Any], None]) -> None:
        self._env, self._check = env, check

    def step(self, actions: Any) -> Any:
        self._check(actions)
        return self._env.step(actions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class _RolloutMixin(ERAMixin, OnPolicyAlgorithm):
    """What every on-policy algorithm refuses: some arguments, and to train on what is not finite."""

    options_class = OnPolicyOptions

    def __init__(self, *args: Any, use_sde: bool = False, **kwargs: Any) -> None:
        refuse_sde(use_sde)
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        as_number("ent_coef", self.ent_coef, "a number: only SAC's kin tune it")
        super()._setup_model()

    def collect_rollouts(self, env: Any, *args: Any, **kwargs: Any) -> bool:
        """Collect a rollout (SB3's hook); FloatingPointError before an action that is not finite."""
        if isinstance(self.action_space, spaces.Box):
            env = _CheckedSteps(
                env, lambda taken: self._refuse_lost_outputs("actions", taken, self._last_obs)
            )
        try:
            return super().collect_rollouts(env, *args, **kwargs)
        except (ValueError, RuntimeError):  # torch's, of logits, do not say why
            self._refuse_lost(self._last_obs)
            raise

    def train(self) -> None:
        """Train as the host does, and log the price of the floor, ``train/entropy_price``.

        It is dL/dH0 of the host's loss over the first pass through the rollout, where the ratios are
        about 1: -E[A(s, a) dln pi(a|s)/dH0], which estimates -dE[A]/dH0 by the actions taken. Where
        the host normalises advantages, it is times their std, so that it is in return per nat.

        Raises:
            FloatingPointError: If an observation or a reward of the rollout is not finite, or
                afterwards a parameter or a running statistic.
        """
        buffer = self.rollout_buffer
        # at time limits the host adds values to rewards, which would be blamed
        self._refuse_lost_outputs("values", buffer.values, buffer.observations)
        refuse_nonfinite(
            self.num_timesteps, observations=buffer.observations, rewards=buffer.rewards
        )
        try:
            with slopes_by(self.era_policy.head._target_entropy) as slopes:
                super().train()
        finally:  # torch's error for a distribution that is not finite does not say why
            self._refuse_lost_networks()
        self._log_price(slopes[: self._minibatches])

    @property
    def _minibatches(self) -> int:
        """How many minibatches a rollout has."""
        size = self.n_steps * self.n_envs
        return math.ceil(size / getattr(self, "batch_size", size))

    def _log_price(self, slopes: list[Tensor]) -> None:
        """Log the mean slope of the loss by the floor; none are there where nothing depends on it."""
        if slopes:
            normalised = getattr(self, "normalize_advantage", False)
            scale = float(self.rollout_buffer.advantages.std()) if normalised else 1.0
            price = scale * torch.stack(slopes).mean().item()
            self.logger.record_mean("train/entropy_price", price)


class _OnPolicyERAMixin(LearnedDeltaMixin, _RolloutMixin):  # pyright: ignore[reportIncompatibleVariableOverride]
    """What the algorithms without masks have besides: a learned delta."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "squash" in kwargs:
            raise TypeError(f"squash={kwargs['squash']} is distribution='normal' now, if False")
        super().__init__(*args, **kwargs)

    def _maybe_recommend_cpu(self, mlp_class_name: str = "ERAActorCriticPolicy") -> None:
        super()._maybe_recommend_cpu(mlp_class_name)

    def train(self) -> None:
        """Train as the host does, then delta, on minibatches of the same rollout."""
        super().train()
        if self.learn_delta:
            batch_size = getattr(self, "batch_size", None)
            for data in self.rollout_buffer.get(batch_size):
                self._update_delta(self._entropy_of(data))

    def _entropy_of(self, data: Any) -> Tensor:
        """Return the entropies at a minibatch of the rollout."""
        return self._entropy(data.observations)


class _CompilingOnPolicyMixin(CompilingMixin, _OnPolicyERAMixin):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Compiles the policy in long trainings."""

    def _planned_calls(self, total_timesteps: int) -> int:
        rollouts = math.ceil(total_timesteps / (self.n_steps * self.n_envs))
        return rollouts * (self.n_steps + getattr(self, "n_epochs", 1) * self._minibatches)

    def train(self) -> None:
        """Train as the host does, the policy compiled where it is asked for."""
        if self._compiled:
            self._bound_update()
        super().train()

    @torch.no_grad()
    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Log the std on some states of the last rollout besides (SB3's hook)."""
        policy = self.era_policy
        if self._n_updates > 0 and hasattr(policy.head, "unit_log_std"):
            policy.set_training_mode(False)
            params = policy.dist_params(policy.raw_params(_some_states(self.rollout_buffer)))
            log_std = policy.head.unit_log_std(params)
            for name, value in std_figures(log_std, policy.head.log_std_min).items():
                self.logger.record(f"train/{name}", value.item())
        super().dump_logs(*args, **kwargs)


def _some_states(buffer: RolloutBuffer, number: int = 256) -> Any:
    """Return about so many states of a rollout, or all, as the policy takes them."""

    def some(stored: np.ndarray) -> torch.Tensor:
        flat = stored if buffer.generator_ready else buffer.swap_and_flatten(stored)
        return buffer.to_torch(flat[:: max(1, len(flat) // number)])

    stored = buffer.observations
    return {k: some(v) for k, v in stored.items()} if isinstance(stored, dict) else some(stored)


class PPOERA(_CompilingOnPolicyMixin, PPO):
    """PPO whose policy has an entropy floor in every state.

    H[pi(.|s)] >= H0 by the policy's head. A Box action space takes a truncated normal on actions
    normalised to [-1, 1], with a log_std that depends on the state; Discrete, MultiDiscrete and
    MultiBinary take categoricals. Drop-in for ``stable_baselines3.PPO``, whose training loop it runs.

    The exact floor bounds the density of the policy, p(a|s) <= exp(D / 2 - H0), and with it the
    importance ratio of the clipped objective.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class derived from theirs.
        env: Environment or its id.
        *args: PPO's arguments by position.
        compile: Whether the policy's ``forward`` and ``evaluate_actions`` run under torch.compile,
            which takes tens of seconds at their first calls: True, False, or "auto" where training
            calls them 50,000 times and more, once a step of the (vectorised) environment and once a
            minibatch; the logger says which it is. Equal to the eager ones up to rounding.
            Without a C++ compiler, or where compilation fails, it warns and runs eagerly.
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


class A2CERA(_CompilingOnPolicyMixin, A2C):
    """A2C whose policy has an entropy floor in every state: see :class:`PPOERA` for its arguments.

    Drop-in for ``stable_baselines3.A2C``, whose training loop it runs.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = PPOERA.policy_aliases


class RecurrentPPOERA(_OnPolicyERAMixin, RecurrentPPO):
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


class MaskablePPOERA(_RolloutMixin, MaskablePPO):  # pyright: ignore[reportIncompatibleVariableOverride]
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
