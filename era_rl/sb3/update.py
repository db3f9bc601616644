"""What trains the off-policy algorithms: steps along gradients, eager, compiled or captured."""

import math
import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.torch_layers import BatchRenorm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples, TrainFrequencyUnit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from era_rl.core.compiling import graphed
from era_rl.core.feasibility import check_count, check_flag
from era_rl.sb3 import payoff
from era_rl.sb3.base import NO_ENTROPY_TERM, refuse_sde
from era_rl.sb3.buffers import DeviceReplayBuffer
from era_rl.sb3.compiling import CompilingMixin, Update
from era_rl.sb3.finite import refuse_nonfinite
from era_rl.sb3.gradients import GradientStep, Transitions
from era_rl.sb3.learned_delta import LearnedDeltaMixin
from era_rl.sb3.metrics import TrainingMetrics
from era_rl.sb3.simba import ObservingMixin


class OffPolicyUpdate(Update):
    """Steps of the critics and of the actor along their gradients.

    Args:
        policy: An off-policy policy of this package.
        critic_loss: The critics' loss, of a batch and noise.
        actor_loss: The actor's, of observations and noise.
        joint: Whether the critics take states and next states in one pass (CrossQ's). Then batch
            statistics are those of all critics in their loss and of the actor in its, running ones
            otherwise, and the actor's noise is drawn last.
    """

    def __init__(
        self, policy: Any, critic_loss: nn.Module, actor_loss: nn.Module, joint: bool = False
    ) -> None:
        super().__init__(policy)
        self.joint = joint
        actor, critic = policy.actor, policy.critic
        target = getattr(policy, "critic_target", None)
        self.critic = GradientStep(
            critic_loss,
            critic.optimizer,
            [*_modes(actor, False), *_modes(critic, True), *_modes(target, True)] if joint else [],
            "the critics",
        )
        self.actor = GradientStep(
            actor_loss,
            actor.optimizer,
            [*_modes(actor, True), *_modes(critic, False)] if joint else [],
            "the actor",
        )
        self._online, self._targets, self._statistics = [], [], []
        if target is not None:
            self._online, self._targets = list(critic.parameters()), list(target.parameters())
            self._statistics = list(zip(_running(target), _running(critic), strict=True))
        self._steps: dict[bool, Callable[..., Any]] = {True: self._both, False: self._critics}
        self._rates: list[tuple[dict[str, Any], Tensor]] = []
        for group in self._groups():
            if "capturable" in group:  # True, if it was captured when it was saved
                group["capturable"] = False

    def compile(self) -> None:
        """Have gradients and acting compiled, and the steps captured on CUDA, at the first calls."""
        self.critic.compile()
        self.actor.compile()
        super().compile()
        if self.policy.device.type == "cuda":
            self.capture(self.policy.device)

    def capture(self, device: torch.device) -> None:
        """Have gradients and optimizer steps run as one CUDA graph."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                if "capturable" in group:
                    group["capturable"] = True
                    for state in optimizer.state.values():  # unless fused, it counts on the CPU
                        state["step"] = state["step"].to(device)
                self._rates.append((group, torch.tensor(float(group["lr"]), device=device)))
        steps = self._steps.items()
        self._steps = {key: graphed(step, "an update", device) for key, step in steps}

    def follow_rates(self) -> None:
        """Take over the learning rates set in the optimizers.

        A captured step reads a rate where it was at the capture, not what is in the group now.
        """
        for group, rate in self._rates:
            group["lr"] = rate.fill_(group["lr"])

    def step(self, data: Transitions, with_actor: bool) -> tuple[Tensor, ...]:
        """Step the critics, and the actor; return the losses in this order.

        After the actor's come the price of the floor, dL/dH0, and loc and log_std, or logits.
        """
        size = len(data.actions)
        noise = self.policy.actor.draw_noise((1 + with_actor) * size).split(size)
        return self._steps[with_actor](data, *(noise if self.joint else reversed(noise)))

    def _critics(self, data: Transitions, next_noise: Tensor) -> tuple[Tensor, ...]:
        return (self.critic(data, next_noise)[0],)

    def _both(self, data: Transitions, next_noise: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        critic_loss, *_ = self.critic(data, next_noise)
        actor_loss, params, prices = self.actor(data.obs, noise)
        # there is none where the actor is frozen or has another head
        price = next((each for each in prices if each is not None), actor_loss * torch.nan)
        return critic_loss, actor_loss, price.to(actor_loss.dtype), *params

    def move_targets(self, tau: float) -> None:
        """Move the target critics to the critics by a share of the way, running statistics whole."""
        if self._targets:
            get_ema_multi_avg_fn(1.0 - tau)(self._targets, self._online, 0)
        for target, statistic in self._statistics:
            target.copy_(statistic)

    def _groups(self) -> Iterator[dict[str, Any]]:
        return (group for optimizer in self.optimizers for group in optimizer.param_groups)


def _modes(network: nn.Module | None, training: bool) -> list[tuple[nn.Module, bool]]:
    """Return a network's layers with batch statistics, each with a mode."""
    modules = () if network is None else network.modules()
    return [(m, training) for m in modules if isinstance(m, BatchRenorm | _BatchNorm)]


