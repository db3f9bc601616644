"""Values as distributions over bins, learned by cross-entropy (C51, arXiv 1707.06887)."""

import torch
from torch import Tensor, nn


def value_bins(low: float, high: float, bins: int) -> Tensor:
    """Return z_i = low + i (high - low) / (bins - 1), shape (bins,).

    Raises:
        ValueError: For fewer than two bins, or low not below high.
    """
    if bins < 2:
        raise ValueError(f"bins={bins} must be at least 2")
    if not low < high:
        raise ValueError(f"low={low} must be below high={high}")
    return torch.linspace(low, high, bins)


def categorical_mean(logits: Tensor, z: Tensor) -> Tensor:
    """Return sum_i softmax(logits)_i z_i, shape (...), of logits (..., bins)."""
    return logits.softmax(-1) @ z


def project_categorical(probs: Tensor, values: Tensor, z: Tensor) -> Tensor:
    """Return the distribution on the bins z that has probability probs_j at values_j.

    p_i = sum_j probs_j max(0, 1 - |clamp(values_j) - z_i| / dz): each value, clamped to [z_0, z_n], is
    shared between its two neighbours. The mean is kept, but for what is clamped.

    Args:
        probs: (..., m).
        values: (..., m), at any places: r + gamma z for a Bellman target.
        z: Equally spaced, (bins,).

    Returns:
        Probabilities, (..., bins), that sum to those of probs.
    """
    bins = z.shape[-1]
    # not over z_1 - z_0, which has lost digits to cancellation
    place = (values.clamp(z[0], z[-1]) - z[0]) * ((bins - 1) / (z[-1] - z[0]))
    below = place.detach().floor().clamp(0, bins - 2)
    share = place - below
    index = below.long()
    projected = torch.zeros_like(probs[..., :1]).expand(*probs.shape[:-1], bins)
    projected = projected.scatter_add(-1, index, probs * (1.0 - share))
    return projected.scatter_add(-1, index + 1, probs * share)


def least_categorical(logits: Tensor, z: Tensor) -> Tensor:
    """Return the probabilities, (..., bins), of the critic with the smallest mean.

    Args:
        logits: Of several critics, (critics, ..., bins).
        z: The bins, (bins,).
    """
    least = categorical_mean(logits, z).argmin(0)
    chosen = torch.take_along_dim(logits, least[None, ..., None], dim=0)
    return chosen.squeeze(0).softmax(-1)


def categorical_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy -sum_i target_i log softmax(logits)_i, shape (...)."""
    return -(target * logits.log_softmax(-1)).sum(-1)


class CategoricalValue(nn.Linear):
    """An output layer of logits over bins, and their mean.

    Args:
        in_features: Features of the input.
        bins: Number of bins, at least 2.
        low: The first bin.
        high: The last bin.

    Raises:
        ValueError: As :func:`value_bins`.
    """

    z: Tensor

    def __init__(
        self, in_features: int, bins: int = 101, low: float = -5.0, high: float = 5.0
    ) -> None:
        z = value_bins(low, high, bins)
        super().__init__(in_features, bins)
        self.register_buffer("z", z)

    def logits(self, features: Tensor) -> Tensor:
        """Return the logits, (..., bins), of features, (..., in_features)."""
        return super().forward(features)

    def forward(self, input: Tensor) -> Tensor:
        """Return the mean, (..., 1), at features, (..., in_features)."""
        return categorical_mean(self.logits(input), self.z).unsqueeze(-1)
