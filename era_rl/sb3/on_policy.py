"""The training of PPOERA and A2CERA: their losses as functions of a minibatch, and steps along them."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.type_aliases import RolloutBufferSamples
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import get_total_norm

from era_rl.sb3.compiling import Update
from era_rl.sb3.gradients import Gradients, GradientStep

FIGURES: tuple[str, ...] = (
    "entropy_loss",
    "policy_gradient_loss",
    "value_loss",
    "approx_kl",
    "clip_fraction",
    "loss",
)
"""What is known of a minibatch, by SB3's names for PPO."""
KL = FIGURES.index("approx_kl")


class Weights(NamedTuple):
    """What a loss is made with, each of no dimension: tensors, which compiled functions read anew."""

    clip_range: Tensor
    clip_range_vf: Tensor
    ent_coef: Tensor
    vf_coef: Tensor
    max_grad_norm: Tensor


@dataclass(frozen=True)
class Objective:
    """The loss of an on-policy algorithm: L = L_policy + c_e L_entropy + c_v mean (R - V)^2.

    L_entropy = -mean H. PPO's policy loss is -mean min(A r, A clip(r, 1 - epsilon, 1 + epsilon)) with
    r = p(a|s) / p_old(a|s), A2C's -mean A ln p(a|s).

    Args:
        clips: Whether the policy's loss is PPO's.
        clips_values: Whether V is kept within ``clip_range_vf`` of what it was.
        normalises: Whether A is standardised over the minibatch.
        rewards_entropy: Whether c_e is not 0; else L_entropy is known but has no gradient.
    """

    clips: bool
    clips_values: bool
    normalises: bool
    rewards_entropy: bool

    def __call__(
        self,
        data: RolloutBufferSamples,
        weights: Weights,
        values: Tensor,
        log_prob: Tensor,
        entropy: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, and beside it the figures that :data:`FIGURES` names."""
        advantages = data.advantages
        if self.normalises and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - data.old_log_prob
        ratio, clip = log_ratio.exp(), weights.clip_range
        if self.clips:
            clipped = torch.clamp(ratio, 1.0 - clip, 1.0 + clip)
            policy_loss = -torch.minimum(advantages * ratio, advantages * clipped).mean()
        else:
            policy_loss = -(advantages * log_prob).mean()
        if self.clips_values:
            limit = weights.clip_range_vf
            values = data.old_values + torch.clamp(values - data.old_values, -limit, limit)
        # torch 2.11 has no gradient of mse_loss in two dtypes
        value_loss = F.mse_loss(data.returns.to(values.dtype), values)
        entropy_loss = -(-log_prob if entropy is None else entropy).mean()
        bonus = entropy_loss if self.rewards_entropy else entropy_loss.detach()
        loss = policy_loss + weights.ent_coef * bonus + weights.vf_coef * value_loss
        # http://joschu.net/blog/kl-approx.html
        kl = (ratio - 1.0 - log_ratio).mean()
        share = ((ratio - 1.0).abs() > clip).to(loss.dtype).mean()
        figures = (entropy_loss, policy_loss, value_loss, kl, share, loss)
        return loss, torch.stack([each.detach() for each in figures])


class PolicyLoss(nn.Module):
    """An :class:`Objective` of a policy on a minibatch, whose slope by the floor is its price."""

    priced = ("policy.head._target_entropy",)

    def __init__(self, policy: Any, objective: Objective) -> None:
        super().__init__()
        self.policy, self.objective = policy, objective

    def forward(self, data: RolloutBufferSamples, weights: Weights) -> tuple[Tensor, Tensor]:
        """Return the loss and figures."""
        values, log_prob, entropy = self.policy.evaluate_actions(data.observations, data.actions)
        return self.objective(data, weights, values.flatten(), log_prob, entropy)


class ClippedStep(GradientStep):
    """Steps along a gradient whose norm is at most ``max_grad_norm``: g min(1, c / |g|)."""

    def by_autograd(self, *args: Any) -> Gradients:
        """Return the clipped gradients by autograd, and beside them what is priced."""
        gradients, loss, beside, statistics = super().by_autograd(*args)
        return self._clipped(gradients, *args), loss, beside, statistics

    def by_transform(self, *args: Any) -> Gradients:
        """Return the same by ``torch.func``."""
        gradients, loss, beside, statistics = super().by_transform(*args)
        return self._clipped(gradients, *args), loss, beside, statistics

    def _clipped(
        self, gradients: tuple[Tensor | None, ...], data: RolloutBufferSamples, weights: Weights
    ) -> tuple[Tensor | None, ...]:
        trained = len(self.parameters)
        norm = get_total_norm([each for each in gradients[:trained] if each is not None])
        share = (weights.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        clipped = (None if each is None else share * each for each in gradients[:trained])
        return *clipped, *gradients[trained:]


class OnPolicyUpdate(Update):
    """Steps of an actor-critic policy along the clipped gradient of an objective."""

    _weights: Weights

    def __init__(self, policy: Any, objective: Objective) -> None:
        super().__init__(policy)
        self.objective = objective
        self._numbers: tuple[float, ...] = ()
        self.step = ClippedStep(PolicyLoss(policy, objective), policy.optimizer, [], "the policy")
        for group in policy.optimizer.param_groups:
            # the fastest of torch's implementations that there is, unless another was asked for
            fast = next((name for name in ("fused", "foreach") if name in group), None)
            if fast is not None and group.get("fused") is None and group.get("foreach") is None:
                group[fast] = True

    def weights(self, *numbers: float) -> Weights:
        """Return the numbers as a loss takes them; the tensors of before, where they are equal."""
        if numbers != self._numbers:
            tensor = next(self.policy.parameters()).new_tensor(numbers)
            self._numbers, self._weights = numbers, Weights(*tensor.unbind())
        return self._weights

    def compile(self) -> None:
        """Have gradients and acting compiled at the first calls."""
        self.step.compile()
        super().compile()
