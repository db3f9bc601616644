"""Losses of critics and actors as functions of a batch, and their gradients, eager or compiled."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d
from sb3_contrib.common.utils import quantile_huber_loss
from torch import Tensor, nn
from torch.nn import functional as F

from era_rl.core.compiling import compiled, gradients_by_transform, set_gradients
from era_rl.networks import CategoricalValue, RunningNorm
from era_rl.sb3.steps import CompiledRMSpropSteps, DirectSteps, FusedAdamSteps

Network = Callable[..., Any]
Gradients = tuple[tuple[Tensor | None, ...], Tensor, Any, tuple[Tensor, ...]]
"""Gradients in the order of ``inputs``, the loss, what it gave beside it, and running statistics.

The gradient of a parameter that the loss does not depend on is None from autograd, 0 from torch.func.
"""


class Transitions(NamedTuple):
    """A batch of transitions: observations as the networks take them, the rest (batch, 1 or more)."""

    obs: Any
    actions: Tensor
    next_obs: Any
    rewards: Tensor
    dones: Tensor
    discounts: Tensor

    def targets(self, next_values: Tensor) -> Tensor:
        """Return r + gamma V(s'), without V(s') where s' is terminal, of the shape of V(s')."""
        return self.rewards + (1.0 - self.dones) * self.discounts * next_values


CriticObjective = Callable[[Network, Any, Transitions, Tensor], Tensor]
"""The critics' loss: of the critics, the target critics, a batch and the next actions."""


def least_value(q_values: tuple[Tensor, ...]) -> Tensor:
    """Return min_j Q_j, (batch, 1), of the values that each critic gives, (batch, 1)."""
    return torch.cat(q_values, dim=1).amin(dim=1, keepdim=True)


def sac_critic_loss(
    critic: Network, target_critic: Network, data: Transitions, next_actions: Tensor
) -> Tensor:
    """Return sum_j mean (Q_j(s, a) - r - gamma min_k Q'_k(s', a'))^2 / 2."""
    with torch.no_grad():
        target = data.targets(least_value(target_critic(data.next_obs, next_actions)))
    errors = [F.mse_loss(q, target) for q in critic(data.obs, data.actions)]
    return 0.5 * torch.stack(errors).sum()


def tqc_critic_loss(
    critic: Network, target_critic: Network, data: Transitions, next_actions: Tensor, kept: int
) -> Tensor:
    """Return the quantile Huber loss against r + gamma z, z the ``kept`` smallest target quantiles."""
    with torch.no_grad():
        quantiles = target_critic(data.next_obs, next_actions).flatten(1).sort(dim=1).values
        target = data.targets(quantiles[:, :kept]).unsqueeze(1)
    return quantile_huber_loss(critic(data.obs, data.actions), target, sum_over_quantiles=False)


def mean_quantile(quantiles: Tensor) -> Tensor:
    """Return the mean over critics and quantiles, (batch, 1), of (batch, critics, quantiles)."""
    return quantiles.mean(dim=2).mean(dim=1, keepdim=True)


def crossq_critic_loss(
    critic: Network, target_critic: None, data: Transitions, next_actions: Tensor
) -> Tensor:
    """Return SAC's loss with targets of the critics themselves, states and next states in one pass."""
    obs = torch.cat([data.obs, data.next_obs])
    q_values = critic(obs, torch.cat([data.actions, next_actions]))
    current, following = zip(*(q.chunk(2) for q in q_values), strict=True)
    target = data.targets(least_value(following).detach())
    return 0.5 * torch.stack([F.mse_loss(q, target) for q in current]).sum()


