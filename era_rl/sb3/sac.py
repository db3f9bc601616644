"""SACERA: Soft Actor-Critic with a guaranteed policy entropy and no entropy term in its losses."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import (
    ReplayBufferSamples,
    TrainFreq,
    TrainFrequencyUnit,
)
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from stable_baselines3.sac.sac import SAC
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from era_rl.core.compiling import graphed
from era_rl.sb3.base import CompilingMixin, OffPolicyERAMixin
from era_rl.sb3.gradients import SACGradients, Transitions
from era_rl.sb3.metrics import TrainingMetrics
from era_rl.sb3.overlap import LearnWhileStepping
from era_rl.sb3.policies import (
    SACERAActor,
    SACERACnnPolicy,
    SACERAMultiInputPolicy,
    SACERAPolicy,
)


class SACERA(  # pyright: ignore[reportIncompatibleVariableOverride]
    CompilingMixin, OffPolicyERAMixin, SAC
):
    """SAC in which the policy's entropy is held by the actor's head, not by the losses.

    pi(.|s) has H[pi(.|s)] >= H0 for every state, so the critic target is
    r + gamma min_j Q_j(s', a') and the actor maximises min_j Q_j(s, a), with no entropy term in
    either. Drop-in for ``stable_baselines3.SAC``: every other argument, and ``save``, ``load``,
    ``predict`` and callbacks, are SB3's. Losses and entropies stay on the device until logs are
    written: ``train/*`` is in the logger then, not after every update.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class derived from theirs.
        env: Environment or its id; the action space must be a bounded Box.
        *args: SB3's SAC arguments by position.
        target_entropy: H0 in nats over all action dimensions, for actions normalised to [-1, 1];
            "auto" = -0.5 action_dim (not SB3's -action_dim).
        floor: "exact" holds the policy's own entropy in every state; "gaussian" is the paper's
            Eq. 11, which holds that of the normal before truncation.
        delta: Compensation in nats for "gaussian", or "auto" to learn it: then the floor holds in
            expectation only.
        log_std_min: Lower bound of log_std.
        log_std_max: Upper bound of log_std, for "gaussian".
        slack: For "exact", the share of the entropy budget left unspent at the start, in (0, 1);
            None pins the entropy at the floor wherever log_std_min does not lift it.
        distribution: "truncated" (normal truncated to [-1, 1]) or "tanh" (squashed normal, with
            floor="gaussian" only: its floor is not per state).
        deterministic_action: What ``predict(deterministic=True)``, and so evaluations, return: "mode",
            tanh of the network's output, or "mean" ("truncated" only), which lies inside of it near
            a bound, where the policy's noise has only one side. ``load`` takes it too.
        layer_norm: Whether the critics have a LayerNorm after each hidden layer.
        compile: Whether the gradients of an update, and the sampling of actions, run under
            torch.compile, which takes tens of seconds at the first step: True, False, or "auto" for
            runs of at least 50,000 updates (unless ``train_freq`` counts episodes and
            ``gradient_steps`` is fixed: their number is unknown then). On CUDA gradients and
            optimizer steps become one CUDA graph besides. Equal to the eager update up to rounding;
            the head's ``target_entropy`` must stay then. Without a C++ compiler, or where compilation
            fails, it warns and runs eagerly.
        overlap: Whether the gradient steps after a step of the environments are taken within their
            next one, so that they run beside a ``SubprocVecEnv``, and CUDA beside any environment. The
            updates are as many and of the same data, but the policy that acts is that of before
            the last of them. Not with a ``HerReplayBuffer``.
        ent_coef: Must be 0: there is no entropy term.
        use_sde: Must be False.
        policy_kwargs: As in SB3.
        **kwargs: SB3's SAC arguments (``tau`` is its Polyak coefficient, not softmax_era's).

    Raises:
        ValueError: For an infeasible floor, a non-zero ``ent_coef``, ``use_sde``, or arguments that
            exclude each other; the message names the argument, its value and the allowed range.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": SACERAPolicy,
        "CnnPolicy": SACERACnnPolicy,
        "MultiInputPolicy": SACERAMultiInputPolicy,
    }
    actor: SACERAActor  # pyright: ignore[reportIncompatibleVariableOverride]
    _stepping: LearnWhileStepping | None = None

    def __init__(self, *args: Any, overlap: bool = False, **kwargs: Any) -> None:
        self.overlap = overlap
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.metrics = TrainingMetrics()
        if self.overlap and isinstance(self.replay_buffer, HerReplayBuffer):
            raise ValueError(
                "overlap=True must be False with a HerReplayBuffer, which asks the environments for "
                "rewards: they are within a step then"
            )

    def _create_aliases(self) -> None:
        """Take hold of the networks (SB3's hook, called again by who replaces them)."""
        super()._create_aliases()
        self._bind()

    def _bind(self) -> None:
        """Take hold of networks and optimizers as they are, for what is compiled or captured too."""
        self._gradients = SACGradients(self.policy)
        self._update_parameters: Callable[..., tuple[Tensor, ...]] = self._plain_update
        self._captured_rates: list[tuple[dict[str, Any], Tensor]] = []
        self._critic_params: list[Tensor] = list(self.critic.parameters())
        self._target_params: list[Tensor] = list(self.critic_target.parameters())
        for optimizer in self._gradients.optimizers:
            optimizer.zero_grad()  # or a parameter frozen since would go on along its last gradient
        if self._compiled:
            self._compile()

    def _outdated(self) -> bool:
        """Return whether parameters were frozen or released, or a captured optimizer was loaded."""
        captured = [group for group, _ in self._captured_rates]
        groups = [g for optimizer in self._gradients.optimizers for g in optimizer.param_groups]
        replaced = any(a is not b for a, b in zip(captured, groups, strict=False))
        return replaced or self._gradients.outdated()

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Load parameters and the optimizers' state; arguments as SB3's."""
        super().set_parameters(*args, **kwargs)
        for optimizer in self._gradients.optimizers:
            for group in optimizer.param_groups:
                if "capturable" in group:  # True, if it was captured when it was saved
                    group["capturable"] = False

    def _compile(self) -> None:
        if not self.batch_norm_stats:  # torch.func leaves running statistics as they are
            self._gradients.compile()
        self.actor.compile_acting()
        if self.device.type == "cuda":
            self._capture()

    def _capture(self) -> None:
        """Have gradients and optimizer steps run as one CUDA graph."""
        for optimizer in self._gradients.optimizers:
            for group in optimizer.param_groups:
                if "capturable" in group:
                    group["capturable"] = True
                    for state in optimizer.state.values():  # unless fused, it counts on the CPU
                        state["step"] = state["step"].to(self.device)
                rate = torch.tensor(float(group["lr"]), device=self.device)
                self._captured_rates.append((group, rate))
        self._update_parameters = graphed(self._plain_update, "SACERA's update", self.device)

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        # a captured step reads the rate where it was at the capture, not what is in the group now
        for group, rate in self._captured_rates:
            group["lr"] = rate.fill_(group["lr"])

    def _planned_calls(self, total_timesteps: int) -> int:
        """Return how many updates there are by the end of the call, 0 where it is unknown."""
        if self.gradient_steps < 0:
            return self._n_updates + total_timesteps
        assert isinstance(self.train_freq, TrainFreq)
        if self.train_freq.unit == TrainFrequencyUnit.EPISODE:
            return 0
        rounds = total_timesteps // (self.train_freq.frequency * self.n_envs)
        return self._n_updates + rounds * self.gradient_steps

    def learn(self, *args: Any, **kwargs: Any) -> Any:
        """Train and return self; arguments as SB3's."""
        if not self.overlap or self.env is None:
            return super().learn(*args, **kwargs)
        with LearnWhileStepping(self.env) as self._stepping:
            try:
                return super().learn(*args, **kwargs)
            finally:
                self._stepping = None

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Take gradient steps on batches of the replay buffer, or have them taken (SB3's hook)."""
        if self._stepping is None:
            self._train(gradient_steps, batch_size)
        else:
            self._stepping.defer(partial(self._train, gradient_steps, batch_size))

    def _train(self, gradient_steps: int, batch_size: int) -> None:
        assert self.replay_buffer is not None
        if self._outdated():
            self._bind()
        self.policy.set_training_mode(True)
        self._update_learning_rate([self.actor.optimizer, self.critic.optimizer])
        for step in range(gradient_steps):
            self._update(self.replay_buffer.sample(batch_size, env=self._vec_normalize_env))
            if step % self.target_update_interval == 0:
                self._update_targets()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _update(self, data: ReplayBufferSamples) -> None:
        """Take one gradient step on the critics and one on the actor."""
        rewards = data.rewards
        batch = Transitions(
            _as_float32(data.observations),
            data.actions,
            _as_float32(data.next_observations),
            rewards,
            data.dones,
            # a tensor, since a compiled function takes a number for a constant
            rewards.new_full((), self.gamma) if data.discounts is None else data.discounts,
        )
        noise, next_noise = self.actor.draw_noise(2 * len(data.actions)).chunk(2)
        losses, loc, log_std = self._update_parameters(batch, noise, next_noise)
        if self.learn_delta:
            distribution = self.actor.action_dist.proba_distribution(loc, log_std)
            self._update_delta(distribution.entropy())
        self.metrics.add(losses, loc, log_std)

    def _plain_update(
        self, batch: Transitions, noise: Tensor, next_noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Take the steps; return the losses of actor and critics, (2,), loc and log_std."""
        gradients, critic_loss, _ = self._gradients.critic(batch, next_noise)
        _step(self.critic.optimizer, self._gradients.critic_parameters, gradients)
        gradients, actor_loss, (loc, log_std) = self._gradients.actor(batch.obs, noise)
        _step(self.actor.optimizer, self._gradients.actor_parameters, gradients)
        return torch.stack([actor_loss, critic_loss]), loc, log_std

    def _update_targets(self) -> None:
        get_ema_multi_avg_fn(1.0 - self.tau)(self._target_params, self._critic_params, 0)
        if self.batch_norm_stats:
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)

    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Log what training gathered since the last time (SB3's hook), reading the device once."""
        for name, value in self.metrics.flush(self.actor.action_dist).items():
            self.logger.record(f"train/{name}", value)
        super().dump_logs(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        own = ["metrics", "_gradients", "_critic_params", "_target_params"]
        own += ["_update_parameters", "_captured_rates", "_stepping"]
        return [*super()._excluded_save_params(), *own]


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


def _step(
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, Tensor],
    gradients: tuple[Tensor | None, ...],
) -> None:
    """Take an optimizer step along the gradients of the parameters."""
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def _as_float32(obs: Any) -> Any:
    """Cast float64 observations once, instead of in every network that reads them."""
    return obs.float() if isinstance(obs, Tensor) and obs.dtype == torch.float64 else obs
