"""The mathematics of ERA in torch: entropies, activations, distributions and heads."""

from era_rl.core.activations import gaussian_era, softmax_era, truncated_normal_era
from era_rl.core.categorical_heads import CategoricalHead, MultiCategoricalHead
from era_rl.core.compensation import LearnedDelta, delta_loss
from era_rl.core.distributions import TruncatedNormal, truncated_normal_sample
from era_rl.core.entropy import (
    categorical_entropy,
    normal_entropy,
    tanh_normal_entropy,
    truncated_normal_entropy,
    truncated_normal_log_std,
)
from era_rl.core.heads import (
    GaussianHead,
    TruncatedGaussianHead,
    auto_target_entropy,
)

__all__ = [
    "CategoricalHead",
    "GaussianHead",
    "LearnedDelta",
    "MultiCategoricalHead",
    "TruncatedGaussianHead",
    "TruncatedNormal",
    "auto_target_entropy",
    "categorical_entropy",
    "delta_loss",
    "gaussian_era",
    "normal_entropy",
    "softmax_era",
    "tanh_normal_entropy",
    "truncated_normal_entropy",
    "truncated_normal_era",
    "truncated_normal_log_std",
    "truncated_normal_sample",
]
