"""Categoricals whose noise is an argument, for policies that are functions without a random state.

Given the same uniform noise, stacked agents (``torch.func.vmap``), compiled updates and separate runs
draw the same actions.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Categorical
from torchrl.modules import OneHotCategorical

from era_rl.core import categorical_sample


class _NoiseClasses:
    """Makes the sample of a categorical that of uniform noise, shape (..., 1)."""

    def __init__(self, logits: Tensor, noise: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)  # type: ignore[call-arg]
        self.noise = noise

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the one sample of the noise, shape (...)."""
        if len(sample_shape) > 0:
            raise ValueError(
                f"sample_shape={tuple(sample_shape)} must be empty: the noise is one sample"
            )
        return categorical_sample(self.logits, self.noise.squeeze(-1))  # type: ignore[attr-defined]


class NoiseCategorical(_NoiseClasses, Categorical):
    """Its sample is the class."""


class NoiseOneHotCategorical(_NoiseClasses, OneHotCategorical):
    """Its sample is the class, one-hot."""

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the one sample of the noise, shape (..., num_classes)."""
        return torch.nn.functional.one_hot(super().sample(sample_shape), self.logits.shape[-1])
