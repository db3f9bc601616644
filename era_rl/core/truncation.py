"""The numerical core of the truncated normal on [-1, 1]: bounds, moments, and steps of the inverse.

Plain formulas on tensors of one floating-point dtype of at least 32 bits; the public functions are in
``entropy`` and ``distributions``.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

LOG_TWO = math.log(2.0)
GAUSSIAN_CONSTANT = 0.5 * math.log(2.0 * math.pi * math.e)
"""Entropy of the unit normal, c = ln(2 pi e) / 2 nats."""

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


class Truncation(NamedTuple):
    """The standardised bounds of Normal(loc, sigma) on [-1, 1] and what every formula needs of them.

    ``bounds`` stacks alpha = (-1 - loc) / sigma and beta = (1 - loc) / sigma along a new first
    dimension; ``mass`` = Phi(beta) - Phi(alpha); ``ratios`` stacks phi(alpha) / mass and
    -phi(beta) / mass, so that the recurrence of the raw moments of xi is a sum over that dimension:
    m_k = (k - 1) m_(k-2) + sum bounds^(k-1) ratios, with m_0 = 1 and m_1 = sum ratios.
    """

    bounds: Tensor
    mass: Tensor
    ratios: Tensor


def truncation(loc: Tensor, log_std: Tensor) -> Truncation:
    """Return the standardised bounds, mass and density ratios on the support [-1, 1].

    mass = (erf(beta / sqrt 2) + erf(-alpha / sqrt 2)) / 2 never cancels for |loc| <= 1, because then
    alpha <= 0 <= beta. Both bounds go through each operation together: on the small tensors of a
    policy the number of operations is what costs.
    """
    ends = torch.stack([-1.0 - loc, 1.0 - loc])
    bounds = ends * torch.exp(-log_std)
    erf_low, erf_high = torch.erf(bounds * _SQRT_HALF).unbind()
    mass = 0.5 * (erf_high - erf_low)
    low, high = torch.exp(-0.5 * bounds * bounds).unbind()
    scale = _INV_SQRT_2PI / mass
    return Truncation(bounds, mass, torch.stack([low * scale, -high * scale]))


def truncated_entropy(log_std: Tensor, t: Truncation, m2: Tensor) -> Tensor:
    """Return h = log_std + ln mass + ln(2 pi) / 2 + m2 / 2, m2 the second standardised moment."""
    return log_std + t.mass.log() + torch.add(GAUSSIAN_CONSTANT - 0.5, m2, alpha=0.5)


def log_density(xi: Tensor, log_std: Tensor, t: Truncation) -> Tensor:
    """Return ln p = -xi^2 / 2 - log_std - ln(2 pi) / 2 - ln mass, for xi within the bounds."""
    return -0.5 * xi * xi - (log_std + t.mass.log() + HALF_LOG_2PI)


def unit_log_prob(loc: Tensor, log_std: Tensor, x: Tensor, t: Truncation) -> Tensor:
    """Return the log density of x on [-1, 1], -inf off it."""
    log_prob = log_density((x - loc) * torch.exp(-log_std), log_std, t)
    return log_prob.masked_fill(x.abs() > 1.0, -math.inf)


def second_moment(t: Truncation) -> Tensor:
    """Return m2 = E[xi^2] = 1 + alpha phi(alpha) / mass - beta phi(beta) / mass."""
    return 1.0 + (t.bounds * t.ratios).sum(0)


def entropy_slopes(loc: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """Return dh/dloc = Cov(xi^2, xi) / (2 sigma) and dh/dlog_std = Var(xi^2) / 2."""
    t = truncation(loc, log_std)
    m1, m2 = t.ratios.sum(0), second_moment(t)
    weighted = t.bounds * t.bounds * t.ratios
    m3 = torch.add(weighted.sum(0), m1, alpha=2.0)
    m4 = torch.add((t.bounds * weighted).sum(0), m2, alpha=3.0)
    return 0.5 * (m3 - m1 * m2) * torch.exp(-log_std), 0.5 * (m4 - m2 * m2)


def halley_step(loc: Tensor, log_std: Tensor, target: Tensor) -> Tensor:
    """Return log_std after one third-order step on g = T(h(log_std)) - T(target).

    dh/dlog_std = V / 2 and d2h/dlog_std2 = K / 2 - 2 V, with V the variance and K the third cumulant
    of xi^2; dT/dh = 1 + u / (4 (1 - u)).
    """
    t = truncation(loc, log_std)
    squares = t.bounds * t.bounds
    weighted = t.bounds * t.ratios
    m2 = 1.0 + weighted.sum(0)
    weighted = weighted * squares
    m4 = torch.add(weighted.sum(0), m2, alpha=3.0)
    m6 = torch.add((weighted * squares).sum(0), m4, alpha=5.0)
    variance = m4 - m2 * m2
    # K = m6 - 3 m4 m2 + 2 m2^3 = m6 - m2 (m4 + 2 V)
    cumulant = m6 - m2 * torch.add(m4, variance, alpha=2.0)

    h = truncated_entropy(log_std, t, m2)
    # rounding can lift h to ln 2 near the supremum, where ln(1 - u) is not finite
    gap = (-torch.expm1(h - LOG_TWO)).clamp_min(1e-6)
    target_gap = -torch.expm1(target - LOG_TWO)
    odds = 0.25 / gap - 0.25
    g = torch.add(h - target, torch.log(gap / target_gap), alpha=-0.25)
    slope = 0.5 * variance * (1.0 + odds)
    newton = g / slope
    # g'' / (2 g') = T'' h' / (2 T') + h'' / (2 h')
    bend = variance * odds / (1.0 + 3.0 * gap) + 0.5 * cumulant / variance - 2.0
    return log_std - newton / (1.0 - newton * bend)


def log_std_guess(m: Tensor, entropy: Tensor) -> Tensor:
    """Return a closed-form guess of the inverse, within 0.012 of it, for m = |loc|.

    It interpolates the three limits that are known: sigma = e^h / sqrt(2 pi e) far from the bounds,
    twice that at |loc| = 1 (the half normal), and the uniform limit h -> ln 2. The polynomials are a
    least-squares fit of what remains; the Halley steps make the result exact.
    """
    u = torch.exp(entropy - LOG_TWO)
    gap = -torch.expm1(entropy - LOG_TWO)
    d = 1.0 - m
    x = (d / u).clamp(max=6.0)
    q1 = 0.5947 + u * (0.0597 + 1.6155 * u)
    q2 = 0.1934 - u * (2.2824 + 0.6001 * u)
    q3 = 1.115 + u * (1.5974 + 2.2627 * u)
    near_bound = torch.exp(-(x * (q1 + x * (q2 + x * q3))).clamp(-1.0, 30.0))
    flat = (0.25 / LOG_TWO) * torch.log1p(15.0 * m * m)
    bump = 0.026 + 0.0281 * u + m * (1.1917 - 4.7338 * u + m * (10.1523 * u - 2.8681))
    weight = near_bound + (flat - near_bound) * (u * u * u) + d * u * gap * bump
    interior = u * (
        -0.25628622 + u * (-0.06437311 + u * (-0.17991665 + u * (0.38752988 * u - 0.29743101)))
    )
    return (entropy - GAUSSIAN_CONSTANT) + interior + LOG_TWO * weight - 0.25 * gap.log()