class TraceableBatchRenorm(BatchRenorm1d):
    """sb3-contrib's batch renormalisation without a branch on the number of steps, for graphs.

    y = scale (x - m + d s / r) r / s + bias in train mode, m and s the mean and std of the batch; r = 1
    and d = 0 in the first ``warmup_steps`` steps, then the clamped ratio and distance to running ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the renormalised (batch, features), and move the statistics in train mode."""
        if not self.training:
            return super().forward(x)
        ra_mean, ra_var, steps = self.ra_mean, self.ra_var, self.steps
        mean, var = x.mean(dim=0), x.var(dim=0)
        warm = steps > self.warmup_steps
        running_std = (ra_var + self.eps).sqrt()
        r = ((var + self.eps).sqrt() / running_std).detach().clamp(1.0 / self.rmax, self.rmax)
        d = ((mean - ra_mean) / running_std).detach().clamp(-self.dmax, self.dmax)
        r, d = torch.where(warm, r, 1.0), torch.where(warm, d, 0.0)
        varies = var > 0.0  # the derivative of a root at 0 is infinite
        std = torch.where(varies, torch.where(varies, var, 1.0).sqrt(), 0.0)
        ra_mean.add_(self.momentum * (mean.detach() - ra_mean))
        ra_var.add_(self.momentum * (var.detach() - ra_var))
        steps.add_(1)
        x = (x - (mean - d * std / r)) / (var / r**2 + self.eps).sqrt()
        return self.scale * x + self.bias if self.affine else x


class CriticLoss(nn.Module):
    """The loss of a policy's critics on a batch, given the noise of the next actions."""

    def __init__(self, policy: Any, objective: CriticObjective) -> None:
        super().__init__()
        self.actor, self.critic = policy.actor, policy.critic
        self.target_critic = getattr(policy, "critic_target", None)
        self.objective = objective

    def forward(self, data: Transitions, noise: Tensor) -> tuple[Tensor, Any]:
        """Return the loss, and nothing beside it."""
        with torch.no_grad():
            next_actions, *_ = self.actor.reparameterise(data.next_obs, noise)
        return self.objective(self.critic, self.target_critic, data, next_actions), ()


