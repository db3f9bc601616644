"""What the learners of all algorithms share: stacked agents, one update for all of them, its state."""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase
from torchrl.objectives import LossModule

from era_rl.core import LearnedDelta, delta_loss
from era_rl.core.compensation import DELTA_LEARNING_RATE
from era_rl.core.compiling import compiled, gradients_by_transform, graphed, set_gradients
from era_rl.networks import RunningNorm
from era_rl.torchrl.config import Config
from era_rl.torchrl.networks import make_actor, observation_dim
from era_rl.torchrl.stacked import AgentStreams, StackedPolicy, call_with, stack_losses

ACTOR = "actor_network_params"
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What torch's batch normalisation moves in a pass."""

Metrics = dict[str, Tensor]
"""By name, each (agents,); the sum of the ``loss_*`` is what is minimised."""


class Learner(ABC):
    """Independent agents with stacked parameters and optimizer states.

    An algorithm gives its loss module, its optimizers, and an agent's losses on a batch; an environment
    of the run the specs.
    """

    name: ClassVar[str]
    log_prob: ClassVar[bool]
    """Whether the actor writes the log-probability of its actions."""
    trained: ClassVar[tuple[str, ...]]
    """Names of the loss module's parameter sets that are trained."""
    kept: ClassVar[tuple[str, ...]] = ()
    """Names of those that are not."""

    def __init__(self, config: Config, env: EnvBase) -> None:
        self.config, self.device, self.steps = config, torch.device(config.device), 0
        actor = make_actor(config, env, log_prob=self.log_prob)
        # a function of parameters: its own, if trainable, would have what is compiled compiled twice
        self.actor = actor.eval().requires_grad_(False)
        self.options = config.policy_options()
        self.loss, self.params = stack_losses(
            lambda: self._make_loss(env), config.agent_seeds, self.trained, self.kept
        )
        self.optimizers = self._make_optimizers()
        self.floors = self._of_heads("_target_entropy")
        """H0 of each agent, in the head of its actor, (agents,)."""
        self._limits: LearnedDelta | None = None
        if config.delta == "auto":
            self._learn_delta()
        self.policy = StackedPolicy(self.actor, self.params[ACTOR])
        if config.normalizes:
            norm = RunningNorm(config.seeds, observation_dim(config, env))
            self.policy.normalize = norm.to(self.device)
        self.streams = AgentStreams(config.agent_seeds, self.device)
        self.observation: Tensor | None = None
        """Of the last update, (agents, n, observation_dim)."""
        named: dict[str, Tensor] = dict(self.params.flatten_keys(".").items())
        self._trained = {name: value for name, value in named.items() if value.requires_grad}
        self._moved = {n: v for n, v in named.items() if n.split(".")[-1] in _STATISTICS}
        self._gradients: Any = self._by_autograd
        self._update: Any = self._plain_update
        if config.compile:
            fast = compiled(self._by_transform, f"the {self.name} losses", self._by_autograd)
            self._gradients = torch.no_grad()(fast)
            if self.device.type == "cuda":
                self._update = graphed(self._plain_update, f"{self.name}'s update", self.device)

    @abstractmethod
    def learn(self, data: TensorDictBase) -> Metrics:
        """Update from a batch of data, shape (agents, envs, time), and return metrics (agents,)."""

    @abstractmethod
    def _make_loss(self, env: EnvBase) -> LossModule:
        """Return the loss module of one agent, its networks initialised at random."""

    @abstractmethod
    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimizers of the stacked parameters."""

    @abstractmethod
    def _agent_losses(self, batch: TensorDictBase) -> Metrics:
        """Return the metrics of one agent, scalars: their ``loss_*`` are what it minimises."""

    def begin_episodes(self) -> None:  # noqa: B027 (there may be nothing to do)
        """Take note that all environments begin new episodes."""

    def _of_heads(self, name: str) -> Tensor:
        """Return a buffer that the head of every agent has, (agents, ...)."""
        (found,) = (v for key, v in self.params[ACTOR].items(True, True) if key[-1] == name)
        return found

    def follow_schedule(self) -> None:
        """Hold the floor that the settings ask for when the next batch of data is learned from.

        Raises:
            ValueError: If the head cannot hold it.
        """
        if self.options.scheduled:
            steps = self.steps + self.config.steps_per_iteration
            (head,) = self.actor.heads
            floor = self.options.floor_at(1.0 - steps / self.config.steps, head)
            head.target_entropy = floor  # it checks it
            self.floors.fill_(floor)
            if self._limits is not None:  # delta has less room under a higher floor
                self._limits.follow(floor)
                self._write_delta()

    @torch.no_grad()
    def entropies(self) -> Metrics:
        """Return each agent's entropy on the states of the last update, mean and least, and H0.

        Each is (agents,), the policy's own in nats: over all dimensions, actions normalised to [-1, 1].
        """
        if self.observation is None:
            return {}
        entropy = torch.vmap(partial(call_with, self.loss, self._entropy))
        values = entropy(self.params, self.observation)
        own = self.actor.heads[0].holds_own_entropy
        name = "entropy_floor" if own else "gaussian_entropy_floor"
        return {"entropy": values.mean(1), "entropy_min": values.amin(1), name: self.floors}

    def _entropy(self, observation: Tensor) -> Tensor:
        """Return one agent's entropies, shape (n,)."""
        with self.loss.actor_network_params.to_module(self.actor):
            data = TensorDict({"observation": observation}, observation.shape[:1])
            return self.actor.entropy(data)

    def is_finite(self) -> bool:
        """Return whether all that acts or is trained is finite: parameters and running statistics."""
        params = self.params.items(True, True)
        # -inf is no least entropy
        values = [value for key, value in params if key[-1] != "_min_entropy_per_dim"]
        return all(v.isfinite().all() for v in (*values, *self.policy.own_state().values()))

    def _adam_kwargs(self) -> dict[str, Any]:
        # steps counted on the device
        graphs = self.config.compile and self.device.type == "cuda"
        return {"lr": self.config.lr, "fused": True, "capturable": graphs}

    def _plain_update(self, batch: TensorDictBase) -> Metrics:
        metrics = self.set_gradients(batch)
        for optimizer in self.optimizers:
            optimizer.step()
        return metrics

    def set_gradients(self, batch: TensorDictBase) -> Metrics:
        """Set the gradients of the losses of a batch, move running statistics, return the metrics."""
        gradients, metrics, statistics = self._gradients(batch)
        set_gradients(self._trained.values(), gradients)
        for statistic, value in zip(self._moved.values(), statistics, strict=False):
            statistic.copy_(value)
        return metrics

    def _by_autograd(self, batch: TensorDictBase) -> tuple[Any, Metrics, Any]:
        """Return gradients and metrics; running statistics move in place."""
        with torch.enable_grad():
            metrics = self._losses(self.params, batch)
            gradients = torch.autograd.grad(_total(metrics), list(self._trained.values()))
        return gradients, {name: value.detach() for name, value in metrics.items()}, ()

    def _by_transform(self, batch: TensorDictBase) -> tuple[Any, Metrics, Any]:
        """Return gradients, metrics and moved statistics, to be compiled."""

        def of(values: Metrics) -> tuple[Tensor, Any]:
            params = self.params.copy()
            for name, value in values.items():
                params[tuple(name.split("."))] = value
            metrics = self._losses(params, batch)
            return _total(metrics), metrics

        gradients, _, metrics, moved = gradients_by_transform(of, self._trained, self._moved)
        return gradients, metrics, moved

    def _losses(self, params: TensorDictBase, batch: TensorDictBase) -> Metrics:
        """Return the metrics of all agents, which share no parameter, (agents,)."""
        losses = self._delta_and_agent_losses if "delta" in params else self._agent_losses
        return torch.vmap(partial(call_with, self.loss, losses))(params, batch)

    def _delta_and_agent_losses(self, batch: TensorDictBase) -> Metrics:
        losses = self._agent_losses(batch)  # first: in the other order torch.compile (2.15) fails
        with torch.no_grad():
            entropy = self._entropy(batch["observation"])
        delta = self.loss.delta
        loss = delta_loss(delta, entropy, self.floors[0])
        return {**losses, "loss_delta": loss, "delta": delta.clone()}

    def _learn_delta(self) -> None:
        """Add each agent's delta to what is trained, as :class:`DeltaLoss` does for one actor."""
        head = self.actor.gaussian_head
        self._limits = LearnedDelta(
            head.target_entropy, head.action_dim, log_std_max=head.log_std_max
        )
        # a copy: the actor's loss is not to move it
        delta = self.params["delta"] = self._of_heads("delta").clone().float().requires_grad_()
        optimizer = torch.optim.SGD([delta], lr=DELTA_LEARNING_RATE)
        optimizer.register_step_post_hook(lambda *_: self._write_delta())
        self.optimizers.append(optimizer)

    @torch.no_grad()
    def _write_delta(self) -> None:
        assert self._limits is not None
        delta = self.params["delta"].clamp_(0.0, self._limits.delta_max)
        self._of_heads("delta").copy_(delta)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that learning goes on from."""
        return {
            "steps": self.steps,
            "params": self.params.data.flatten_keys(".").to_dict(),
            "policy": self.policy.own_state(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "streams": [generator.get_state() for generator in self.streams.generators],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.steps = state["steps"]
        self.params.data.update_(TensorDict(state["params"]).unflatten_keys("."))
        for name, value in self.policy.own_state().items():
            value.copy_(state["policy"][name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            # of the settings, compile may be another than then
            settings = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({**saved, "param_groups": settings})
        for generator, saved in zip(self.streams.generators, state["streams"], strict=True):
            generator.set_state(saved)


def _total(metrics: Metrics) -> Tensor:
    losses = [value.sum() for name, value in metrics.items() if name.startswith("loss_")]
    return torch.stack(losses).sum()
