"""SAC-ERA for stacked agents: replay data on the device, one update for all agents."""

from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase

from era_rl.torchrl.compiling import compiled, graphed
from era_rl.torchrl.config import SACConfig
from era_rl.torchrl.networks import make_actor, make_critic
from era_rl.torchrl.objectives import SACERALoss
from era_rl.torchrl.stacked import (
    AgentStreams,
    StackedPolicy,
    StackedSampler,
    call_with,
    leaves,
    stack_losses,
)

ACTOR, CRITIC, TARGET = (
    "actor_network_params",
    "qvalue_network_params",
    "target_qvalue_network_params",
)


class SACLearner:
    """Independent SAC-ERA agents with stacked parameters, replay data and optimizer states.

    Args:
        config: The settings.
        env: An environment of the run, for its specs.
    """

    nats_per_dim = -0.5

    def __init__(self, config: SACConfig, env: EnvBase) -> None:
        self.config = config
        self.device = torch.device(config.device)
        if not env.action_spec_unbatched.dtype.is_floating_point:
            raise ValueError(f"env={config.env!r} has discrete actions; SAC-ERA needs bounded ones")
        self.actor = make_actor(config, env, self.nats_per_dim, log_prob=False)
        self.action_dim = env.action_spec_unbatched.shape[-1]
        self.loss, self.params = stack_losses(
            lambda: self._make_loss(env), config.agent_seeds, [ACTOR, CRITIC], [TARGET]
        )
        self.optimizers = self._make_optimizers()
        self.policy = StackedPolicy(self.actor, self.params[ACTOR], config.learning_starts > 0)
        self.streams = AgentStreams(config.agent_seeds, self.device)
        self.buffer = ReplayBuffer(
            storage=LazyTensorStorage(config.buffer_size, device=self.device),
            sampler=StackedSampler(self.streams),
            batch_size=config.batch_size,
        )
        self.steps = 0
        self._losses: Any = self._plain_losses
        self._update: Any = self._plain_update
        if config.compile:
            self._losses = compiled(self._plain_losses, "the SAC losses")
            if self.device.type == "cuda":
                self._update = graphed(self._plain_update, "the SAC update")

    def _make_loss(self, env: EnvBase) -> SACERALoss:
        loss = SACERALoss(
            make_actor(self.config, env, self.nats_per_dim, log_prob=False),
            make_critic(self.config, env, of_action=True),
            num_qvalue_nets=self.config.num_qvalue_nets,
        )
        loss.make_value_estimator(gamma=self.config.gamma)
        return loss

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        common: dict[str, Any] = {"lr": self.config.lr, "fused": True}
        if self.device.type == "cuda":
            common["capturable"] = True  # steps counted on the device, for CUDA graphs
        decay = self.config.critic_weight_decay
        return [
            torch.optim.Adam(leaves(self.params[ACTOR]), **common),
            torch.optim.AdamW(leaves(self.params[CRITIC]), weight_decay=decay, **common),
        ]

    def learn(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Store a batch of data, shape (agents, envs, time), update, and return metrics (agents,)."""
        self.buffer.extend(self._transitions(data))
        self.steps += self.config.steps_per_iteration
        if self.steps < self.config.learning_starts:
            return {}
        self.policy.uniform.zero_()
        metrics = {}
        for _ in range(self.config.updates):
            batch = self.buffer.sample()
            noise = self.streams.uniform(2, self.config.batch_size, self.action_dim)
            batch["noise"], batch["next", "noise"] = noise.unbind(1)
            metrics = self._update(batch)
        return metrics

    def _transitions(self, data: TensorDictBase) -> TensorDictBase:
        """Return what the losses read, shape (time * envs, agents)."""
        after = ("observation", "reward", "done", "terminated")
        keys = ["observation", "action", *(("next", key) for key in after)]
        return data.select(*keys).permute(2, 1, 0).flatten(0, 1).to(self.device)

    def _plain_update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        total, metrics = self._losses(batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.params[TARGET].lerp_(self.params[CRITIC].data, self.config.tau)
        return metrics

    def _plain_losses(self, batch: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of all agents' losses, which share no parameter, and each one's metrics."""
        actor, critic, entropy = torch.vmap(partial(call_with, self.loss, self._agent_losses))(
            self.params, batch
        )
        metrics = {"loss_actor": actor, "loss_qvalue": critic, "entropy": entropy}
        total = (actor + critic).sum()
        return total, {name: value.detach() for name, value in metrics.items()}

    def _agent_losses(self, batch: TensorDictBase) -> tuple[Tensor, Tensor, Tensor]:
        critic, _ = self.loss.qvalue_v2_loss(batch)
        actor, extra = self.loss.actor_loss(batch)
        return actor, critic, -extra["log_prob"].mean()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that learning goes on from."""
        return {
            "steps": self.steps,
            "uniform": self.policy.uniform,
            "params": self.params.data.flatten_keys(".").to_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "streams": self.streams.state_dict(),
            "buffer": self.buffer[:].flatten_keys(".").to_dict() if len(self.buffer) else {},
            "writer": self.buffer.writer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.steps = state["steps"]
        self.policy.uniform.copy_(state["uniform"])
        self.params.data.update_(TensorDict(state["params"]).unflatten_keys("."))
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.streams.load_state_dict(state["streams"])
        if state["buffer"]:  # in the order of its places, for indices are drawn, not transitions
            stored = TensorDict(state["buffer"]).unflatten_keys(".")
            self.buffer.extend(stored.auto_batch_size_(2))
            self.buffer.writer.load_state_dict(state["writer"])
