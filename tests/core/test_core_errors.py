"""Every refusal is a ValueError that names the argument, its value and what is allowed."""

import math
from functools import partial

import pytest
import torch

from era_rl.core import (
    CategoricalHead,
    GaussianHead,
    LearnedDelta,
    TruncatedGaussianHead,
    TruncatedNormal,
    gaussian_era,
    softmax_era,
    truncated_normal_era,
)

RAW = torch.zeros(5, 3)
gaussian = partial(gaussian_era, RAW)
truncated = partial(truncated_normal_era, RAW, RAW)
softmax = partial(softmax_era, RAW)
exact_head = partial(TruncatedGaussianHead, 3)
paper_head = partial(TruncatedGaussianHead, 3, floor="gaussian")

# (call, its arguments, what the message must say: argument=value, then the range)
REFUSALS = [
    (gaussian, {"target_entropy": 4.3}, "target_entropy=4.3 .* at most 4.25682 "),
    (gaussian, {"target_entropy": math.nan}, "target_entropy=nan .* at most 4.25682 "),
    (gaussian, {"target_entropy": -math.inf}, "target_entropy=-inf .* at most 4.25682 "),
    (gaussian, {"target_entropy": 4.0, "delta": 0.3}, "target_entropy=4.0 with delta=0.3 .* 4.25"),
    (gaussian, {"target_entropy": 0.0, "delta": -0.1}, "delta=-0.1 must be at least 0"),
    (gaussian, {"target_entropy": 0.0, "delta": math.nan}, "delta=nan must be at least 0"),
    (
        gaussian,
        {"target_entropy": 0.0, "log_std_min": 0.0},
        r"log_std_min=0.0 must be in \[-20.0, log_std_max=0.0\)",
    ),
    (gaussian, {"target_entropy": 0.0, "log_std_min": -21.0}, r"log_std_min=-21.0 .*\[-20.0"),
    (gaussian, {"target_entropy": 0.0, "log_std_min": math.nan}, r"log_std_min=nan .*\[-20.0"),
    (truncated, {"target_entropy": 2.08}, "target_entropy=2.08 must be below 2.07644"),
    (truncated, {"target_entropy": math.nan}, "target_entropy=nan must be below 2.07644"),
    (truncated, {"target_entropy": -math.inf}, "target_entropy=-inf must be below 2.07644"),
    (
        truncated,
        {"target_entropy": -3.0, "min_entropy_per_dim": -0.9},
        "min_entropy_per_dim=-0.9 must be at most -1 nats",
    ),
    (
        truncated,
        {"target_entropy": -3.0, "min_entropy_per_dim": math.nan},
        "min_entropy_per_dim=nan must be at most -1 nats",
    ),
    (exact_head, {"min_entropy_per_dim": 0.0}, "min_entropy_per_dim=0.0 must be at most -0.5 nats"),
    (paper_head, {"min_entropy_per_dim": -1.0}, "min_entropy_per_dim=-1.0 needs floor='exact'"),
    (truncated, {"target_entropy": 0.0, "log_std_min": 0.5}, r"log_std_min=0.5 .*\[-20.0, 0\]"),
    (truncated, {"target_entropy": 0.0, "log_std_min": -25.0}, r"log_std_min=-25.0 .*\[-20.0, 0"),
    (
        truncated,
        {"target_entropy": 0.0, "slack_logit": torch.zeros(5, 2)},
        r"slack_logit has shape \(5, 2\), not \(..., 1\)",
    ),
    (
        partial(truncated_normal_era, RAW, torch.zeros(5, 4)),
        {"target_entropy": 0.0},
        r"loc has .*\[3\].* raw_log_std .*\[4\].* action_dim",
    ),
    (
        partial(gaussian_era, torch.zeros(5, 0)),
        {"target_entropy": 0.0},
        r"raw_log_std has shape \(5, 0\), not \(..., action_dim >= 1\)",
    ),
    (
        partial(truncated_normal_era, torch.tensor(0.0), torch.tensor(0.0)),
        {"target_entropy": 0.0},
        r"raw_log_std has shape \(\), not \(..., action_dim >= 1\)",
    ),
    (softmax, {"target_entropy": 0.5, "tau": 2.7}, "tau=2.7 must be finite and at least e = 2.718"),
    (softmax, {"target_entropy": 0.5, "tau": math.inf}, "tau=inf must be finite and at least e"),
    (softmax, {"target_entropy": 0.5, "tau": math.nan}, "tau=nan must be finite and at least e"),
    (
        softmax,
        {"target_entropy": 1.05},
        r"target_entropy=1.05 must be in \(-0.0596601, 1.03895\] .*num_classes=3 and tau=4.0",
    ),
    (softmax, {"target_entropy": -0.1}, r"target_entropy=-0.1 must be in \(-0.0596601, 1.03895\]"),
    (softmax, {"target_entropy": math.nan}, "target_entropy=nan must be in "),
    # exp(H0 - 1) would round to ln(tau) / tau, and a class of probability 0 get NaN
    (softmax, {"target_entropy": 1e-30, "tau": math.e}, r"target_entropy=1e-30 must be in \("),
    (
        softmax,
        {"target_entropy": 1.1, "method": "temperature"},
        r"target_entropy=1.1 must be in \[0, 1.09861\), ln 3",
    ),
    (
        softmax,
        {"target_entropy": -0.1, "method": "temperature"},
        r"target_entropy=-0.1 .*\[0, 1.09",
    ),
    (
        softmax,
        {"target_entropy": 0.5, "method": "exact"},
        "method='exact' must be 'lambert', 'paper'",
    ),
    (
        partial(softmax_era, torch.zeros(5, 1)),
        {"target_entropy": 0.0, "method": "temperature"},
        "num_classes=1 must be at least 2",
    ),
    (CategoricalHead, {"num_classes": 1}, "num_classes=1 must be at least 2"),
    (CategoricalHead, {"num_classes": 0}, "num_classes=0 must be at least 2"),
    (
        CategoricalHead,
        {"num_classes": 3, "target_entropy": "high"},
        "target_entropy='high' must be a number of nats or 'auto'",
    ),
    (CategoricalHead, {"num_classes": 3, "method": "best"}, "method='best' must be 'lambert'"),
    (CategoricalHead(3), {"logits": torch.zeros(5, 4)}, r"\(5, 4\), not \(..., num_classes=3\)"),
    (CategoricalHead(3), {"logits": torch.tensor(0.0)}, r"\(\), not \(..., num_classes=3\)"),
    (TruncatedGaussianHead, {"action_dim": 0}, "action_dim=0 must be at least 1"),
    (GaussianHead, {"action_dim": 0}, "action_dim=0 must be at least 1"),
    (GaussianHead, {"action_dim": 3, "target_entropy": 4.3}, "target_entropy=4.3 .* at most 4.25"),
    (GaussianHead, {"action_dim": 3, "delta": 99.0}, "delta=99.0 .* at most 4.25682"),
    (exact_head, {"floor": "best"}, "floor='best' must be 'exact' or 'gaussian'"),
    (exact_head, {"delta": 0.1}, "delta=0.1 needs floor='gaussian'"),
    (exact_head, {"slack": 0.0}, r"slack=0.0 must be in \(0, 1\), or None"),
    (exact_head, {"slack": 1.0}, r"slack=1.0 must be in \(0, 1\), or None"),
    (exact_head, {"slack": math.nan}, r"slack=nan must be in \(0, 1\), or None"),
    (exact_head, {"target_entropy": "floor"}, "target_entropy='floor' must be a number"),
    (exact_head, {"target_entropy": False}, "target_entropy=False must be a number of nats or"),
    (exact_head, {"log_std_min": True}, "log_std_min=True must be a number"),
    (paper_head, {"delta": True}, "delta=True must be a number"),
    (TruncatedGaussianHead, {"action_dim": True}, "action_dim=True must be at least 1, an integer"),
    (CategoricalHead, {"num_classes": 3, "tau": "4"}, "tau='4' must be a number"),
    (exact_head, {"target_entropy": 2.08}, "target_entropy=2.08 must be below 2.07644"),
    (exact_head, {"log_std_min": 1.0}, r"log_std_min=1.0 must be in \[-20.0, 0\]"),
    (paper_head, {"slack": 0.5}, "slack=0.5 needs floor='exact'"),
    (paper_head, {"log_std_min": 0.0}, r"log_std_min=0.0 must be in \[-20.0, log_std_max=0.0\)"),
    (paper_head, {"target_entropy": 5.0}, "target_entropy=5.0 .* at most 4.25682"),
    (exact_head(), {"raw": torch.zeros(5, 7)}, r"raw has shape \(5, 7\), not \(..., raw_dim=6\)"),
    (exact_head(slack=0.5), {"raw": torch.zeros(6)}, r"\(6,\), not \(..., raw_dim=7\)"),
    (
        partial(LearnedDelta, -1.0, 2),
        {"initial": 3.9},
        r"initial=3.9 must be in \[0, 3.83788\] nats",
    ),
    (partial(LearnedDelta, -1.0, 2), {"initial": -0.1}, r"initial=-0.1 must be in \[0, 3.83788\]"),
    (partial(LearnedDelta, 9.0, 2), {}, r"initial=0.0 must be in \[0, -6.16212\]"),
    (
        partial(TruncatedNormal, RAW, RAW + 1.0),
        {"low": 1.0, "high": 1.0},
        "low=1.0 must be below high=1.0",
    ),
    (
        partial(TruncatedNormal, RAW, RAW + 1.0),
        {"event_dims": 3},
        r"event_dims=3 must be in \[0, 2\]",
    ),
    (
        partial(TruncatedNormal, RAW, RAW + 1.0),
        {"event_dims": -1},
        r"event_dims=-1 must be in \[0, 2\]",
    ),
]


@pytest.mark.parametrize(("call", "arguments", "message"), REFUSALS)
def test_refusals_name_argument_value_and_range(call, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(**arguments)
