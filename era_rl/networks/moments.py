"""Running moments of a stream, and the normalisers of observations and rewards made of them."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Moments(NamedTuple):
    """Number, mean and (biased) variance of what a stream has had so far; the number is a scalar."""

    number: Tensor
    mean: Tensor
    var: Tensor


def merge_moments(moments: Moments, batch: Tensor) -> Moments:
    """Return the moments of a stream and a batch after it, without the stream.

    With w = n / (N + n) and d = mean(batch) - mean:
    mean' = mean + w d, var' = (1 - w) var + w var(batch) + w (1 - w) d^2.

    Args:
        moments: Of N elements, mean and var (..., features); with N = 0 they do not count.
        batch: n elements, (..., n, features).

    Source: Chan, Golub and LeVeque, 1979; for n = 1 it is Welford's.
    """
    n = batch.shape[-2]
    var, mean = torch.var_mean(batch.to(moments.mean.dtype), dim=-2, correction=0)
    w = n / (moments.number + n)
    d = mean - moments.mean
    merged = torch.lerp(moments.var, var, w) + w * (1.0 - w) * d.square()
    return Moments(moments.number + n, moments.mean + w * d, merged)


def standardise(
    x: Tensor, mean: Tensor, var: Tensor, *, eps: float = 1e-8, clip: float = 10.0
) -> Tensor:
    """Return (x - mean) / sqrt(var + eps) within [-clip, clip], in the dtype of x.

    Args:
        x: (..., features).
        mean: (features,), or broadcastable.
        var: Of the same shape.
        eps: Added to the variance.
        clip: Where the result ends; features that were constant so far would be huge when they move.
    """
    scale = (var + eps).rsqrt()
    return ((x - mean.to(x.dtype)) * scale.to(x.dtype)).clamp(-clip, clip)


class RunningNorm(nn.Module):
    """Standardises features by the moments of all that :meth:`update` was given (:func:`standardise`).

    The moments are buffers, which are saved and exported with the network and the same in training and
    evaluation: only :meth:`update` changes them, in place. They are kept in float64, in which the
    ten millionth element still counts. Before the first update the features are only clipped.

    Args:
        *shape: (features,), or (..., features) for independent streams of (..., n, features).
        eps: Added to the variance.
        clip: Bound of the result.
    """

    count: Tensor
    mean: Tensor
    var: Tensor

    def __init__(self, *shape: int, eps: float = 1e-8, clip: float = 10.0) -> None:
        super().__init__()
        self.eps, self.clip = eps, clip
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, batch: Tensor) -> None:
        """Add a batch, (..., n, features), to the moments."""
        moments = Moments(self.count, self.mean, self.var)
        for old, new in zip(moments, merge_moments(moments, batch), strict=True):
            old.copy_(new)

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardised features, shape of x: (..., features), or (..., n, features)."""
        mean, var = self.mean, self.var
        if mean.ndim > 1:
            mean, var = mean.unsqueeze(-2), var.unsqueeze(-2)
        return standardise(x, mean, var, eps=self.eps, clip=self.clip)


def reward_scale(mean: Tensor, var: Tensor, *, bound: float) -> Tensor:
    """Return what rewards are divided by: max(s, (|mean| + 2 s) / bound) with s = sqrt(var + 1e-8).

    The first makes discounted returns vary by one (XQC's). The second keeps returns that hardly vary
    within [-bound, bound], where the bins of a categorical value end; it is smaller where
    |mean| <= (bound - 2) s. The largest return so far in its place (SimbaV2's) would make all rewards
    small for good after one lucky episode.

    Args:
        mean: Of the discounted returns.
        var: Their variance, of the same shape.
        bound: Positive.

    Source: XQC, arXiv 2509.25174; SimbaV2, arXiv 2502.15280.
    """
    std = (var + 1e-8).sqrt()
    return torch.maximum(std, (mean.abs() + 2.0 * std) / bound)


class RewardScale(nn.Module):
    """The running scale of rewards, from discounted returns G_t = gamma G_{t-1} + r_t so far.

    :func:`reward_scale` of the mean and variance of G over time and environments. Its state is in
    buffers.

    Args:
        gamma: Discount, in [0, 1].
        bound: Where scaled returns shall end, positive.
        *shape: (..., environments); leading dimensions have scales of their own.

    Raises:
        ValueError: For an argument outside its range.
    """

    returns: Tensor

    def __init__(self, gamma: float, bound: float, *shape: int) -> None:
        super().__init__()
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma={gamma} must be in [0, 1]")
        if not 0.0 < bound < math.inf:
            raise ValueError(f"bound={bound} must be positive and finite")
        self.gamma, self.bound = gamma, bound
        self.moments = RunningNorm(*shape[:-1], 1)
        self.register_buffer("returns", torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, rewards: Tensor, dones: Tensor) -> None:
        """Take note of a step: rewards, and where episodes ended, both (..., environments)."""
        if rewards.shape != self.returns.shape:  # as many environments as it was saved with
            self.returns = self.returns.new_zeros(rewards.shape)
        returns = self.gamma * self.returns + rewards
        self.moments.update(returns.unsqueeze(-1))
        self.returns.copy_(returns.masked_fill(dones.bool(), 0.0))

    def forward(self) -> Tensor:
        """Return the scale by which rewards are divided, (..., 1), positive."""
        return reward_scale(self.moments.mean, self.moments.var, bound=self.bound)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Any, prefix: str, *args: Any
    ) -> None:
        # the number of environments may be another
        saved = state_dict.get(f"{prefix}returns", self.returns)
        self.returns = self.returns.new_zeros(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)
