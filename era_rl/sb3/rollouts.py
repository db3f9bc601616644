"""What the on-policy algorithms share: what they refuse, and the training of PPOERA and A2CERA."""

import math
from collections.abc import Callable
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from era_rl.core import OnPolicyOptions
from era_rl.core.head import as_number
from era_rl.sb3.base import ERAMixin, refuse_sde
from era_rl.sb3.compiling import CompilingMixin
from era_rl.sb3.finite import (
    refuse_lost,
    refuse_lost_networks,
    refuse_lost_outputs,
    refuse_nonfinite,
)
from era_rl.sb3.gradients import slopes_by
from era_rl.sb3.learned_delta import LearnedDeltaMixin
from era_rl.sb3.metrics import std_figures
from era_rl.sb3.on_policy import FIGURES, KL, Objective, OnPolicyUpdate, Weights


class _CheckedSteps:
    """Environments whose actions are checked before each step, by what raises an error."""

    def __init__(self, env: Any, check: Callable[[Any], None]) -> None:
        self._env, self._check = env, check

    def step(self, actions: Any) -> Any:
        self._check(actions)
        return self._env.step(actions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)


class RolloutMixin(ERAMixin, OnPolicyAlgorithm):
    """What every on-policy algorithm refuses: some arguments, and to train on what is not finite."""

    options_class = OnPolicyOptions

    def __init__(self, *args: Any, use_sde: bool = False, **kwargs: Any) -> None:
        refuse_sde(use_sde)
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        as_number("ent_coef", self.ent_coef, "a number: only SAC's kin tune it")
        super()._setup_model()
        self._refuse_minibatches_of_one()

    def _refuse_minibatches_of_one(self) -> None:
        """Raise ValueError where the host would divide an advantage by the std of it alone, NaN."""
        steps, batch_size = self.n_steps * self.n_envs, getattr(self, "batch_size", None)
        if not (batch_size and getattr(self, "normalize_advantage", False)):
            return
        if batch_size == 1 or steps % batch_size == 1:
            raise ValueError(
                f"batch_size={batch_size} must leave no minibatch of one of the {steps} steps of a "
                "rollout, as advantages are divided by their std: take a divisor of it, 2 or more, or "
                "normalize_advantage=False"
            )

    def collect_rollouts(self, env: Any, *args: Any, **kwargs: Any) -> bool:
        """Collect a rollout (SB3's hook); FloatingPointError before an action that is not finite."""
        if isinstance(self.action_space, spaces.Box):
            env = _CheckedSteps(env, lambda taken: self._check(self._last_obs, "actions", taken))
        try:
            return super().collect_rollouts(env, *args, **kwargs)
        except (ValueError, RuntimeError):  # torch's, of logits, do not say why
            refuse_lost(self.policy, self.num_timesteps, self._last_obs)
            raise

    def _check(self, observation: Any, name: str, outputs: np.ndarray) -> None:
        """Raise FloatingPointError where the policy's outputs at an observation are not finite."""
        refuse_lost_outputs(self.policy, self.num_timesteps, observation, name, outputs)

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
        self._check(buffer.observations, "values", buffer.values)
        refuse_nonfinite(
            self.num_timesteps, observations=buffer.observations, rewards=buffer.rewards
        )
        try:
            slopes = self._train_policy()
        finally:  # torch's error for a distribution that is not finite does not say why
            policy = self.era_policy
            refuse_lost_networks(policy, self.num_timesteps, policy.watched_state)
        self.policy.set_training_mode(False)  # what a callback or script asks next is after updates
        self._log_price(slopes[: self._minibatches])

    def _train_policy(self) -> list[Tensor]:
        """Train on the rollout, whatever is in it; return the loss's slopes by H0, in order."""
        with slopes_by(self.era_policy.head._target_entropy) as slopes:
            super().train()
        return slopes

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


class OnPolicyERAMixin(LearnedDeltaMixin, RolloutMixin):  # pyright: ignore[reportIncompatibleVariableOverride]
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


class RolloutTrainingMixin(CompilingMixin, OnPolicyERAMixin):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Trains an on-policy algorithm by :class:`OnPolicyUpdate`, in the place of the host's loop."""

    figures: ClassVar[dict[str, str]] = {name: name for name in FIGURES}
    """Under which names the figures of minibatches are logged."""

    def _planned_calls(self, total_timesteps: int) -> int:
        rollouts = math.ceil(total_timesteps / (self.n_steps * self.n_envs))
        return rollouts * (self.n_steps + getattr(self, "n_epochs", 1) * self._minibatches)

    def _refuse_minibatches_of_one(self) -> None:
        """Refuse none: the loss leaves an advantage alone as it is."""

    def _objective(self) -> Objective:
        """Return the loss."""
        raise NotImplementedError

    def _make_update(self) -> OnPolicyUpdate:
        return OnPolicyUpdate(self.policy, self._objective())

    def _is_bound(self) -> bool:
        return super()._is_bound() and self._update.objective == self._objective()

    def _weights(self, update: OnPolicyUpdate) -> Weights:
        clips = (getattr(self, name, None) for name in ("clip_range", "clip_range_vf"))
        remaining = self._current_progress_remaining
        numbers = [math.inf if clip is None else clip(remaining) for clip in clips]
        numbers += [self.ent_coef, self.vf_coef, self.max_grad_norm]
        return update.weights(*numbers)

    def _train_policy(self) -> list[Tensor]:
        with self.payoff.timing(self._planned_calls(1)):
            update = self._bound_update()
            self.policy.set_training_mode(True)
            self._update_learning_rate(self.policy.optimizer)
            weights, slopes = self._weights(update), []
            seen: list[list[Tensor]] = []
            for _ in range(getattr(self, "n_epochs", 1)):
                figures, near = self._epoch(update, weights, slopes)
                seen.append(figures)
                self._n_updates += 1
                if not near:
                    self.logger.info(f"target_kl is exceeded in epoch {len(seen)}")
                    break
            self._record_figures(seen, weights)
        return slopes

    def _epoch(
        self, update: OnPolicyUpdate, weights: Weights, slopes: list[Tensor]
    ) -> tuple[list[Tensor], bool]:
        """Take steps on all minibatches, and add slopes; return figures, and if KL was near enough."""
        figures, trained = [], len(update.step.parameters)
        target_kl = getattr(self, "target_kl", None)
        for data in self.rollout_buffer.get(getattr(self, "batch_size", None)):
            if isinstance(self.action_space, spaces.Discrete):
                data = data._replace(actions=data.actions.long().flatten())
            gradients, _, found = update.step.look(data, weights)
            figures.append(found)
            slopes += [each for each in gradients[trained:] if each is not None]
            if target_kl is not None and found[KL].item() > 1.5 * target_kl:
                return figures, False
            update.step.descend(gradients)
        return figures, True

    def _record_figures(self, seen: list[list[Tensor]], weights: Weights) -> None:
        """Log means over minibatches, of the KL over the last epoch's, and the last loss."""
        rows = torch.stack([figures for epoch in seen for figures in epoch]).tolist()
        means = dict(zip(FIGURES, map(fmean, zip(*rows, strict=True)), strict=True))
        means["approx_kl"] = fmean(row[KL] for row in rows[-len(seen[-1]) :])
        means["loss"] = rows[-1][-1]
        buffer, record = self.rollout_buffer, self.logger.record
        for name, logged in self.figures.items():
            record(f"train/{logged}", means[name])
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        record("train/explained_variance", explained)
        record("train/n_updates", self._n_updates, exclude="tensorboard")

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
