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

_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)


class Truncation(NamedTuple):
    """The standardised bounds of Normal(loc, sigma) on [-1, 1] and what every formula needs of them.

    alpha = (-1 - loc) / sigma, beta = (1 - loc) / sigma, mass = Phi(beta) - Phi(alpha), and the
    density ratios ratio_low = phi(alpha) / mass, ratio_high = phi(beta) / mass.
    """

    alpha: Tensor
    beta: Tensor
    mass: Tensor
    ratio_low: Tensor
    ratio_high: Tensor


def truncation(loc: Tensor, log_std: Tensor) -> Truncation:
    """Return the standardised bounds, mass and density ratios on the support [-1, 1].

    mass = (erf(beta / sqrt 2) + erf(-alpha / sqrt 2)) / 2 never cancels for |loc| <= 1, because then
    alpha <= 0 <= beta.
    """
    inverse_std = torch.exp(-log_std)
    alpha = (-1.0 - loc) * inverse_std
    beta = (1.0 - loc) * inverse_std
    mass = 0.5 * (torch.erf(beta * _SQRT_HALF) - torch.erf(alpha * _SQRT_HALF))
    density_scale = _INV_SQRT_2PI / mass
    ratio_low = torch.exp(-0.5 * alpha * alpha) * density_scale
    ratio_high = torch.exp(-0.5 * beta * beta) * density_scale
    return Truncation(alpha, beta, mass, ratio_low, ratio_high)


def truncated_entropy(log_std: Tensor, t: Truncation, m2: Tensor) -> Tensor:
    """Return h = log_std + ln mass + ln(2 pi) / 2 + m2 / 2, m2 the second standardised moment."""
    return log_std + t.mass.log() + (GAUSSIAN_CONSTANT - 0.5) + 0.5 * m2


def entropy_slopes(loc: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """Return dh/dloc = Cov(xi^2, xi) / (2 sigma) and dh/dlog_std = Var(xi^2) / 2.

    The raw moments follow m_k = (k - 1) m_(k-2) + alpha^(k-1) phi(alpha) / mass - (same at beta).
    """
    alpha, beta, _, low, high = truncation(loc, log_std)
    m1 = low - high
    m2 = 1.0 + alpha * low - beta * high
    alpha_square, beta_square = alpha * alpha, beta * beta
    m3 = 2.0 * m1 + alpha_square * low - beta_square * high
    m4 = 3.0 * m2 + alpha_square * alpha * low - beta_square * beta * high
    return 0.5 * (m3 - m1 * m2) * torch.exp(-log_std), 0.5 * (m4 - m2 * m2)


def halley_step(loc: Tensor, log_std: Tensor, target: Tensor) -> Tensor:
    """Return log_std after one third-order step on g = T(h(log_std)) - T(target).

    dh/dlog_std = V / 2 and d2h/dlog_std2 = K / 2 - 2 V, with V the variance and K the third cumulant
    of xi^2; dT/dh = 1 + u / (4 (1 - u)).
    """
    t = truncation(loc, log_std)
    alpha_square, beta_square = t.alpha * t.alpha, t.beta * t.beta
    low, high = t.alpha * t.ratio_low, t.beta * t.ratio_high
    m2 = 1.0 + low - high
    low, high = low * alpha_square, high * beta_square
    m4 = 3.0 * m2 + low - high
    m6 = 5.0 * m4 + alpha_square * low - beta_square * high
    m2_square = m2 * m2
    variance = m4 - m2_square
    cumulant = m6 - 3.0 * m4 * m2 + 2.0 * m2 * m2_square

    h = truncated_entropy(log_std, t, m2)
    # rounding can lift h to ln 2 near the supremum, where ln(1 - u) is not finite
    gap = (-torch.expm1(h - LOG_TWO)).clamp_min(1e-6)
    target_gap = -torch.expm1(target - LOG_TWO)
    odds = 0.25 * (1.0 - gap) / gap
    g = (h - target) - 0.25 * torch.log(gap / target_gap)
    slope = 0.5 * variance * (1.0 + odds)
    curvature = 0.25 * variance * variance * odds / gap + (1.0 + odds) * (
        0.5 * cumulant - 2.0 * variance
    )
    newton = g / slope
    return log_std - newton / (1.0 - 0.5 * newton * curvature / slope)


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
