"""Differential and discrete entropies, and the exact inverse of the truncated normal's.

Entropies are in nats and per dimension; sum them over independent action dimensions. Half-precision
inputs are computed and returned in float32: bfloat16 cannot hold an entropy floor.
"""

import math

import torch
from torch import Tensor

from era_rl.core.feasibility import check_truncated_floor
from era_rl.core.truncation import (
    GAUSSIAN_CONSTANT,
    LOG_TWO,
    entropy_slopes,
    halley_step,
    log_std_guess,
    second_moment,
    truncated_entropy,
    truncation,
)


def at_least_float32(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the tensors with half-precision ones widened to float32, the others untouched."""
    return tuple(t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in tensors)


def normal_entropy(log_std: Tensor) -> Tensor:
    """Return the entropy of a normal distribution, h = log_std + ln(2 pi e) / 2.

    Args:
        log_std: Log standard deviation, any shape.

    Returns:
        Entropy in nats, the shape of ``log_std``.
    """
    (log_std,) = at_least_float32(log_std)
    return log_std + GAUSSIAN_CONSTANT


def categorical_entropy(logits: Tensor, dim: int = -1) -> Tensor:
    """Return the entropy of softmax(logits), H = -sum_i p_i ln p_i.

    Args:
        logits: Unnormalised log-probabilities; -inf marks an impossible class, which adds nothing.
        dim: The dimension of the classes.

    Returns:
        Entropy in nats, the shape of ``logits`` without ``dim``. NaN where every logit is -inf.
    """
    (logits,) = at_least_float32(logits)
    log_probs = logits.log_softmax(dim)
    probs = log_probs.exp()
    return -(probs * log_probs.masked_fill(probs == 0, 0.0)).sum(dim)


def categorical_log_prob(logits: Tensor, action: Tensor) -> Tensor:
    """Return ln p_action of softmax(logits).

    Args:
        logits: Unnormalised log-probabilities, shape (..., num_classes).
        action: Classes, integers of shape (...).

    Returns:
        Log-probabilities, shape (...), -inf for an impossible class.
    """
    (logits,) = at_least_float32(logits)
    return logits.log_softmax(-1).gather(-1, action.long().unsqueeze(-1)).squeeze(-1)


def categorical_sample(logits: Tensor, u: Tensor) -> Tensor:
    """Return the sample of softmax(logits) by the inverse CDF: the first class of a CDF above u.

    Args:
        logits: Unnormalised log-probabilities, shape (..., num_classes).
        u: Uniform noise in [0, 1), shape (...).

    Returns:
        Classes, int64 of shape (...).
    """
    (logits,) = at_least_float32(logits)
    return (logits.softmax(-1)[..., :-1].cumsum(-1) <= u.unsqueeze(-1)).sum(-1)


def tanh_normal_entropy(loc: Tensor, log_std: Tensor) -> Tensor:
    """Return the entropy of tanh(x), x ~ N(loc, sigma^2), by quadrature.

    h = log_std + ln(2 pi e) / 2 + E[ln(1 - tanh(x)^2)], the expectation by a 32-point trapezoid over
    z in [-5.5, 5.5]: good to 2.5e-5 nats up to log_std = 1. It is not monotone in ``log_std``.

    Args:
        loc: Mean before the squashing, shape (..., action_dim).
        log_std: Log standard deviation before the squashing, broadcastable with ``loc``.

    Returns:
        Entropy in nats per dimension, the broadcast shape.
    """
    loc, log_std = at_least_float32(loc, log_std)
    z = torch.linspace(-5.5, 5.5, 32, dtype=loc.dtype, device=loc.device)
    weights = torch.softmax(-0.5 * z * z, dim=0)
    x = loc.unsqueeze(-1) + log_std.exp().unsqueeze(-1) * z
    # ln(1 - tanh(x)^2) = 2 (ln 2 - x - softplus(-2x)), which is finite where 1 - tanh(x)^2 is 0
    log_slope = 2.0 * (LOG_TWO - x - torch.nn.functional.softplus(-2.0 * x))
    return log_std + GAUSSIAN_CONSTANT + (weights * log_slope).sum(-1)


def truncated_normal_entropy(loc: Tensor, log_std: Tensor) -> Tensor:
    """Return the entropy of Normal(loc, sigma^2) truncated to [-1, 1].

    h = log_std + ln mass + ln(2 pi) / 2 + m2 / 2, with the second standardised moment
    m2 = 1 + alpha phi(alpha) / mass - beta phi(beta) / mass. It increases with ``log_std`` towards
    its supremum ln 2.

    Args:
        loc: Location in [-1, 1], shape (..., action_dim). The result is inaccurate outside.
        log_std: Log scale of the parent normal, broadcastable with ``loc``.

    Returns:
        Entropy in nats per dimension, the broadcast shape.
    """
    loc, log_std = torch.broadcast_tensors(*at_least_float32(loc, log_std))
    t = truncation(loc, log_std)
    return truncated_entropy(log_std, t, second_moment(t))


def target_entropy_for_std(std: float, action_dim: int = 1, loc: float = 0.0) -> float:
    """Return the floor H0 = D h(loc, ln std) at which policies around ``loc`` have this std.

    Args:
        std: Scale of the normal before it is truncated, above 0, in units of half the actions' range.
        action_dim: D; the dimensions share the entropy alike.
        loc: Location in [-1, 1]; 0 is the middle of the range, where an entropy takes the least std.

    Returns:
        H0 in nats, summed over dimensions: an algorithm's ``target_entropy``.

    Raises:
        ValueError: If ``std`` or ``loc`` is out of range.
    """
    if not 0.0 < std < math.inf:
        raise ValueError(f"std={std} must be above 0, finite")
    where = _location(loc)
    h = truncated_normal_entropy(where, torch.full_like(where, std).log()).item()
    return action_dim * h


def std_for_target_entropy(target_entropy: float, action_dim: int = 1, loc: float = 0.0) -> float:
    """Return the std before truncation at which a policy around ``loc`` has the floor.

    std = exp(h^-1(loc, H0 / D)), in units of half the actions' range, where all dimensions share the
    entropy alike.

    Raises:
        ValueError: For a floor that no policy has, or a ``loc`` out of range.
    """
    check_truncated_floor(target_entropy, action_dim, 0.0)
    where = _location(loc)
    h = torch.full_like(where, target_entropy / action_dim)
    return truncated_normal_log_std(where, h).exp().item()


def _location(loc: float) -> Tensor:
    if not -1.0 <= loc <= 1.0:
        raise ValueError(f"loc={loc} must be in [-1, 1]")
    return torch.tensor(loc, dtype=torch.float64)


def truncated_normal_log_std(loc: Tensor, entropy: Tensor) -> Tensor:
    """Return the log_std at which Normal(loc, sigma^2) truncated to [-1, 1] has the given entropy.

    Solves h(loc, log_std) = entropy by a fitted start and Halley steps on T(h) = ln u - ln(1 - u) / 4,
    u = e^h / 2: one step in float32 (error 1.3e-6 nats, which is rounding), two in float64 (4e-15).
    The gradient is that of the implicit function, d log_std / d entropy = 2 / V and
    d log_std / d loc = -C / (sigma V), with V = Var(xi^2), C = Cov(xi^2, xi), xi the standardised
    sample. It works under torch.func, torch.compile and strict export. Second derivatives are wrong:
    the coefficients of the first are constants to autograd. Under ``torch.no_grad`` there is none,
    in forward mode neither.

    Args:
        loc: Location in [-1, 1], shape (..., action_dim).
        entropy: Entropy per dimension in nats, below ln 2 (NaN from there on), broadcastable with
            ``loc``. Keep it below ln 2 - 1e-3 in float32, where the gradient is well conditioned.

    Returns:
        Log scale of the parent normal, the broadcast shape.
    """
    loc, entropy = torch.broadcast_tensors(*at_least_float32(loc, entropy))
    fixed_loc, fixed_entropy = loc.detach(), entropy.detach()
    log_std = log_std_guess(fixed_loc.abs(), fixed_entropy)
    for _ in range(2 if entropy.dtype == torch.float64 else 1):
        log_std = halley_step(fixed_loc, log_std, fixed_entropy)
    if not torch.is_grad_enabled():
        return log_std
    slope_loc, slope_log_std = entropy_slopes(fixed_loc, log_std)
    change = (entropy - fixed_entropy) - slope_loc * (loc - fixed_loc)
    return log_std + change / slope_log_std
