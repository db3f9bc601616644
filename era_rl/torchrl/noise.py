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

from era_rl.core import TruncatedNormal, categorical_sample, truncated_normal_sample


class NoiseTruncatedNormal(TruncatedNormal):
    """A :class:`TruncatedNormal` whose sample is that of uniform noise, of the shape of ``loc``."""

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
        """Return the one sample of the noise, differentiable in loc and scale."""
        _check_one(sample_shape)
        unit = truncated_normal_sample(self._unit_loc, self._unit_log_std, self.noise)
        return self._from_unit(unit)


class _NoiseClasses:
    """Makes the sample of a categorical that of uniform noise, shape (..., 1)."""

    def __init__(self, logits: Tensor, noise: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)  # type: ignore[call-arg]
        self.noise = noise

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the one sample of the noise, shape (...)."""
        _check_one(sample_shape)
        return categorical_sample(self.logits, self.noise.squeeze(-1))  # type: ignore[attr-defined]


class NoiseCategorical(_NoiseClasses, Categorical):
    """Its sample is the class."""


class NoiseOneHotCategorical(_NoiseClasses, OneHotCategorical):
    """Its sample is the class, one-hot."""

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the one sample of the noise, shape (..., num_classes)."""
        return torch.nn.functional.one_hot(super().sample(sample_shape), self.logits.shape[-1])


def _check_one(sample_shape: Sequence[int]) -> None:
    if len(sample_shape) > 0:
        raise ValueError(
            f"sample_shape={tuple(sample_shape)} must be empty: the noise is one sample"
        )
