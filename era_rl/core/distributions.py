"""The truncated normal distribution, with tail-safe sampling and a closed-form gradient."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.kl import register_kl

from era_rl.core.entropy import at_least_float32
from era_rl.core.truncation import (
    Truncation,
    log_density,
    second_moment,
    truncated_entropy,
    truncation,
    unit_log_prob,
)

_SQRT_HALF = math.sqrt(0.5)
# Gauss-Legendre nodes and weights of order 8: halves, the rest by symmetry
_NODES = (0.1834346424956498, 0.525532409916329, 0.7966664774136267, 0.9602898564975363)
_WEIGHTS = (0.362683783378362, 0.3137066458778873, 0.2223810344533745, 0.1012285362903763)


def truncated_normal_sample(
    loc: Tensor, log_std: Tensor, u: Tensor, shared: Truncation | None = None
) -> Tensor:
    """Return the reparameterised sample x = F^-1(u) of Normal(loc, sigma^2) truncated to [-1, 1].

    The inverse CDF is evaluated in the nearer tail, so samples are finite and inside the support for
    every |loc| <= 1 and every sigma. With xi = (x - loc) / sigma, r_low = (1 - u) phi(alpha) / phi(xi)
    and r_high = u phi(beta) / phi(xi) the gradients are dx/dloc = 1 - r_low - r_high and
    dx/dlog_std = sigma (xi - alpha r_low - beta r_high). Second derivatives are wrong: these
    coefficients are constants to autograd. Under ``torch.no_grad`` there is none, in forward mode
    neither.

    Args:
        loc: Location in [-1, 1], shape (..., action_dim).
        log_std: Log scale of the parent normal, broadcastable with ``loc``.
        u: Uniform noise in [0, 1), of the broadcast shape; no gradient flows to it.
        shared: The truncation of loc and log_std, of equal shapes, where it is known already.

    Returns:
        Samples in [-1, 1], the broadcast shape.
    """
    loc, log_std, u = torch.broadcast_tensors(*at_least_float32(loc, log_std, u))
    fixed_loc, fixed_log_std, u = loc.detach(), log_std.detach(), u.detach()
    std = fixed_log_std.exp()
    known = truncation(fixed_loc, fixed_log_std) if shared is None else shared
    t = Truncation(*(each.detach() for each in known))
    xi = _inverse_cdf(t, u)
    x = (fixed_loc + std * xi).clamp(-1.0, 1.0)
    if not torch.is_grad_enabled():
        return x
    # r_low and r_high stacked; the exponent is negative unless the sample lies beyond the mirror
    # image of the bound
    exponent = 0.5 * (xi - t.bounds) * (xi + t.bounds)
    r = torch.stack([1.0 - u, u]) * torch.exp(exponent.clamp(-100.0, 80.0))
    slope_log_std = std * (xi - (t.bounds * r).sum(0))
    return x + (1.0 - r.sum(0)) * (loc - fixed_loc) + slope_log_std * (log_std - fixed_log_std)


def _inverse_cdf(t: Truncation, u: Tensor) -> Tensor:
    """Return xi with (Phi(xi) - Phi(alpha)) / mass = u, computed from the nearer tail."""
    alpha, beta = t.bounds.unbind()
    beyond = 0.5 * torch.erfc(t.bounds.abs() * _SQRT_HALF)
    tail_low, tail_high = torch.addcmul(beyond, torch.stack([u, 1.0 - u]), t.mass).unbind()
    xi = torch.special.ndtri(torch.minimum(tail_low, tail_high).clamp_min(1e-37))
    return torch.where(tail_low < tail_high, xi, -xi).clamp(alpha, beta)


def truncated_normal_log_prob(loc: Tensor, log_std: Tensor, x: Tensor) -> Tensor:
    """Return the log density of Normal(loc, sigma^2) truncated to [-1, 1].

    ln p(x) = -xi^2 / 2 - log_std - ln(2 pi) / 2 - ln mass, with xi = (x - loc) / sigma, and -inf off
    the support.

    Args:
        loc: Location in [-1, 1], shape (..., action_dim).
        log_std: Log scale of the parent normal, broadcastable with ``loc``.
        x: Actions, broadcastable with ``loc``.

    Returns:
        Log densities in nats per dimension, the broadcast shape.
    """
    loc, log_std = torch.broadcast_tensors(*at_least_float32(loc, log_std))
    return unit_log_prob(loc, log_std, x, truncation(loc, log_std))


def truncated_normal_mean(loc: Tensor, log_std: Tensor) -> Tensor:
    """Return the mean of Normal(loc, sigma^2) truncated to [-1, 1], loc + sigma m1.

    m1 = (phi(alpha) - phi(beta)) / mass = -sign(loc) phi(nearer bound) (1 - exp(-2 |loc| / sigma^2)) /
    mass, which does not cancel at small |loc| / sigma.

    Args:
        loc: Location in [-1, 1], shape (..., action_dim).
        log_std: Log scale of the parent normal, broadcastable with ``loc``.

    Returns:
        Means, the broadcast shape.
    """
    loc, log_std = torch.broadcast_tensors(*at_least_float32(loc, log_std))
    low, high = truncation(loc, log_std).ratios.unbind()
    negative = loc < 0.0
    # its slope at 0 is one side's, not 0 as that of abs
    distance = torch.where(negative, -loc, loc)
    factor = -torch.expm1(-2.0 * distance * torch.exp(-2.0 * log_std))
    return loc + log_std.exp() * torch.where(negative, low, high) * factor


def truncated_normal_variance(loc: Tensor, log_std: Tensor) -> Tensor:
    """Return the variance of Normal(loc, sigma^2) truncated to [-1, 1], sigma^2 (m2 - m1^2).

    Above sigma = 1, where the difference cancels, it is an integral by eight points, good to 1e-10.

    Args:
        loc: Location in [-1, 1], shape (..., action_dim).
        log_std: Log scale of the parent normal, broadcastable with ``loc``.

    Returns:
        Variances, the broadcast shape.
    """
    loc, log_std = torch.broadcast_tensors(*at_least_float32(loc, log_std))
    t = truncation(loc, log_std)
    narrow = torch.exp(2.0 * log_std) * (second_moment(t) - t.ratios.sum(0).square())
    x = loc.new_tensor([-n for n in _NODES] + list(_NODES))
    log_weights = loc.new_tensor(_WEIGHTS * 2).log()
    precision = torch.exp(-2.0 * log_std.clamp_min(0.0)).unsqueeze(-1)
    p = torch.softmax(log_weights - 0.5 * precision * (x - loc.unsqueeze(-1)).square(), dim=-1)
    mean = (p * x).sum(-1, keepdim=True)
    wide = (p * (x - mean).square()).sum(-1)
    return torch.where(log_std > 0.0, wide, narrow)


def truncated_normal_kl(
    loc: Tensor, log_std: Tensor, other_loc: Tensor, other_log_std: Tensor
) -> Tensor:
    """Return KL(p || q) of two normals truncated to [-1, 1], p of loc and log_std, q of the others.

    KL = ln(sigma_q mass_q) - ln(sigma_p mass_p) + (E_p[xi_q^2] - E_p[xi_p^2]) / 2, xi = (x - loc) /
    sigma of each, E_p[xi_p^2] = m2 and E_p[xi_q^2] = (sigma_p^2 m2 + 2 sigma_p d m1 + d^2) / sigma_q^2,
    d = loc_p - loc_q, m1 and m2 the standardised moments of p.

    Args:
        loc: Location of p in [-1, 1], shape (..., action_dim).
        log_std: Log scale of p's parent normal, broadcastable with ``loc``.
        other_loc: Location of q, broadcastable with ``loc``.
        other_log_std: Log scale of q's parent normal, broadcastable with ``loc``.

    Returns:
        KL divergences in nats per dimension, the broadcast shape.
    """
    loc, log_std, other_loc, other_log_std = torch.broadcast_tensors(
        *at_least_float32(loc, log_std, other_loc, other_log_std)
    )
    p, q = truncation(loc, log_std), truncation(other_loc, other_log_std)
    m1, m2 = p.ratios.sum(0), second_moment(p)
    ratio = torch.exp(log_std - other_log_std)
    shift = (loc - other_loc) * torch.exp(-other_log_std)
    seen_by_q = ratio * ratio * m2 + 2.0 * ratio * shift * m1 + shift * shift
    log_scales = other_log_std - log_std + (q.mass / p.mass).log()
    return log_scales + 0.5 * (seen_by_q - m2)


class TruncatedNormal(Distribution):
    """Independent normals truncated to [low, high], as a distribution over action vectors.

    Each dimension has the density p(x) = phi((x - loc) / scale) / (scale mass) on [low, high]. The
    last ``event_dims`` dimensions are one event: ``log_prob`` and ``entropy`` sum over them. Works as
    ``distribution_class`` of TorchRL's ``ProbabilisticActor``.

    Args:
        loc: Location within [low, high], shape (..., action_dim), in the units of the bounds.
        scale: Scale of the parent normal, positive, broadcastable with ``loc``.
        low: Lower bound, a number or a tensor broadcastable with ``loc``.
        high: Upper bound, above ``low``.
        event_dims: How many trailing dimensions form one event.
        validate_args: Whether to check the arguments and values, which reads tensor values (a host
            synchronisation on CUDA); off by default.
        noise: Uniform noise, of the shape of ``loc``, that the one sample is of, for a policy that is a
            function (``torch.func.vmap``, compiled, replayed); by default torch's random numbers.

    Raises:
        ValueError: If ``low`` and ``high`` are numbers out of order, ``event_dims`` exceeds the
            dimensions of ``loc``, or ``validate_args`` finds an argument outside its range.
    """

    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale: Tensor,
        low: float | Tensor = -1.0,
        high: float | Tensor = 1.0,
        event_dims: int = 1,
        validate_args: bool | None = False,
        noise: Tensor | None = None,
    ) -> None:
        if not (isinstance(low, Tensor) or isinstance(high, Tensor)) and not low < high:
            raise ValueError(f"low={low} must be below high={high}")
        loc, scale = torch.broadcast_tensors(*at_least_float32(loc, scale))
        if not 0 <= event_dims <= loc.dim():
            raise ValueError(
                f"event_dims={event_dims} must be in [0, {loc.dim()}], the dims of loc"
            )
        self.loc, self.scale = loc, scale
        self.low = torch.as_tensor(low, dtype=loc.dtype, device=loc.device)
        self.high = torch.as_tensor(high, dtype=loc.dtype, device=loc.device)
        self._half_width = 0.5 * (self.high - self.low)
        self._kept_truncation: Truncation | None = None
        self.noise = noise
        split = loc.dim() - event_dims
        super().__init__(loc.shape[:split], loc.shape[split:], validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """The ranges that ``validate_args`` checks."""
        within = constraints.interval(self.low, self.high)
        return {"loc": within, "scale": constraints.positive}

    @property
    def support(self) -> constraints.Constraint:
        """The box [low, high]."""
        within = constraints.interval(self.low, self.high)
        return constraints.independent(within, len(self.event_shape))

    @property
    def _unit_loc(self) -> Tensor:
        return (self.loc - self.low) / self._half_width - 1.0

    @property
    def _unit_log_std(self) -> Tensor:
        return (self.scale / self._half_width).log()

    @property
    def _truncation(self) -> Truncation:
        if self._kept_truncation is None:  # density and entropy share it
            self._kept_truncation = truncation(self._unit_loc, self._unit_log_std)
        return self._kept_truncation

    def _from_unit(self, x: Tensor) -> Tensor:
        return (self.low + (x + 1.0) * self._half_width).clamp(self.low, self.high)

    def _sum_events(self, value: Tensor) -> Tensor:
        return value.sum(tuple(range(-len(self.event_shape), 0))) if self.event_shape else value

    def expand(
        self, batch_shape: Sequence[int], _instance: "TruncatedNormal | None" = None
    ) -> "TruncatedNormal":
        """Return the distribution with its batch dimensions expanded to ``batch_shape``."""
        shape = torch.Size(batch_shape) + self.event_shape
        loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        noise = None if self.noise is None else self.noise.expand(shape)
        dims = len(self.event_shape)
        return type(self)(loc, scale, self.low, self.high, dims, noise=noise)

    @property
    def mode(self) -> Tensor:
        """The mode, which is ``loc``."""
        return self.loc

    @property
    def deterministic_sample(self) -> Tensor:
        """The mode: TorchRL's name for the deterministic action."""
        return self.loc

    @property
    def mean(self) -> Tensor:
        """The mean (see :func:`truncated_normal_mean`)."""
        return self._from_unit(truncated_normal_mean(self._unit_loc, self._unit_log_std))

    @property
    def variance(self) -> Tensor:
        """The variance (see :func:`truncated_normal_variance`)."""
        unit = truncated_normal_variance(self._unit_loc, self._unit_log_std)
        return self._half_width.square() * unit

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ln p(value), -inf off the support (see :func:`truncated_normal_log_prob`)."""
        if self._validate_args:
            self._validate_sample(value)
        xi = (value - self.loc) / self.scale
        log_prob = log_density(xi, self.scale.log(), self._truncation)
        outside = (value < self.low) | (value > self.high)
        return self._sum_events(log_prob.masked_fill(outside, -math.inf))

    def entropy(self) -> Tensor:
        """Return the entropy in nats: that on [-1, 1] plus ln((high - low) / 2) per dimension."""
        t = self._truncation
        unit = truncated_entropy(self._unit_log_std, t, second_moment(t))
        return self._sum_events(unit + self._half_width.log())

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return reparameterised samples (see :func:`truncated_normal_sample`)."""
        u = self.noise
        if u is None:
            shape = self._extended_shape(torch.Size(sample_shape))
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        elif len(sample_shape) > 0:
            raise ValueError(
                f"sample_shape={tuple(sample_shape)} must be empty: the noise is one sample"
            )
        return self._from_unit(truncated_normal_sample(self._unit_loc, self._unit_log_std, u))


@register_kl(TruncatedNormal, TruncatedNormal)
def _kl(p: TruncatedNormal, q: TruncatedNormal) -> Tensor:
    """Return ``torch.distributions.kl_divergence`` of two of the same bounds, which is not checked."""
    unit = truncated_normal_kl(p._unit_loc, p._unit_log_std, q._unit_loc, q._unit_log_std)
    return p._sum_events(unit)
