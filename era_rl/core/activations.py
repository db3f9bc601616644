"""The three entropy regularizing activations (ERA), as functions of tensors.

Each maps raw network outputs to distribution parameters whose entropy is at least
``target_entropy``, so that the loss needs no entropy term. Paper: "Entropy Regularizing Activation",
arXiv 2510.08549. Half-precision inputs are computed and returned in float32.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from era_rl.core.budget import capped_softmax
from era_rl.core.categorical import lambert_lower, lambert_lower_approximation, temperature_logits
from era_rl.core.entropy import at_least_float32, truncated_normal_log_std
from era_rl.core.feasibility import (
    LOG_STD_MIN,
    MAX_ENTROPY,
    all_numbers,
    check_gaussian_floor,
    check_min_entropy,
    check_softmax_floor,
    check_truncated_floor,
)
from era_rl.core.truncation import GAUSSIAN_CONSTANT, LOG_TWO

SoftmaxMethod = Literal["lambert", "paper", "temperature"]


def gaussian_era(
    raw_log_std: Tensor,
    *,
    target_entropy: float | Tensor,
    log_std_min: float | Tensor = LOG_STD_MIN,
    log_std_max: float | Tensor = 0.0,
    delta: float | Tensor = 0.0,
) -> Tensor:
    """Return log_std whose Gaussian entropy is at least target_entropy + delta, but rounding (Eq. 11).

    log_std_i = max(log_std_max + (H0 + delta - D c - D log_std_max) softmax(raw)_i, log_std_min), with
    c = ln(2 pi e) / 2 and D = action_dim. The entropy held is that of the unbounded normal: a
    truncated or squashed policy has less, by an amount that depends on the state.

    Args:
        raw_log_std: Network output, shape (..., action_dim).
        target_entropy: H0 in nats, summed over dimensions. As with the bounds and delta, a tensor,
            broadcastable with ``raw_log_std``, is not checked.
        log_std_min: Lower bound of log_std; clamping to it only adds entropy.
        log_std_max: Upper bound of log_std.
        delta: Compensation for the truncation, in nats.

    Returns:
        log_std, shape (..., action_dim).

    Raises:
        ValueError: If the bounds are out of order or target_entropy + delta is above
            action_dim (log_std_max + c).
    """
    (raw_log_std,) = at_least_float32(raw_log_std)
    action_dim = _last_dim(raw_log_std, "raw_log_std")
    if all_numbers(target_entropy, log_std_min, log_std_max):
        fixed_delta = 0.0 if isinstance(delta, Tensor) else delta
        check_gaussian_floor(target_entropy, action_dim, log_std_min, log_std_max, fixed_delta)  # type: ignore[arg-type]
    spent = target_entropy + delta - action_dim * (GAUSSIAN_CONSTANT + log_std_max)
    return (log_std_max + spent * raw_log_std.softmax(-1)).clamp_min(log_std_min)


def truncated_normal_era(
    loc: Tensor,
    raw_log_std: Tensor,
    *,
    target_entropy: float | Tensor,
    log_std_min: float | Tensor = LOG_STD_MIN,
    slack_logit: Tensor | None = None,
    min_entropy_per_dim: float | Tensor | None = None,
) -> Tensor:
    """Return log_std at which the truncated normal's own entropy is at least target_entropy.

    Dimension i gets the entropy h_i = h_max - S w_i, with w = softmax(raw_log_std), h_max =
    ln 2 - 1e-3 and S = action_dim h_max - H0, so that sum_i h_i = H0 in every state; log_std_i is the
    exact inverse h^-1(loc_i, h_i), clamped to log_std_min, which only adds entropy. A slack logit
    joins the softmax and keeps the share w_0 of S unspent: then sum_i h_i = H0 + S w_0 may rise
    above the floor. With ``min_entropy_per_dim`` m no share exceeds (h_max - m) / S
    (:func:`~era_rl.core.budget.capped_softmax`), so that every h_i >= m while the sum stays H0.

    Args:
        loc: Location of the policy on [-1, 1], shape (..., action_dim).
        raw_log_std: Network output, the shape of ``loc``.
        target_entropy: H0 in nats, summed over dimensions, for actions normalised to [-1, 1]. As with
            the bound, a tensor, broadcastable with ``loc``, is not checked.
        log_std_min: Lower bound of log_std.
        slack_logit: Logit of the unspent share, shape (..., 1), or None to spend all of S.
        min_entropy_per_dim: m in nats, at most H0 / action_dim, or None; a tensor is not checked.

    Returns:
        log_std, shape (..., action_dim).

    Raises:
        ValueError: If shapes differ, or a floor or log_std_min is infeasible.
    """
    loc, raw_log_std = at_least_float32(loc, raw_log_std)
    action_dim = _last_dim(raw_log_std, "raw_log_std")
    if loc.shape[-1:] != raw_log_std.shape[-1:]:
        raise ValueError(
            f"loc has {loc.shape[-1:]} as its last dimension, raw_log_std {raw_log_std.shape[-1:]};"
            " both must be action_dim"
        )
    if all_numbers(target_entropy, log_std_min):
        check_truncated_floor(target_entropy, action_dim, log_std_min)  # type: ignore[arg-type]
    # the inverse errs by rounding; this margin puts its result on the safe side of the floor
    margin = 16.0 * torch.finfo(raw_log_std.dtype).eps
    budget = action_dim * (MAX_ENTROPY - margin) - target_entropy
    if slack_logit is not None:
        if slack_logit.shape[-1:] != (1,):
            raise ValueError(f"slack_logit has shape {tuple(slack_logit.shape)}, not (..., 1)")
        slack_logit = slack_logit.to(raw_log_std.dtype)
    if min_entropy_per_dim is None:
        weights = _softmax(raw_log_std, slack_logit)
    else:
        if all_numbers(target_entropy, min_entropy_per_dim):
            check_min_entropy(min_entropy_per_dim, target_entropy, action_dim)  # type: ignore[arg-type]
        cap = (MAX_ENTROPY - margin - min_entropy_per_dim) / budget
        weights = capped_softmax(raw_log_std, cap, slack_logit)
    # below h(loc, log_std_min) for every |loc| <= 1, so that log_std is clamped there anyway: far from
    # uniform that is at least log_std_min + c - ln 2, the half normal's
    lowest = log_std_min + (GAUSSIAN_CONSTANT - LOG_TWO - 0.5)
    entropy = (MAX_ENTROPY - budget * weights).clamp_min(lowest)
    return truncated_normal_log_std(loc, entropy).clamp_min(log_std_min)


def softmax_era(
    logits: Tensor,
    *,
    target_entropy: float | Tensor,
    tau: float = 4.0,
    method: SoftmaxMethod = "lambert",
    dim: int = -1,
    inequality: bool = False,
) -> Tensor:
    """Return logits whose softmax has an entropy of at least target_entropy, in the same order.

    "lambert": z' = W_-1(-kappa), kappa_i = (C - a) / (n - 1) + p_i (n a - C) / (n - 1), with
    p = softmax(z), a = ln(tau) / tau and C = exp(H0 - 1); exact, but not tight: see
    :attr:`CategoricalHead.entropy_floor`. "paper": the same with the paper's approximation of W_-1.
    "temperature": z' = beta (z - max z) with the largest beta <= 1 that meets the floor; tight, the
    identity where the floor is met already, and the one to use with masked logits: -inf, as a class
    at a finite one, however low, is possible.

    Args:
        logits: z, any shape with num_classes >= 2 along ``dim``.
        target_entropy: H0 in nats; a tensor, one floor for all rows or one a row, is not checked.
        tau: The paper's temperature constant, at least e (not SB3's Polyak ``tau``).
        method: "lambert", "paper" or "temperature".
        dim: The dimension of the classes.
        inequality: Whether "temperature" has the derivative of H >= H0, as heads have to learn by, not
            that of H = H0 (:func:`~era_rl.core.categorical.temperature_logits`).

    Returns:
        Logits of the same shape; float32 for half-precision inputs.

    Raises:
        ValueError: If ``method`` is unknown, tau < e, or target_entropy is outside the method's range.
    """
    (logits,) = at_least_float32(logits)
    num_classes = int(logits.shape[dim])  # a tensor under torch.jit.trace
    if not isinstance(target_entropy, Tensor):
        check_softmax_floor(target_entropy, num_classes, tau, method)
    if method == "temperature":
        last = logits.movedim(dim, -1)
        target = torch.as_tensor(target_entropy, dtype=logits.dtype, device=logits.device)
        target = target.expand(last.shape[:-1])
        return temperature_logits(last, target, inequality=inequality).movedim(-1, dim)
    if isinstance(target_entropy, Tensor):
        rows = target_entropy.unsqueeze(dim) if target_entropy.dim() else target_entropy
        c = torch.exp(rows - 1.0)
    else:
        c = math.exp(target_entropy - 1.0)
    a = math.log(tau) / tau
    # the paper's affine map of 1 - p cancels at large n; this form does not
    kappa = (c - a) / (num_classes - 1) + logits.softmax(dim) * (
        (num_classes * a - c) / (num_classes - 1)
    )
    return lambert_lower(kappa) if method == "lambert" else lambert_lower_approximation(kappa)


def _softmax(logits: Tensor, free_logit: Tensor | None) -> Tensor:
    """Return the shares of the logits, beside that of a free logit where there is one."""
    if free_logit is None:
        return logits.softmax(-1)
    return torch.cat([logits, free_logit], dim=-1).softmax(-1)[..., : logits.shape[-1]]


def _last_dim(tensor: Tensor, name: str) -> int:
    if tensor.dim() == 0 or tensor.shape[-1] == 0:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not (..., action_dim >= 1)")
    return tensor.shape[-1]