def _running(network: nn.Module) -> list[Tensor]:
    """Return a network's running statistics that SB3's hosts copy to the target network."""
    return [buffer for name, buffer in network.named_buffers() if "running_" in name]


def trains(model: Any, total_timesteps: int) -> bool:
    """Return whether an off-policy model of no steps gets beyond ``learning_starts``, or may.

    Where rollouts are of episodes nothing tells how many steps they have.
    """
    if model.train_freq.unit == TrainFrequencyUnit.EPISODE:
        return True
    rollout = model.train_freq.frequency * model.n_envs
    return math.ceil(total_timesteps / rollout) * rollout > model.learning_starts


class OffPolicyERAMixin(ObservingMixin, LearnedDeltaMixin):
    """What is an argument of an off-policy algorithm beside the options."""

    def __init__(
        self,
        *args: Any,
        layer_norm: bool = False,
        ent_coef: float | str = 0.0,
        use_sde: bool = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(ent_coef, str) and ent_coef.startswith("auto"):
            warnings.warn(f"ent_coef={ent_coef!r} has no effect: {NO_ENTROPY_TERM}", stacklevel=3)
        elif ent_coef != 0:
            raise ValueError(f"ent_coef={ent_coef!r} must be 0: {NO_ENTROPY_TERM}")
        refuse_sde(use_sde)
        check_flag("layer_norm", layer_norm)
        self._layer_norm = layer_norm
        super().__init__(*args, **{**kwargs, "ent_coef": 0.0})

    def _setup_model(self) -> None:
        if vars(self).pop("_layer_norm", False):
            self.policy_kwargs = {**self.policy_kwargs, "layer_norm": True}
        super()._setup_model()

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a step in the replay buffer (SB3's hook); FloatingPointError where it is not finite."""
        refuse_nonfinite(self.num_timesteps, observations=new_obs, rewards=reward)
        for index in np.asarray(dones).nonzero()[0]:  # new_obs is that of the next episode there
            last = infos[index].get("terminal_observation", {})
            refuse_nonfinite(self.num_timesteps, observations=last)
        super()._store_transition(  # type: ignore[misc]
            replay_buffer, buffer_action, new_obs, reward, dones, infos
        )


class ReplayTrainingMixin(CompilingMixin, OffPolicyERAMixin):
    """Trains an off-policy algorithm by :class:`OffPolicyUpdate`, in the place of the host's loop."""

    actor: Any
    policy_delay: int = 1
    target_update_interval: int = 1
    gradient_steps: int
    n_steps: int
    tau: float

    def _setup_model(self) -> None:
        buffer_class = self.replay_buffer_class  # type: ignore[attr-defined]
        if self.n_steps > 1 and issubclass(buffer_class or ReplayBuffer, DeviceReplayBuffer):
            raise ValueError(
                f"n_steps={self.n_steps} must be 1 with DeviceReplayBuffer, which has no n-step returns"
            )
        super()._setup_model()
        self._check_batch_size()
        self.metrics = TrainingMetrics()

    def _check_batch_size(self) -> None:
        size: int = self.batch_size  # type: ignore[attr-defined]
        kinds = BatchRenorm | nn.BatchNorm1d
        check_count("batch_size", size)
        if size < 2 and any(isinstance(module, kinds) for module in self.policy.modules()):
            raise ValueError(
                f"batch_size={size} must be at least 2: the networks normalise by the batch's variance"
            )

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: Any = None,
        reset_num_timesteps: bool = True,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        # without a reset, the steps of several calls add up
        if reset_num_timesteps and not trains(self, total_timesteps):
            warnings.warn(
                f"learning_starts={self.learning_starts} is not below total_timesteps="  # type: ignore[attr-defined]
                f"{total_timesteps}: actions are random until then, and nothing is trained",
                stacklevel=3,
            )
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, *args, **kwargs)

    def _planned_calls(self, total_timesteps: int) -> int:
        if self.gradient_steps < 0:
            return total_timesteps
        train_freq: Any = self.train_freq  # type: ignore[attr-defined]
        if train_freq.unit == TrainFrequencyUnit.EPISODE:
            return 0
        return total_timesteps // (train_freq.frequency * self.n_envs) * self.gradient_steps

    def _least_calls(self) -> int:
        return payoff.MIN_UPDATES_TO_COMPILE

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Take gradient steps on batches of the replay buffer (SB3's hook)."""
        with self.payoff.timing(gradient_steps):
            self._train(gradient_steps, batch_size)

    def _train(self, gradient_steps: int, batch_size: int) -> None:
        update: OffPolicyUpdate = self._bound_update()
        self.policy.set_training_mode(True)
        self._update_learning_rate(update.optimizers)
        update.follow_rates()
        seen, losses = [], []
        for step in range(gradient_steps):
            self._n_updates += 1
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)  # type: ignore[attr-defined]
            data = self._transitions(batch)
            results = update.step(data, self._n_updates % self.policy_delay == 0)
            self.metrics.add(*results)
            if step % self.target_update_interval == 0:
                update.move_targets(self.tau)
            seen.append(data.obs)
            losses.append(results[:2])
        for obs in seen if self.learn_delta else ():
            self._update_delta(self._entropy(obs))
        # batch statistics are for updates: what a callback or script asks next is of the learned ones
        self.policy.set_training_mode(False)
        if self.device.type == "cpu":  # a look at another device would wait for it
            self._record_losses(losses)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _record_losses(self, losses: list[tuple[Tensor, ...]]) -> None:
        """Log the mean losses of critics and actor, as the hosts do after each round of updates."""
        for index, name in enumerate(("critic_loss", "actor_loss")):
            values = [step[index].item() for step in losses if len(step) > index]
            if values:
                self.logger.record(f"train/{name}", statistics.fmean(values))

    def _transitions(self, data: ReplayBufferSamples) -> Transitions:
        rewards = data.rewards
        # a tensor, since a compiled function takes a number for a constant
        discounts = rewards.new_full((), self.gamma) if data.discounts is None else data.discounts  # type: ignore[attr-defined]
        obs, next_obs = _as_float32(data.observations), _as_float32(data.next_observations)
        return Transitions(obs, data.actions, next_obs, rewards, data.dones, discounts)

    def _return_scale(self) -> float:
        """Return what a unit of the critics' values is in returns."""
        return 1.0

    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Log what training gathered since the last time (SB3's hook), reading the device once."""
        for name, value in self.metrics.flush(self.actor).items():
            scale = self._return_scale() if name == "entropy_price" else 1.0
            self.logger.record(f"train/{name}", scale * value)
        super().dump_logs(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "metrics"]


def _as_float32(obs: Any) -> Any:
    """Cast float64 observations once, instead of in every network that reads them."""
    return obs.float() if isinstance(obs, Tensor) and obs.dtype == torch.float64 else obs
