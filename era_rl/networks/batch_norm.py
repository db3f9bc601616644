"""Batch-normalised networks whose weights have rows of unit norm, those of XQC (arXiv 2509.25174)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

EPS, MOMENTUM = 1e-3, 0.01
"""Of each normalisation; the momentum is the weight of a batch, so XQC's is .99 as others count it."""


class BatchNormMLP(nn.Sequential):
    """BatchNorm, then Linear without bias -> BatchNorm -> ReLU for each width.

    BatchNorm(x) = g (x - mean) / sqrt(var + 1e-3) + b: in train mode by the mean and variance of the
    batch, towards which the running ones move by 0.01; in eval mode, as actions are taken, by these.
    From (n, in_features) to (n, widths[-1]); an output layer follows.

    Args:
        in_features: Features of the input.
        widths: Features of each layer, at least one.

    Raises:
        ValueError: Where there is no width, or one below 1.
    """

    def __init__(self, in_features: int, widths: Sequence[int]) -> None:
        if not widths or min(widths) < 1:
            raise ValueError(f"widths={list(widths)} must be one or more numbers of at least 1")
        layers: list[nn.Module] = [nn.BatchNorm1d(in_features, EPS, MOMENTUM)]
        for before, after in zip([in_features, *widths], widths, strict=False):
            layers.append(nn.Linear(before, after, bias=False))
            nn.init.orthogonal_(layers[-1].weight)  # pyright: ignore[reportArgumentType]
            layers += [nn.BatchNorm1d(after, EPS, MOMENTUM), nn.ReLU()]
        super().__init__(*layers)


class UnitRowAdam(torch.optim.Adam):
    """Adam that divides each row w of each matrix by its norm |w|, at first and after each step.

    The normalisation that follows a matrix makes the norms of its rows meaningless, but as they grow,
    steps turn the rows by less. Vectors, so biases and gains, and Adam's moments stay as they are.

    Args:
        params: As Adam's.
        stacked: Leading dimensions of parameters that are stacked, (..., out, in).
        **kwargs: As Adam's.
    """

    def __init__(self, params: Any, *, stacked: int = 0, **kwargs: Any) -> None:
        self.stacked = stacked
        super().__init__(params, **kwargs)
        for group in self.param_groups:
            self.project(group)

    def step(self, closure: Any = None) -> Any:
        """Take Adam's step and project; return the loss of the closure, if there is one."""
        loss = super().step(closure)
        for group in self.param_groups:
            self.project(group)
        return loss

    @torch.no_grad()
    def project(self, group: dict[str, Any]) -> None:
        """Set w = w / |w| for the rows of each matrix of a group that is not frozen."""
        for parameter in group["params"]:
            if parameter.ndim == 2 + self.stacked and parameter.requires_grad:
                F.normalize(parameter, dim=-1, out=parameter)