class ActorLoss(nn.Module):
    """-mean V(s, a), with V what the actor maximises of the critics' outputs, a of the given noise.

    Its derivative by the floor H0 is the price of the floor: by how much E[V] falls per nat, at fixed
    shares of the entropy budget, dlog_std_i / dH0 = w_i / (dh_i / dlog_std_i) for the exact floor.
    """

    priced = ("actor.head._target_entropy",)

    def __init__(self, policy: Any, value: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.actor, self.critic = policy.actor, policy.critic
        self.value = value

    def forward(self, obs: Any, noise: Tensor) -> tuple[Tensor, Any]:
        """Return the loss, and beside it loc and log_std, each (batch, action_dim)."""
        actions, *params = self.actor.reparameterise(obs, noise)
        loss = -self.value(self.critic(obs, actions)).mean()
        return loss, tuple(param.detach() for param in params)


class GradientStep:
    """Steps of an optimizer along the gradient of a loss.

    Args:
        loss: Returns the loss and what else is wanted of its pass, which is detached. Buffers that it
            names in ``priced`` are not trained, but its derivatives by them are returned.
        optimizer: Of its parameters those of the loss that are not frozen are trained.
        modes: Modules that are in train mode, or not, in this loss; others stay as they are.
        what: What the loss is, for warnings.
    """

    def __init__(
        self,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        modes: Iterable[tuple[nn.Module, bool]],
        what: str,
    ) -> None:
        self.loss, self.optimizer, self.modes, self.what = loss, optimizer, tuple(modes), what
        self.step: DirectSteps = FusedAdamSteps(optimizer)
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = loss.named_parameters()
        self.parameters: dict[str, Tensor] = {
            n: p for n, p in named if p.requires_grad and id(p) in trained
        }
        buffers = dict(loss.named_buffers())
        priced = getattr(loss, "priced", ()) if self.parameters else ()
        self.priced = {name: buffers[name] for name in priced if name in buffers}
        # all may be running statistics, but for what a floor consists of and what no pass moves
        still = [m for m in loss.modules() if isinstance(m, RunningNorm | CategoricalValue)]
        known = {id(buffer) for module in still for buffer in module.buffers()}
        self.statistics = {
            n: b for n, b in buffers.items() if ".head." not in n and id(b) not in known
        }
        self.places = _places(loss, {**self.inputs, **self.statistics})
        self.gradients: Callable[..., Gradients] = self.by_autograd
        optimizer.zero_grad()  # or a parameter frozen since would go on along its last gradient

    def compile(self) -> None:
        """Compile gradients and RMSprop's steps at first calls; eager ones take over where it fails."""
        fast = compiled(self.by_transform, f"the gradients of {self.what}", self.by_autograd)
        self.gradients = torch.no_grad()(fast) if self.parameters else self.by_autograd
        if isinstance(self.optimizer, CompiledRMSpropSteps.kinds):
            self.step = CompiledRMSpropSteps(self.optimizer)

    @property
    def inputs(self) -> dict[str, Tensor]:
        """What the loss is differentiated by: what is trained, then what has a price."""
        return {**self.parameters, **self.priced}

    def __call__(self, *args: Any) -> tuple[Tensor, Any, tuple[Tensor | None, ...]]:
        """Take a step; return the loss, what it gave beside, and its derivatives by what is priced."""
        gradients, loss, beside = self.look(*args)
        self.descend(gradients)
        return loss, beside, gradients[len(self.parameters) :]

    def look(self, *args: Any) -> tuple[tuple[Tensor | None, ...], Tensor, Any]:
        """Return the gradients, the loss and what it gave beside, without a step."""
        for module, mode in self.modes:
            if module.training is not mode:  # setting it takes several times as long as looking
                module.training = mode
        gradients, loss, beside, statistics = self.gradients(*args)
        for statistic, value in zip(self.statistics.values(), statistics, strict=False):
            statistic.copy_(value)
        return gradients, loss, beside

    def descend(self, gradients: tuple[Tensor | None, ...]) -> None:
        """Take a step along gradients in the order of ``inputs``."""
        set_gradients(self.parameters.values(), gradients)
        self.step()

    def by_autograd(self, *args: Any) -> Gradients:
        """Return the gradients by autograd; running statistics move in place."""
        inputs = list(self.inputs.values())
        with torch.set_grad_enabled(bool(inputs)), _differentiable(self.priced.values()):
            loss, beside = self.loss(*args)
            gradients: tuple[Tensor | None, ...] = (None,) * len(inputs)
            if loss.requires_grad:
                gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
        return gradients, loss.detach(), beside, ()

    def by_transform(self, *args: Any) -> Gradients:
        """Return the same by ``torch.func``, to be compiled."""

        def of(values: dict[str, Tensor]) -> tuple[Tensor, Any]:
            placed = {path: values[name] for path, name in self.places.items()}
            return torch.func.functional_call(self.loss, placed, args, tie_weights=False)

        return gradients_by_transform(of, self.inputs, self.statistics)


def _places(loss: nn.Module, tensors: dict[str, Tensor]) -> dict[str, str]:
    """Return the paths of tensors in a loss, each with the tensor's name, of every module one.

    functional_call finds all names itself, but leaves what it has put in the place of a parameter where
    it is if its module has two (torch 2.15), as the features extractor of an actor-critic policy has.
    """
    names = {id(tensor): name for name, tensor in tensors.items()}
    return {
        f"{path}.{attribute}".removeprefix("."): names[id(tensor)]
        for path, module in loss.named_modules()
        for found in (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for attribute, tensor in found
        if id(tensor) in names
    }


@contextmanager
def slopes_by(buffer: Tensor) -> Iterator[list[Tensor]]:
    """Collect the derivative by a buffer of each loss that is taken back within the block."""
    slopes: list[Tensor] = []
    with _differentiable([buffer]):
        handle = buffer.register_hook(slopes.append)
        try:
            yield slopes
        finally:
            handle.remove()
            buffer.grad = None


@contextmanager
def _differentiable(buffers: Iterable[Tensor]) -> Iterator[None]:
    """Have autograd follow buffers within the block."""
    for buffer in buffers:
        buffer.requires_grad_(True)
    try:
        yield
    finally:
        for buffer in buffers:
            buffer.requires_grad_(False)
