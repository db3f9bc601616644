"""The mathematics of ERA in torch: entropies, activations, distributions and heads."""

from era_rl.core.activations import gaussian_era, softmax_era, truncated_normal_era
from era_rl.core.categorical_heads import CategoricalHead, MultiCategoricalHead
from era_rl.core.compensation import LearnedDelta, delta_loss
from era_rl.core.distributions import (
    TruncatedNormal,
    truncated_normal_kl,
    truncated_normal_log_prob,
    truncated_normal_mean,
    truncated_normal_sample,
    truncated_normal_variance,
)
from era_rl.core.entropy import (
    categorical_entropy,
    categorical_log_prob,
    categorical_sample,
    normal_entropy,
    std_for_target_entropy,
    tanh_normal_entropy,
    target_entropy_for_std,
    truncated_normal_entropy,
    truncated_normal_log_std,
)
from era_rl.core.feasibility import check_bounds
from era_rl.core.gaussian_heads import (
    GaussianHead,
    TanhGaussianHead,
    TruncatedGaussianHead,
    auto_target_entropy,
)
from era_rl.core.head import Head
from era_rl.core.options import OnPolicyOptions, PolicyOptions
from era_rl.core.schedule import EntropySchedule

__all__ = [
    "CategoricalHead",
    "EntropySchedule",
    "GaussianHead",
    "Head",
    "LearnedDelta",
    "MultiCategoricalHead",
    "OnPolicyOptions",
    "PolicyOptions",
    "TanhGaussianHead",
    "TruncatedGaussianHead",
    "TruncatedNormal",
    "auto_target_entropy",
    "categorical_entropy",
    "categorical_log_prob",
    "categorical_sample",
    "check_bounds",
    "delta_loss",
    "gaussian_era",
    "normal_entropy",
    "softmax_era",
    "std_for_target_entropy",
    "tanh_normal_entropy",
    "target_entropy_for_std",
    "truncated_normal_entropy",
    "truncated_normal_era",
    "truncated_normal_kl",
    "truncated_normal_log_prob",
    "truncated_normal_log_std",
    "truncated_normal_mean",
    "truncated_normal_sample",
    "truncated_normal_variance",
]
