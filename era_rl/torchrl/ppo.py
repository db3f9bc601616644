"""PPO-ERA for stacked agents: TorchRL's ClipPPOLoss without its entropy bonus."""

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

from era_rl.networks import orthogonal
from era_rl.torchrl.config import PPOConfig
from era_rl.torchrl.learner import ACTOR, Learner
from era_rl.torchrl.networks import make_actor, make_critic
from era_rl.torchrl.stacked import leaves

CRITIC = "critic_network_params"


class PPOLearner(Learner):
    """Independent PPO-ERA agents (see :class:`Learner`)."""

    config: PPOConfig
    name, log_prob = "PPO", True
    trained = (ACTOR, CRITIC)

    def _make_loss(self, env: EnvBase) -> ClipPPOLoss:
        actor = _initialised(make_actor(self.config, env, log_prob=self.log_prob), last_gain=0.01)
        critic = _initialised(make_critic(self.config, env, of_action=False), last_gain=1.0)
        loss = ClipPPOLoss(
            actor,
            critic,
            clip_epsilon=self.config.clip,
            entropy_bonus=False,  # the actor itself keeps the entropy up
            loss_critic_type="l2",
            normalize_advantage=True,
            reduction="none",  # its own mean squeezes a scalar, which vmap refuses
        )
        # it has no targets, and would make them of ``.data``, which torch.compile refuses under vmap
        loss.__dict__.update(dict.fromkeys(f"target_{name}" for name in self.trained))
        return loss

    def _make_optimizers(self) -> list[torch.optim.Optimizer]:
        params = leaves(self.params)
        optimizer = torch.optim.Adam(params, eps=1e-5, **self._adam_kwargs())
        if max_norm := self.config.max_grad_norm:
            optimizer.register_step_pre_hook(lambda *_: clip_agent_norms(params, max_norm))
        return [optimizer]

    def learn(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Update from a batch of data, shape (agents, envs, time), and return metrics (agents,)."""
        data = data.to(self.device)
        batch = self._with_advantages(data).flatten(1, 2)
        self.steps += self.config.steps_per_iteration
        self.observation = batch["observation"]
        metrics = []
        for _ in range(self.config.epochs):
            order = self.streams.draw(torch.randperm, batch.shape[1])
            for index in order.chunk(self.config.minibatches, dim=1):
                agents = torch.arange(len(index), device=self.device)[:, None]
                metrics.append(self._update(batch[agents, index]))
        if self.config.normalizes:  # only now: the data was collected with the old ones
            self.policy.normalize.update(data["observation"].flatten(1, 2))
        return {name: torch.stack([m[name] for m in metrics]).mean(0) for name in metrics[0]}

    @torch.no_grad()
    def _with_advantages(self, data: TensorDictBase) -> TensorDictBase:
        """Return what the losses read, with the generalised advantage estimate of each agent."""
        after = data["next"]
        observation = self._normalized(data["observation"])
        values, params = torch.vmap(self._value), self.params[CRITIC]
        value = values(params, observation)
        next_value = values(params, self._normalized(after["observation"]))
        advantage, target = generalized_advantage_estimate(
            *(self.config.gamma, self.config.lmbda, value, next_value),
            *(after["reward"], after["done"], after["terminated"]),
        )
        new = {"observation": observation, "advantage": advantage, "value_target": target}
        return data.select("action", "action_log_prob").update(new)

    def _normalized(self, observation: Tensor) -> Tensor:
        """Return observations, shape (agents, envs, time, observation_dim), as the policy has them."""
        return self.policy.normalize(observation.flatten(1, 2)).view_as(observation)

    def _value(self, params: TensorDictBase, observation: Tensor) -> Tensor:
        critic = self.loss.critic_network
        with params.to_module(critic):
            return critic.module(observation)

    def _agent_losses(self, batch: TensorDictBase) -> dict[str, Tensor]:
        out = self.loss(batch)
        names = ("loss_objective", "loss_critic", "kl_approx", "clip_fraction")
        return {name: out[name].mean() for name in names}


@torch.no_grad()
def clip_agent_norms(params: list[Tensor], max_norm: float) -> None:
    """Scale each agent's gradients, slices of the first dimension, to a norm of at most max_norm."""
    grads = [param.grad for param in params if param.grad is not None]
    norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
    scale = (max_norm / (norms + 1e-6)).clamp_max(1.0)
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))


def _initialised(network: nn.Module, last_gain: float) -> Any:
    """Give linear layers orthogonal weights of gain sqrt(2), the last of last_gain, and no bias."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        orthogonal(layer, last_gain if layer is layers[-1] else 2.0**0.5)
    return network
