"""Slow float64 and 50-digit references, written independently of the code under test."""

import math
from collections.abc import Callable

import mpmath as mp
import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[np.float64]

mp.mp.dps = 50

GAUSSIAN_CONSTANT = 0.5 * math.log(2.0 * math.pi * math.e)


def entropy_mp(loc: float, log_std: float) -> mp.mpf:
    """h of the normal truncated to [-1, 1], by the definition -int p ln p of its density's moments."""
    loc, sigma = mp.mpf(loc), mp.exp(mp.mpf(log_std))
    alpha, beta = (-1 - loc) / sigma, (1 - loc) / sigma
    mass = (mp.erf(beta / mp.sqrt(2)) - mp.erf(alpha / mp.sqrt(2))) / 2
    second = 1 + (alpha * mp.npdf(alpha) - beta * mp.npdf(beta)) / mass
    return mp.log(sigma * mass) + mp.log(2 * mp.pi) / 2 + second / 2


def _root(rising: Callable[[mp.mpf], mp.mpf], low: float, high: float) -> mp.mpf:
    """The zero of a rising function: 24 bisections, then secant steps to all 50 digits."""
    low, high = mp.mpf(low), mp.mpf(high)
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return mp.findroot(rising, (low, high), tol=mp.mpf(10) ** -80)


def log_std_mp(loc: float, entropy: float) -> mp.mpf:
    """The log_std at which the entropy is reached."""
    return _root(lambda x: entropy_mp(loc, x) - entropy, -25, 8)


def log_std_slopes_mp(loc: float, entropy: float) -> tuple[float, float]:
    """d log_std / d loc and d log_std / d entropy, by 50-digit central differences."""
    step = mp.mpf(10) ** -12
    loc, entropy = mp.mpf(loc), mp.mpf(entropy)
    along_loc = log_std_mp(loc + step, entropy) - log_std_mp(loc - step, entropy)
    along_entropy = log_std_mp(loc, entropy + step) - log_std_mp(loc, entropy - step)
    return float(along_loc / (2 * step)), float(along_entropy / (2 * step))


def kl_mp(loc: float, log_std: float, other_loc: float, other_log_std: float) -> float:
    """int p ln(p / q) by quadrature in 30 digits."""

    def log_density(x: mp.mpf, loc: float, log_std: float) -> mp.mpf:
        sigma = mp.exp(mp.mpf(log_std))
        bounds = [(side - mp.mpf(loc)) / (sigma * mp.sqrt(2)) for side in (-1, 1)]
        mass = (mp.erf(bounds[1]) - mp.erf(bounds[0])) / 2
        return -(((x - loc) / sigma) ** 2) / 2 - mp.log(sigma * mass * mp.sqrt(2 * mp.pi))

    def integrand(x: mp.mpf) -> mp.mpf:
        log_p = log_density(x, loc, log_std)
        return mp.exp(log_p) * (log_p - log_density(x, other_loc, other_log_std))

    width = 12 * mp.exp(mp.mpf(log_std))
    ends = [-1, max(-1, loc - width), min(1, loc + width), 1]
    with mp.workdps(30):
        return float(mp.quad(integrand, [*ends[:2], loc, *ends[2:]]))


def sample_mp(loc: float, log_std: float, u: float) -> mp.mpf:
    """The x in [-1, 1] with F(x) = u."""
    loc, sigma, u = mp.mpf(loc), mp.exp(mp.mpf(log_std)), mp.mpf(u)
    root = mp.sqrt(2) * sigma
    bottom, top = mp.erf((-1 - loc) / root), mp.erf((1 - loc) / root)
    level = bottom + u * (top - bottom)
    return _root(lambda x: mp.erf((x - loc) / root) - level, -1, 1)


def sample_slopes_mp(loc: float, log_std: float, u: float) -> tuple[float, float]:
    """dx / d loc and dx / d log_std of the inverse CDF, by 50-digit central differences."""
    step = mp.mpf(10) ** -12
    loc, log_std = mp.mpf(loc), mp.mpf(log_std)
    along_loc = sample_mp(loc + step, log_std, u) - sample_mp(loc - step, log_std, u)
    along_std = sample_mp(loc, log_std + step, u) - sample_mp(loc, log_std - step, u)
    return float(along_loc / (2 * step)), float(along_std / (2 * step))


def truncated_normal_entropy(loc: Array, log_std: Array) -> Array:
    """h in float64 on arrays; accurate because the mass never cancels for |loc| <= 1."""
    sigma = np.exp(log_std)
    alpha, beta = (-1.0 - loc) / sigma, (1.0 - loc) / sigma
    mass = 0.5 * (special.erf(beta / math.sqrt(2.0)) + special.erf(-alpha / math.sqrt(2.0)))
    flux = alpha * np.exp(-0.5 * alpha**2) - beta * np.exp(-0.5 * beta**2)
    second = 1.0 + flux / (math.sqrt(2.0 * math.pi) * mass)
    return log_std + np.log(mass) + 0.5 * math.log(2.0 * math.pi) + 0.5 * second


def softmax_entropy(logits: Array) -> Array:
    """H of softmax(logits) over the last axis in float64."""
    shifted = logits - logits.max(-1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(-1)
    products = weights * np.where(weights > 0.0, shifted, 0.0)
    return np.log(total) - products.sum(-1) / total


def lambert_logits(logits: Array, target_entropy: float, tau: float) -> Array:
    """W_-1 of the paper's affine map, by scipy, in the paper's own form."""
    count = logits.shape[-1]
    probs = special.softmax(logits, axis=-1)
    a = math.log(tau) / tau
    c = math.exp(target_entropy - 1.0)
    kappa = a - (count * a - c) / (count - 1) * (1.0 - probs)
    return special.lambertw(-kappa, -1).real


def temperature(logits: Array, target_entropy: float) -> float:
    """The largest beta <= 1 with H(beta logits) >= target_entropy for one row, by bisection."""
    if softmax_entropy(logits) >= target_entropy:
        return 1.0
    low, high = -60.0, 0.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        safe = softmax_entropy(math.exp(middle) * logits) >= target_entropy
        low, high = (middle, high) if safe else (low, middle)
    return math.exp(low)
