"""Distributions whose noise is an argument, for policies that are functions without a random state.

Given the same uniform noise, stacked agents (``torch.func.vmap``), compiled updates and separate runs
draw the same actions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical
from torchrl.modules import OneHotCategorical

from era_rl.core import TruncatedNormal, truncated_normal_sample


class NoiseTruncatedNormal(TruncatedNormal):
    """A :class:`TruncatedNormal` that samples by the inverse CDF of given noise.

    Args:
        loc: Location, shape (..., action_dim).
        scale: Scale of the parent normal, the shape of ``loc``.
        noise: Uniform noise in [0, 1), the shape of ``loc``.
        low: Lower bound.
        high: Upper bound.
    """

    def __init__(
        self, loc: Tensor, scale: Tensor, noise: Tensor, low: Any = -1.0, high: Any = 1.0
    ) -> None:
        super().__init__(loc, scale, low, high)
        self.noise = noise

    def expand(
        self, batch_shape: Sequence[int], _instance: TruncatedNormal | None = None
    ) -> "NoiseTruncatedNormal":
        """Return the distribution, and its noise, expanded to ``batch_shape``."""
        shape = torch.Size(batch_shape) + self.event_shape
        loc, scale, noise = (x.expand(shape) for x in (self.loc, self.scale, self.noise))
        return type(self)(loc, scale, noise, self.low, self.high)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the one sample of the given noise, differentiable in loc and scale."""
        _one_sample(sample_shape)
        return self._from_unit(
            truncated_normal_sample(self._unit_loc, self._unit_log_std, self.noise)
        )


class NoiseCategorical(Categorical):
    """A categorical that samples by the inverse CDF of given noise.

    Args:
        logits: Unnormalised log-probabilities, shape (..., num_classes).
        noise: Uniform noise in [0, 1), shape (..., 1).
    """

    def __init__(self, logits: Tensor, noise: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.noise = noise

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the one sample of the given noise, shape (...)."""
        _one_sample(sample_shape)
        return _inverse_cdf(self.probs, self.noise)


class NoiseOneHotCategorical(OneHotCategorical):
    """A one-hot categorical that samples by the inverse CDF of given noise.

    Args:
        logits: Unnormalised log-probabilities, shape (..., num_classes).
        noise: Uniform noise in [0, 1), shape (..., 1).
    """

    def __init__(self, logits: Tensor, noise: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)
        self.noise = noise

    def sample(self, sample_shape: Sequence[int] | None = None) -> Tensor:
        """Return the one sample of the given noise, shape (..., num_classes)."""
        _one_sample(sample_shape or ())
        classes = _inverse_cdf(self.probs, self.noise)
        return torch.nn.functional.one_hot(classes, self.num_samples)


def _inverse_cdf(probs: Tensor, noise: Tensor) -> Tensor:
    """Return the first class whose cumulative probability exceeds the noise."""
    below = probs[..., :-1].cumsum(-1) <= noise
    return below.sum(-1)


def _one_sample(sample_shape: Sequence[int]) -> None:
    if len(sample_shape) > 0:
        raise ValueError(
            f"sample_shape={tuple(sample_shape)} must be empty: the noise is one sample"
        )
