"""The default floors, and which can be held: the checks that constructors and functions share."""

import math
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from era_rl.core.truncation import GAUSSIAN_CONSTANT, LOG_TWO

NATS_PER_DIM = -0.5
"""The default floor of a continuous policy per dimension, for actions normalised to [-1, 1]."""

ON_POLICY_NATS_PER_DIM = -0.3
"""That of PPO and A2C, as in the paper's PPO runs."""

AUTO_FRACTION = 0.3
"""The default floor of a discrete policy, as a fraction of the largest entropy possible."""

_DEFAULTS = (
    f"the default is {NATS_PER_DIM} nats a dimension, {ON_POLICY_NATS_PER_DIM} with PPO and A2C"
)

LOG_STD_MIN = -8.0
"""The default lower bound of log_std."""

ON_POLICY_LOG_STD_MIN = -5.0
"""That of PPO and A2C: at e^-8 the log-probability of an action on the other side of the range is
-1.8e7 a dimension, at e^-5 -4.4e4."""

WIDEST_RANGE = 1e9
"""Bounds of actions this far apart stand for none, as dm_control's of 1e10 do."""

MAX_ENTROPY = LOG_TWO - 1e-3
"""Largest entropy per dimension that `truncated_normal_era` gives: its supremum is ln 2 nats, where
the gradient is no longer well conditioned in float32."""

LOG_STD_LOWEST = -20.0
"""Lowest log_std_min: below it float32 cannot resolve actions in [-1, 1] anyway."""

LOWEST_ENTROPY = -1e30
"""Far below it a floor times a weight of zero is NaN in float32; no policy has so little anyway."""

LOG_STD_HIGHEST = 20.0
"""Highest log_std_max: far above it Eq. 11's products overflow, and it is no bound any more."""


def check_log_std_max(log_std_max: float) -> None:
    """Raise ValueError for an upper bound of log_std that is NaN or too high."""
    if not log_std_max <= LOG_STD_HIGHEST:
        raise ValueError(f"log_std_max={log_std_max} must be at most {LOG_STD_HIGHEST}")


def check_delta(delta: float) -> None:
    """Raise ValueError for a compensation that is NaN or negative."""
    if not delta >= 0.0:
        raise ValueError(f"delta={delta} must be at least 0")


def check_count(name: str, value: int, least: int = 1) -> None:
    """Raise ValueError unless an argument is an integer of at least ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}={value!r} must be at least {least}, an integer")


def check_flag(name: str, value: Any) -> None:
    """Raise ValueError unless an argument is True or False: "no" and 0.5 would count as true."""
    if not isinstance(value, bool):
        raise ValueError(f"{name}={value!r} must be True or False")


def check_gaussian_floor(
    target_entropy: float, action_dim: int, log_std_min: float, log_std_max: float, delta: float
) -> None:
    """Raise ValueError unless Eq. 11 can reach target_entropy + delta within the log_std bounds."""
    check_log_std_max(log_std_max)
    if not LOG_STD_LOWEST <= log_std_min < log_std_max:
        raise ValueError(
            f"log_std_min={log_std_min} must be in [{LOG_STD_LOWEST}, log_std_max={log_std_max})"
        )
    check_delta(delta)
    highest = action_dim * (log_std_max + GAUSSIAN_CONSTANT)
    if not LOWEST_ENTROPY < target_entropy + delta <= highest:
        raise ValueError(
            f"target_entropy={target_entropy} with delta={delta} must be at most {highest:.6g} nats, "
            f"the Gaussian entropy of {action_dim} dimension(s) at log_std_max={log_std_max}; "
            + _DEFAULTS
        )


def check_truncated_floor(target_entropy: float, action_dim: int, log_std_min: float) -> None:
    """Raise ValueError unless a truncated normal can have target_entropy nats."""
    if not LOG_STD_LOWEST <= log_std_min <= 0.0:
        raise ValueError(f"log_std_min={log_std_min} must be in [{LOG_STD_LOWEST}, 0]")
    highest = action_dim * MAX_ENTROPY
    if not LOWEST_ENTROPY < target_entropy < highest:
        raise ValueError(
            f"target_entropy={target_entropy} must be below {highest:.6g} nats: an action on [-1, 1] "
            f"has at most ln 2 per dimension, here with {action_dim} dimension(s); {_DEFAULTS}"
        )


def check_min_entropy(min_entropy_per_dim: float, target_entropy: float, action_dim: int) -> None:
    """Raise ValueError unless each of action_dim dimensions can have as much within the sum."""
    highest = target_entropy / action_dim
    if not min_entropy_per_dim <= highest:
        raise ValueError(
            f"min_entropy_per_dim={min_entropy_per_dim} must be at most {highest:.6g} nats, "
            f"target_entropy={target_entropy} over {action_dim} dimension(s)"
        )


def check_softmax_floor(target_entropy: float, num_classes: int, tau: float, method: str) -> None:
    """Raise ValueError unless ``method`` can hold target_entropy over num_classes classes."""
    check_count("num_classes", num_classes, 2)
    if method == "temperature":
        if not 0.0 <= target_entropy < math.log(num_classes):
            raise ValueError(
                f"target_entropy={target_entropy} must be in [0, {math.log(num_classes):.6g}), "
                f"ln {num_classes}"
            )
        return
    if method not in ("lambert", "paper"):
        raise ValueError(f"method={method!r} must be 'lambert', 'paper' or 'temperature'")
    if not math.e <= tau < math.inf:
        raise ValueError(f"tau={tau} must be finite and at least e = {math.e:.6g}")
    slope = math.log(tau) / tau
    lowest = 1.0 + math.log(slope)
    highest = math.log(num_classes) + lowest
    # next to the lowest exp(H0 - 1) rounds to ln(tau) / tau, and a probability of 0 would give NaN
    if not (lowest < target_entropy <= highest and math.exp(target_entropy - 1.0) > slope):
        raise ValueError(
            f"target_entropy={target_entropy} must be in ({lowest:.6g}, {highest:.6g}] nats for "
            f"num_classes={num_classes} and tau={tau}: above it larger logits get less probability"
        )


def check_bounds(what: str, low: Any, high: Any) -> None:
    """Raise ValueError unless a bounded action has a range in every dimension.

    Args:
        what: What has the bounds, for the message: "action_space=Box(...)" say.
        low: Lower bounds, an array or a tensor of floating-point numbers.
        high: Upper bounds, of the same shape.
    """
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    dtype = low.dtype
    if not dtype.is_floating_point:
        raise ValueError(f"{what} must have floating-point actions, not {dtype}")
    span = (high - low).double().flatten()  # as it is taken where actions are scaled
    low, high = low.double().flatten(), high.double().flatten()
    bad = ~((low < high) & (span < WIDEST_RANGE))
    if bad.any():
        index = int(bad.nonzero()[0])
        raise ValueError(
            f"{what}: the bounds of dimension {index} are low={low[index].item()} and "
            f"high={high[index].item()}; they must be finite with 0 < high - low < {WIDEST_RANGE:g} in "
            f"{dtype}"
        )


def all_numbers(*values: float | Tensor) -> bool:
    """Return whether none is a tensor: a tensor's value is checked where it is set, not where used."""
    return not any(isinstance(value, Tensor) for value in values)
