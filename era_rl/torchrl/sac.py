"""SAC-ERA for stacked agents: replay data on the device, one update for all agents."""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase

from era_rl.torchrl.config import SACConfig
from era_rl.torchrl.learner import ACTOR, Learner
from era_rl.torchrl.networks import make_actor, make_critic
from era_rl.torchrl.objectives import SACERALoss
from era_rl.torchrl.stacked import leaves

CRITIC, TARGET = "qvalue_network_params", "target_qvalue_network_params"


class SACLearner(Learner):
    """Independent SAC-ERA agents, each with replay data of its own (see :class:`Learner`).

    Raises:
        ValueError: If the environment's actions are discrete.
    """

    config: SACConfig
    name, log_prob = "SAC", False
    trained, kept = (ACTOR, CRITIC), (TARGET,)

    def __init__(self, config: SACConfig, env: EnvBase) -> None:
        if not env.action_spec_unbatched.dtype.is_floating_point:
            raise ValueError(f"env={config.env!r} has discrete actions; SAC-ERA needs bounded ones")
        super().__init__(config, env)
        self.action_dim = env.action_spec_unbatched.shape[-1]
        self.policy.uniform.fill_(config.learning_starts > 0)
        storage = LazyTensorStorage(config.buffer_size, device=self.device)
        self.buffer = ReplayBuffer(storage=storage)
        agents = torch.arange(config.seeds, device=self.device)
        self.agents = agents[:, None].expand(-1, config.batch_size)

    def _make_loss(self, env: EnvBase) -> SACERALoss:
        loss = SACERALoss(
            make_actor(self.config, env, log_prob=self.log_prob),
            make_critic(self.config, env, of_action=True),
            num_qvalue_nets=self.config.num_qvalue_nets,
        )
        loss.make_value_estimator(gamma=self.config.gamma)
        return loss

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        common, decay = self._adam_kwargs(), self.config.critic_weight_decay
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
            time = self.streams.draw(torch.randint, len(self.buffer), (self.config.batch_size,))
            batch = self.buffer.storage.get((time, self.agents))
            noise = self.streams.draw(torch.rand, 2, self.config.batch_size, self.action_dim)
            batch["noise"], batch["next", "noise"] = noise.unbind(1)
            metrics = self._update(batch)
            self.observation = batch["observation"]
        return metrics

    def _transitions(self, data: TensorDictBase) -> TensorDictBase:
        """Return what the losses read, shape (time * envs, agents)."""
        after = ("observation", "reward", "done", "terminated")
        keys = ["observation", "action", *(("next", key) for key in after)]
        return data.select(*keys).permute(2, 1, 0).flatten(0, 1).to(self.device)

    def _plain_update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        metrics = super()._plain_update(batch)
        self.params[TARGET].lerp_(self.params[CRITIC].data, self.config.tau)
        return metrics

    def _agent_losses(self, batch: TensorDictBase) -> dict[str, Tensor]:
        critic, _ = self.loss.qvalue_v2_loss(batch)
        actor, _ = self.loss.actor_loss(batch)
        return {"loss_actor": actor, "loss_qvalue": critic}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that learning goes on from."""
        # a copy, for the file of a view has the whole buffer
        stored = self.buffer[:].cpu().clone().flatten_keys(".").to_dict() if self.buffer else {}
        writer = self.buffer.writer.state_dict()
        return {**super().state_dict(), "buffer": stored, "writer": writer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        if state["buffer"]:  # in the order of its places, for indices are drawn, not transitions
            stored = TensorDict(state["buffer"]).unflatten_keys(".")
            self.buffer.extend(stored.auto_batch_size_(2))
            self.buffer.writer.load_state_dict(state["writer"])
