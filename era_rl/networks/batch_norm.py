"""Batch-normalised networks with weights of unit norm, those of XQC.

Which statistics normalise is said by the call, not by a train or eval mode: ``forward`` takes the
running ones, as acting does; ``by_batch`` takes the batch's and returns them, for the caller to
``absorb``. So a pass changes nothing, under ``torch.func``, ``torch.compile`` and in a CUDA graph too.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance of the inputs of each normalisation of a network, in order."""


def batch_norm(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, *, eps: float = 1e-3
) -> Tensor:
    """Return weight (x - mean) / sqrt(var + eps) + bias; x is (..., features), the rest (features,)."""
    scale = weight * (var + eps).rsqrt()
    return (x - mean) * scale + bias


class BatchNorm(nn.Module):
    """Parameters and running statistics of a :func:`batch_norm`.

    Args:
        features: Last dimension of the inputs.
        momentum: Weight of a batch in the running statistics, in (0, 1] (XQC's .99 is 1 - momentum).
        eps: Added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, momentum: float = 0.01, eps: float = 1e-3) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, (..., features), by the running statistics."""
        statistics = (self.running_mean, self.running_var)
        return batch_norm(x, *statistics, self.weight, self.bias, eps=self.eps)

    def by_batch(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Normalise x, (n, features), by its own mean and (biased) variance; return these too."""
        var, mean = torch.var_mean(x, dim=-2, correction=0)
        normed = batch_norm(x, mean, var, self.weight, self.bias, eps=self.eps)
        return normed, (mean.detach(), var.detach())


class BatchNormMLP(nn.Module):
    """BatchNorm, then Linear without bias -> BatchNorm -> ReLU for each width; an output layer follows.

    Args:
        in_features: Features of the input.
        widths: Features of each layer, at least one.

    Raises:
        ValueError: Where there is no width, or one below 1.
    """

    def __init__(self, in_features: int, widths: Sequence[int]) -> None:
        super().__init__()
        if not widths or min(widths) < 1:
            raise ValueError(f"widths={list(widths)} must be one or more numbers of at least 1")
        sizes = [in_features, *widths]
        self.norms = nn.ModuleList(map(BatchNorm, sizes))
        self.linears = nn.ModuleList(
            nn.Linear(before, after, bias=False)
            for before, after in zip(sizes[:-1], widths, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, (..., widths[-1]), of x, (..., in_features), by running statistics."""
        first, *norms = self.norms
        x = first(x)
        for linear, norm in zip(self.linears, norms, strict=True):
            x = F.relu(norm(linear(x)))
        return x

    def by_batch(self, x: Tensor) -> tuple[Tensor, Statistics]:
        """Return the features, (n, widths[-1]), of x by the batch's statistics, and these."""
        first, *norms = self.norms
        x, of_input = first.by_batch(x)  # type: ignore[operator]
        statistics = [of_input]
        for linear, norm in zip(self.linears, norms, strict=True):
            x, of_layer = norm.by_batch(linear(x))  # type: ignore[operator]
            x = F.relu(x)
            statistics.append(of_layer)
        return x, statistics

    @torch.no_grad()
    def absorb(self, statistics: Statistics) -> None:
        """Move the running statistics towards those of a batch by their momentum, in place."""
        for norm, (mean, var) in zip(self.norms, statistics, strict=True):
            norm.running_mean.lerp_(mean, norm.momentum)  # type: ignore[operator, union-attr]
            norm.running_var.lerp_(var, norm.momentum)  # type: ignore[operator, union-attr]


def unit_rows(weight: Tensor) -> Tensor:
    """Return the matrix, (..., out, in), with each row divided by its Euclidean norm."""
    return F.normalize(weight, dim=-1)


@torch.no_grad()
def project_rows(weights: Iterable[Tensor]) -> None:
    """Put :func:`unit_rows` in the place of each matrix.

    Taken after each optimizer step: the normalisation that follows makes the norms meaningless, but as
    they grow steps turn the rows by less. The optimizer's state stays as it is.

    Source: XQC, arXiv 2509.25174.
    """
    for weight in weights:
        weight.copy_(unit_rows(weight))
