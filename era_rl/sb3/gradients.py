"""The losses and gradients of one SACERA update, as functions of tensors, eager or compiled."""

from collections.abc import Callable
from functools import partial
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from era_rl.core.compiling import Fallback, compiled_closure

Network = Callable[..., Any]
Loss = Callable[[Network], tuple[Tensor, Any]]
Gradients = tuple[tuple[Tensor | None, ...], Tensor, Any]
"""Gradients in the order of the parameters, the loss, and what the loss gave beside it.

The gradient of a parameter that the loss does not depend on is None from autograd, 0 from torch.func.
"""


class Transitions(NamedTuple):
    """A batch of transitions: observations as the networks take them, the rest (batch, ...)."""

    obs: Any
    actions: Tensor
    next_obs: Any
    rewards: Tensor
    dones: Tensor
    discounts: Tensor


class SACGradients:
    """The gradients of SACERA's critics and actor on a batch, given the noise of the actions.

    The critics minimise sum_j (Q_j(s, a) - r - gamma min_k Q'_k(s', a'))^2 / 2, the actor
    -min_j Q_j(s, a), a and a' by reparameterisation of the noise; the mean over the batch of each.
    Nothing is changed by a call, so that a compiled function whose compilation fails can be replaced
    by the eager one at any time.

    Args:
        policy: A SACERA policy; differentiated are its optimizers' parameters that are not frozen.
    """

    def __init__(self, policy: Any) -> None:
        self.target_critic: nn.Module = policy.critic_target
        self.online_critic: nn.Module = policy.critic
        self.sampler = _Sampler(policy.actor)
        self.optimizers: list[torch.optim.Optimizer] = [
            policy.critic.optimizer,
            policy.actor.optimizer,
        ]
        self._frozen = self._frozen_now()
        self.critic_parameters = _trained(self.online_critic, policy.critic.optimizer)
        self.actor_parameters = _trained(self.sampler, policy.actor.optimizer)
        self.critic: Callable[..., Gradients] = partial(self._critic, by_autograd)
        self.actor: Callable[..., Gradients] = partial(self._actor, by_autograd)

    def outdated(self) -> bool:
        """Return whether parameters were frozen or released since the construction."""
        return self._frozen != self._frozen_now()

    def _frozen_now(self) -> list[bool]:
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        return [not p.requires_grad for group in groups for p in group["params"]]

    def compile(self) -> None:
        """Compile both functions at their first call; eager ones take over where that fails."""

        # differentiated by torch.func, the whole function is one graph without autograd's bookkeeping
        def critic(data: Transitions, noise: Tensor) -> Gradients:
            return self._critic(by_transform, data, noise)

        def actor(obs: Any, noise: Tensor) -> Gradients:
            return self._actor(by_transform, obs, noise)

        self.critic = _fast(critic, self.critic, "critics")
        self.actor = _fast(actor, self.actor, "actor")

    def _critic(
        self, differentiate: Callable[..., Gradients], data: Transitions, noise: Tensor
    ) -> Gradients:
        with torch.no_grad():
            next_actions, _, _ = self.sampler(data.next_obs, noise)
            next_q = torch.cat(self.target_critic(data.next_obs, next_actions), dim=1)
            next_value = next_q.amin(dim=1, keepdim=True)
            target = data.rewards + (1.0 - data.dones) * data.discounts * next_value

        def loss(critic: Network) -> tuple[Tensor, Any]:
            errors = [F.mse_loss(q, target) for q in critic(data.obs, data.actions)]
            return 0.5 * torch.stack(errors).sum(), ()

        return differentiate(self.online_critic, self.critic_parameters, loss)

    def _actor(self, differentiate: Callable[..., Gradients], obs: Any, noise: Tensor) -> Gradients:
        def loss(sampler: Network) -> tuple[Tensor, Any]:
            actions, loc, log_std = sampler(obs, noise)
            q_values = torch.cat(self.online_critic(obs, actions), dim=1)
            return -q_values.amin(dim=1).mean(), (loc.detach(), log_std.detach())

        return differentiate(self.sampler, self.actor_parameters, loss)


def by_autograd(network: nn.Module, parameters: dict[str, Tensor], loss: Loss) -> Gradients:
    """Return the gradients of ``loss(network)`` by autograd."""
    value, beside = loss(network)
    gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    return gradients, value.detach(), beside


def by_transform(network: nn.Module, parameters: dict[str, Tensor], loss: Loss) -> Gradients:
    """Return the same as :func:`by_autograd` by ``torch.func``: slower eagerly, faster compiled.

    To be called under ``torch.no_grad``, or a compiled graph gets a second derivative's backward.
    """

    def of(parameters: dict[str, Tensor]) -> tuple[Tensor, Any]:
        return loss(lambda *args: torch.func.functional_call(network, parameters, args))

    gradients, (value, beside) = torch.func.grad_and_value(of, has_aux=True)(parameters)
    return tuple(gradients.values()), value, beside


def _fast(
    function: FunctionType, eager: Callable[..., Gradients], name: str
) -> Callable[..., Gradients]:
    compiled = torch.no_grad()(compiled_closure(function))
    return Fallback(compiled, eager, f"torch.compile of the gradients of SACERA's {name}")


class _Sampler(nn.Module):
    """An actor as a function of observations and noise."""

    def __init__(self, actor: Any) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, obs: Any, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, loc and log_std, each (batch, action_dim)."""
        return self.actor.reparameterise(obs, noise)


def _trained(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the parameters of a network that its optimizer trains, by name."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = network.named_parameters()
    return {name: p for name, p in parameters if p.requires_grad and id(p) in trained}
