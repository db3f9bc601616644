"""PPO-ERA for stacked agents: TorchRL's ClipPPOLoss without its entropy bonus."""

from functools import partial
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value.functional import generalized_advantage_estimate

from era_rl.torchrl.compiling import compiled, graphed
from era_rl.torchrl.config import PPOConfig
from era_rl.torchrl.networks import make_actor, make_critic
from era_rl.torchrl.stacked import (
    AgentStreams,
    StackedPolicy,
    call_with,
    leaves,
    stack_losses,
)

ACTOR, CRITIC = "actor_network_params", "critic_network_params"


class PPOLearner:
    """Independent PPO-ERA agents with stacked parameters and optimizer states.

    Args:
        config: The settings.
        env: An environment of the run, for its specs.
    """

    nats_per_dim = -0.3

    def __init__(self, config: PPOConfig, env: EnvBase) -> None:
        self.config = config
        self.device = torch.device(config.device)
        self.actor = make_actor(config, env, self.nats_per_dim, log_prob=True)
        self.loss, self.params = stack_losses(
            lambda: self._make_loss(env), config.agent_seeds, [ACTOR, CRITIC]
        )
        self.trained = leaves(self.params)
        common: dict[str, Any] = {"lr": config.lr, "eps": 1e-5, "fused": True}
        if self.device.type == "cuda":
            common["capturable"] = True
        self.optimizer = torch.optim.Adam(self.trained, **common)
        self.policy = StackedPolicy(self.actor, self.params[ACTOR])
        self.streams = AgentStreams(config.agent_seeds, self.device)
        self.steps = 0
        self._losses: Any = self._plain_losses
        self._update: Any = self._plain_update
        if config.compile:
            self._losses = compiled(self._plain_losses, "the PPO losses")
            if self.device.type == "cuda":
                self._update = graphed(self._plain_update, "the PPO update")

    def _make_loss(self, env: EnvBase) -> ClipPPOLoss:
        actor = make_actor(self.config, env, self.nats_per_dim, log_prob=True)
        critic = make_critic(self.config, env, of_action=False)
        _initialise(actor, last_gain=0.01)
        _initialise(critic, last_gain=1.0)
        return ClipPPOLoss(
            actor,
            critic,
            clip_epsilon=self.config.clip,
            entropy_bonus=False,  # the actor itself keeps the entropy up
            loss_critic_type="l2",
            normalize_advantage=True,
            reduction="none",  # its own mean squeezes a scalar, which vmap refuses
        )

    def learn(self, data: TensorDictBase) -> dict[str, Tensor]:
        """Update from a batch of data, shape (agents, envs, time), and return metrics (agents,)."""
        data = self._with_advantages(data.to(self.device)).flatten(1, 2)
        self.steps += self.config.steps_per_iteration
        metrics = []
        for _ in range(self.config.epochs):
            order = self.streams.permutation(data.shape[1])
            for index in order.chunk(self.config.minibatches, dim=1):
                agents = torch.arange(len(index), device=self.device)[:, None]
                metrics.append(self._update(data[agents, index]))
        return {name: torch.stack([m[name] for m in metrics]).mean(0) for name in metrics[0]}

    @torch.no_grad()
    def _with_advantages(self, data: TensorDictBase) -> TensorDictBase:
        """Return what the losses read, with the generalised advantage estimate of each agent."""
        after = data["next"]
        value = torch.vmap(self._value)(self.params[CRITIC], data["observation"])
        next_value = torch.vmap(self._value)(self.params[CRITIC], after["observation"])
        advantage, target = generalized_advantage_estimate(
            *(self.config.gamma, self.config.lmbda, value, next_value),
            *(after["reward"], after["done"], after["terminated"]),
        )
        batch = data.select("observation", "action", "action_log_prob")
        return batch.update({"advantage": advantage, "value_target": target})

    def _value(self, params: TensorDictBase, observation: Tensor) -> Tensor:
        critic = self.loss.critic_network
        with params.to_module(critic):
            return critic.module(observation)

    def _plain_update(self, batch: TensorDictBase) -> dict[str, Tensor]:
        total, metrics = self._losses(batch)
        self.optimizer.zero_grad()
        total.backward()
        clip_agent_norms(self.trained, self.config.max_grad_norm)
        self.optimizer.step()
        return metrics

    def _plain_losses(self, batch: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of all agents' losses, which share no parameter, and each one's metrics."""
        out = torch.vmap(partial(call_with, self.loss, self._agent_losses))(self.params, batch)
        names = ("loss_objective", "loss_critic", "kl_approx", "clip_fraction", "entropy")
        metrics = dict(zip(names, out, strict=True))
        total = (metrics["loss_objective"] + metrics["loss_critic"]).sum()
        return total, {name: value.detach() for name, value in metrics.items()}

    def _agent_losses(self, batch: TensorDictBase) -> tuple[Tensor, ...]:
        out = self.loss(batch)
        names = ("loss_objective", "loss_critic", "kl_approx", "clip_fraction")
        return *(out[name].mean() for name in names), -batch["action_log_prob"].mean()

    def state_dict(self) -> dict[str, Any]:
        """Return everything that learning goes on from."""
        return {
            "steps": self.steps,
            "params": self.params.data.flatten_keys(".").to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "streams": self.streams.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.steps = state["steps"]
        self.params.data.update_(TensorDict(state["params"]).unflatten_keys("."))
        self.optimizer.load_state_dict(state["optimizer"])
        self.streams.load_state_dict(state["streams"])


@torch.no_grad()
def clip_agent_norms(params: list[Tensor], max_norm: float) -> None:
    """Scale each agent's gradients, slices of the first dimension, to a norm of at most max_norm."""
    grads = [param.grad for param in params if param.grad is not None]
    norms = torch.stack([grad.flatten(1).norm(dim=1) for grad in grads]).norm(dim=0)
    scale = (max_norm / (norms + 1e-6)).clamp_max(1.0)
    for grad in grads:
        grad.mul_(scale.view(-1, *[1] * (grad.dim() - 1)))


@torch.no_grad()
def _initialise(network: nn.Module, last_gain: float) -> None:
    """Give linear layers orthogonal weights of gain sqrt(2), the last of last_gain, and no bias."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else 2.0**0.5)
        nn.init.zeros_(layer.bias)
