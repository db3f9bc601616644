"""SAC-ERA for stacked agents: replay data on the device, one update for all agents."""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torchrl.data import LazyTensorStorage, ReplayBuffer
from torchrl.envs import EnvBase

from era_rl.networks import RewardScale
from era_rl.networks.batch_norm import UnitRowAdam
from era_rl.torchrl.config import SACConfig
from era_rl.torchrl.learner import ACTOR, Learner
from era_rl.torchrl.networks import make_actor, make_critic
from era_rl.torchrl.objectives import SACERALoss, XQCERALoss
from era_rl.torchrl.stacked import leaves

CRITIC, TARGET = "qvalue_network_params", "target_qvalue_network_params"
BOUND = 5.0
"""Where the bins of categorical critics end, within which scaled returns are kept."""


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
        values = (self.params[name].values(True, True) for name in (TARGET, CRITIC))
        followed = [(t, c.data) for t, c in zip(*values, strict=True) if c.requires_grad]
        self.targets, self.followed = map(list, zip(*followed, strict=True))
        self.reward_scale: RewardScale | None = None
        if config.network == "batchnorm":
            n_envs = config.n_envs * max(config.collectors, 1)
            scale = RewardScale(config.gamma, BOUND, config.seeds, n_envs)
            self.reward_scale = scale.to(self.device)

    def _make_loss(self, env: EnvBase) -> SACERALoss:
        actor = make_actor(self.config, env, log_prob=self.log_prob)
        critic = make_critic(self.config, env, of_action=True)
        critics = self.config.num_qvalue_nets
        if self.config.network == "batchnorm":
            return XQCERALoss(actor, critic, num_qvalue_nets=critics, gamma=self.config.gamma)
        loss = SACERALoss(actor, critic, num_qvalue_nets=critics)
        loss.make_value_estimator(gamma=self.config.gamma)
        return loss

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        return [
            self._optimizer(ACTOR, self.config.actor_weight_decay, stacked=1),
            self._optimizer(CRITIC, self.config.critic_weight_decay, stacked=2),
        ]

    def _optimizer(self, name: str, decay: float, stacked: int) -> torch.optim.Optimizer:
        params, kwargs = leaves(self.params[name]), {**self._adam_kwargs(), "weight_decay": decay}
        if self.config.network != "batchnorm":
            return torch.optim.AdamW(params, **kwargs)
        return UnitRowAdam(params, stacked=stacked, decoupled_weight_decay=True, **kwargs)

    def learn(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Store a batch of data, shape (agents, envs, time), update, and return metrics (agents,)."""
        self.buffer.extend(self._transitions(data))
        self.steps += self.config.steps_per_iteration
        self._take_note(data)
        if self.steps < self.config.learning_starts:
            return {}
        self.policy.uniform.zero_()
        metrics = {}
        for _ in range(self.config.updates):
            time = self.streams.draw(torch.randint, len(self.buffer), (self.config.batch_size,))
            batch = self.buffer.storage.get((time, self.agents))
            noise = self.streams.draw(torch.rand, 2, self.config.batch_size, self.action_dim)
            batch["noise"], batch["next", "noise"] = noise.unbind(1)
            metrics = self._update(self._scaled(batch))
            self.observation = batch["observation"]
        if self.reward_scale is not None:
            metrics = {**metrics, "reward_scale": self.reward_scale().squeeze(-1)}
        return metrics

    def begin_episodes(self) -> None:
        """Count returns anew, where episodes are cut off."""
        if self.reward_scale is not None:
            self.reward_scale.returns.zero_()

    def _take_note(self, data: TensorDictBase) -> None:
        """Move the running statistics of observations and rewards to a batch of data."""
        if self.config.normalizes:
            self.policy.normalize.update(data["observation"].flatten(1, 2).to(self.device))
        if self.reward_scale is not None:
            after = data["next"].select("reward", "done").to(self.device)
            for step in after.unbind(2):
                self.reward_scale.update(step["reward"].squeeze(-1), step["done"].squeeze(-1))

    def _scaled(self, batch: TensorDictBase) -> TensorDictBase:
        """Put observations and rewards as the networks take them into a batch of the buffer's."""
        if self.config.normalizes:
            for each in (batch, batch["next"]):
                each["observation"] = self.policy.normalize(each["observation"])
        if self.reward_scale is not None:
            reward, scale = batch["next", "reward"], self.reward_scale()[..., None]
            batch["next", "reward"] = (reward / scale).to(reward.dtype)
        return batch

    def _transitions(self, data: TensorDictBase) -> TensorDictBase:
        """Return what the losses read, shape (time * envs, agents)."""
        after = ("observation", "reward", "done", "terminated")
        keys = ["observation", "action", *(("next", key) for key in after)]
        return data.select(*keys).permute(2, 1, 0).flatten(0, 1).to(self.device)

    def _plain_update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        metrics = super()._plain_update(batch)
        get_ema_multi_avg_fn(1.0 - self.config.tau)(self.targets, self.followed, 0)
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
        scale = {} if self.reward_scale is None else self.reward_scale.state_dict()
        return {**super().state_dict(), "buffer": stored, "writer": writer, "reward_scale": scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        super().load_state_dict(state)
        if self.reward_scale is not None:
            self.reward_scale.load_state_dict(state["reward_scale"])
        if state["buffer"]:  # in the order of its places, for indices are drawn, not transitions
            stored = TensorDict(state["buffer"]).unflatten_keys(".")
            self.buffer.extend(stored.auto_batch_size_(2))
            self.buffer.writer.load_state_dict(state["writer"])
