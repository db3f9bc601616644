"""The truncated normal: samples, gradients, density and moments against scipy and 50 digits."""

import math

import numpy as np
import oracle
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from era_rl.core import (
    TruncatedNormal,
    truncated_normal_entropy,
    truncated_normal_kl,
    truncated_normal_log_prob,
    truncated_normal_mean,
    truncated_normal_sample,
    truncated_normal_variance,
)
from era_rl.core.portable import complementary_error_function, normal_quantile

LOCS = (-1.0, -0.97, -0.4, 0.0, 0.6, 0.999, 1.0)
LOG_STDS = (-8.0, -5.0, -2.0, -0.5, 0.0, 2.0)
POINTS = [(loc, log_std) for loc in LOCS for log_std in LOG_STDS]
QUANTILES = (1e-9, 0.2, 0.9, 1.0 - 1e-6)


def _grid(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    loc, log_std = torch.tensor(POINTS, dtype=dtype).unbind(-1)
    return loc, log_std


def _scipy(loc: torch.Tensor, log_std: torch.Tensor, low=-1.0, high=1.0):
    loc, scale = loc.double().numpy(), log_std.double().exp().numpy()
    return stats.truncnorm((low - loc) / scale, (high - loc) / scale, loc, scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_samples_match_the_density(dtype) -> None:
    loc, log_std = _grid(dtype)
    samples = TruncatedNormal(loc, log_std.exp()).sample((4000,))
    assert samples.dtype == dtype
    assert ((samples >= -1.0) & (samples <= 1.0)).all()
    for i in range(len(loc)):
        reference = _scipy(loc[i], log_std[i])
        # 84 tests in all: a p-value of 1e-4 has a chance of 1% among them, with a fixed seed
        assert stats.kstest(samples[:, i].double().numpy(), reference.cdf).pvalue > 1e-4


@pytest.mark.parametrize(("loc", "log_std"), POINTS)
def test_sample_and_its_gradient_equal_the_50_digit_inverse_cdf(loc, log_std) -> None:
    u = torch.tensor(QUANTILES, dtype=torch.float64)
    locs = torch.full_like(u, loc).requires_grad_()
    log_stds = torch.full_like(u, log_std).requires_grad_()
    x = truncated_normal_sample(locs, log_stds, u)
    x.sum().backward()
    scale = math.exp(log_std)
    for i, quantile in enumerate(QUANTILES):
        expected = oracle.sample_mp(loc, log_std, quantile)
        slope_loc, slope_std = oracle.sample_slopes_mp(loc, log_std, quantile)
        assert abs(x[i].item() - expected) <= 1e-12 + 1e-9 * min(scale, 1.0)
        assert locs.grad[i].item() == pytest.approx(slope_loc, rel=1e-6, abs=1e-8)
        assert log_stds.grad[i].item() == pytest.approx(slope_std, rel=1e-6, abs=1e-8)


def test_float32_samples_equal_float64_ones() -> None:
    loc, log_std = _grid(torch.float32)
    u = torch.rand(2000, len(loc))
    narrow = truncated_normal_sample(loc, log_std, u)
    wide = truncated_normal_sample(loc.double(), log_std.double(), u.double())
    # within a rounding of the action, or a rounding of u divided by the density
    density = TruncatedNormal(loc.double(), log_std.double().exp(), event_dims=0)
    slope = (-density.log_prob(wide)).exp()
    assert ((narrow - wide).abs() <= 2.0**-23 * (4.0 + 8.0 * slope)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_extreme_samples_are_finite_inside_the_support_and_differentiable(dtype) -> None:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    eps = torch.finfo(wide).eps
    u = torch.tensor([0.0, eps * eps, 0.5, 1.0 - eps, 1.0 - eps / 2], dtype=wide).unsqueeze(-1)
    edges = [(loc, s) for loc in (-1.0, 0.0, 1.0, 0.5) for s in (-20.0, -8.0, 0.0, 10.0)]
    loc, log_std = (t.requires_grad_() for t in torch.tensor(edges, dtype=dtype).T.contiguous())
    x = truncated_normal_sample(loc, log_std, u)
    grads = torch.autograd.grad(x.sum(), (loc, log_std))
    assert x.dtype == wide
    assert all(t.isfinite().all() for t in (x, *grads))
    assert ((x >= -1.0) & (x <= 1.0)).all()


def test_sample_without_gradients_is_the_same_number_and_rises_with_u() -> None:
    loc, log_std = _grid(torch.float64)
    u = torch.linspace(0.0, 1.0 - 1e-12, 999, dtype=torch.float64).unsqueeze(-1)
    x = truncated_normal_sample(loc, log_std, u)
    assert (x.diff(dim=0) >= 0.0).all()
    loc.requires_grad_()
    assert torch.equal(truncated_normal_sample(loc, log_std, u), x)


def test_density_integrates_to_one_and_gives_the_entropy() -> None:
    loc, log_std = _grid(torch.float64)
    scale = log_std.exp()
    low = torch.maximum(torch.full_like(loc, -1.0), loc - 12.0 * scale)
    high = torch.minimum(torch.full_like(loc, 1.0), loc + 12.0 * scale)
    nodes, weights = (torch.from_numpy(t) for t in np.polynomial.legendre.leggauss(200))
    x = low + (high - low) * 0.5 * (nodes.unsqueeze(-1) + 1.0)
    log_prob = TruncatedNormal(loc, scale, event_dims=0).log_prob(x)
    mass = weights.unsqueeze(-1) * 0.5 * (high - low) * log_prob.exp()
    torch.testing.assert_close(mass.sum(0), torch.ones_like(loc), rtol=0.0, atol=1e-12)
    entropy = -(mass * log_prob).sum(0)
    torch.testing.assert_close(
        entropy, truncated_normal_entropy(loc, log_std), rtol=0.0, atol=1e-11
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_entropy_is_the_mean_of_minus_log_prob_of_samples(dtype) -> None:
    loc, log_std = _grid(dtype)
    policy = TruncatedNormal(loc, log_std.exp(), event_dims=0)
    surprise = -policy.log_prob(policy.sample((20_000,))).double()
    error = surprise.mean(0) - policy.entropy()
    # constant densities have no spread: there the rounding of log_prob remains
    assert (error.abs() <= 5.0 * surprise.std(0) / math.sqrt(20_000) + 1e-5).all()


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 10.0), (-3.0, -2.5)])
def test_density_and_moments_equal_scipys_on_any_bounds(low, high) -> None:
    unit_loc, log_std = _grid(torch.float64)
    loc, half = low + (unit_loc + 1.0) * 0.5 * (high - low), 0.5 * (high - low)
    policy = TruncatedNormal(loc, half * log_std.exp(), low, high, event_dims=0)
    reference = _scipy(loc, log_std + math.log(half), low, high)
    x = policy.sample((50,))
    np.testing.assert_allclose(policy.log_prob(x), reference.logpdf(x.numpy()), atol=1e-9)
    np.testing.assert_allclose(policy.mean, reference.mean(), atol=1e-10 * half, rtol=1e-10)
    np.testing.assert_allclose(policy.entropy(), reference.entropy(), atol=1e-8)
    assert torch.equal(policy.mode, loc)
    assert torch.equal(policy.deterministic_sample, loc)
    assert ((x >= low) & (x <= high)).all()
    modest = log_std <= 0.0  # scipy's variance cancels for wide scales
    np.testing.assert_allclose(policy.variance[modest], reference.var()[modest.numpy()], rtol=1e-6)


def test_moments_in_float32_equal_float64_ones() -> None:
    loc, log_std = _grid(torch.float32)
    narrow = TruncatedNormal(loc, log_std.exp())
    wide = TruncatedNormal(loc.double(), log_std.exp().double())
    torch.testing.assert_close(narrow.mean.double(), wide.mean, rtol=0.0, atol=1e-6)
    torch.testing.assert_close(narrow.variance.double(), wide.variance, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(narrow.stddev.double(), wide.stddev, rtol=1e-3, atol=1e-6)


def test_log_prob_is_minus_infinity_off_the_support() -> None:
    policy = TruncatedNormal(torch.zeros(3, 2), torch.ones(2))
    inside, outside = torch.zeros(3, 2), torch.tensor([[0.0, 1.5], [-2.0, 0.0], [0.0, 0.0]])
    assert policy.log_prob(inside).isfinite().all()
    assert policy.log_prob(outside).tolist()[:2] == [-torch.inf, -torch.inf]
    assert policy.log_prob(outside)[2].isfinite()


@pytest.mark.parametrize("event_dims", [0, 1, 2])
def test_event_dims_sum_log_prob_and_entropy(event_dims) -> None:
    loc, scale = torch.tanh(torch.randn(4, 3, 2)), torch.rand(4, 3, 2) + 0.1
    policy = TruncatedNormal(loc, scale, event_dims=event_dims)
    single = TruncatedNormal(loc, scale, event_dims=0)
    split = 3 - event_dims
    assert policy.batch_shape == loc.shape[:split]
    assert policy.event_shape == loc.shape[split:]
    x = policy.sample((5,))
    assert x.shape == (5, 4, 3, 2)
    dims = tuple(range(-event_dims, 0))
    log_prob, entropy = single.log_prob(x), single.entropy()
    torch.testing.assert_close(policy.log_prob(x), log_prob.sum(dims) if dims else log_prob)
    torch.testing.assert_close(policy.entropy(), entropy.sum(dims) if dims else entropy)


def test_expand_repeats_the_distribution() -> None:
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])
    policy = TruncatedNormal(torch.tensor([0.5, 0.5]), torch.tensor([0.3, 2.0]), low, high)
    wide = policy.expand((7, 3))
    assert wide.batch_shape == (7, 3)
    assert wide.event_shape == (2,)
    x = policy.sample()
    torch.testing.assert_close(wide.log_prob(x.expand(7, 3, 2)), policy.log_prob(x).expand(7, 3))
    torch.testing.assert_close(wide.entropy(), policy.entropy().expand(7, 3))


def test_bounds_may_differ_by_dimension() -> None:
    low, high = torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1.0])
    loc, scale = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.3, 2.0]])
    both = TruncatedNormal(loc, scale, low, high, event_dims=0)
    x = both.sample((100,))
    for i in range(2):
        one = TruncatedNormal(loc[:, i], scale[:, i], low[i].item(), high[i].item(), event_dims=0)
        torch.testing.assert_close(both.log_prob(x)[..., i], one.log_prob(x[..., i]))
        torch.testing.assert_close(both.mean[..., i], one.mean)


def _by_quadrature(loc: torch.Tensor, log_std: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the density on [-1, 1] by the midpoint rule, in float64."""
    x = (torch.arange(60_000, dtype=torch.float64) + 0.5) / 30_000.0 - 1.0
    logits = -0.5 * ((x - loc.unsqueeze(-1)) * torch.exp(-log_std).unsqueeze(-1)).square()
    p = logits.softmax(-1)
    mean = (p * x).sum(-1)
    return mean, (p * (x - mean.unsqueeze(-1)).square()).sum(-1)


def test_mean_and_variance_are_the_integrals_with_their_slopes() -> None:
    """E[x] = loc + sigma m1, Var[x] = sigma^2 (m2 - m1^2): at loc = 0 and at huge sigma too."""
    loc = torch.tensor([-1.0, -0.3, 0.0, 1e-4, 0.9], dtype=torch.float64)
    loc, log_std = torch.meshgrid(loc, torch.linspace(-3.0, 8.0, 12).double(), indexing="ij")
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 3e-5)):
        arguments = [x.to(dtype).requires_grad_() for x in (loc, log_std)]
        exact = [x.clone().requires_grad_() for x in (loc, log_std)]
        ours = truncated_normal_mean(*arguments), truncated_normal_variance(*arguments)
        for found, expected in zip(ours, _by_quadrature(*exact), strict=True):
            slopes = torch.autograd.grad(found.sum(), arguments, retain_graph=True)
            expected_slopes = torch.autograd.grad(expected.sum(), exact, retain_graph=True)
            for a, b in zip((found, *slopes), (expected, *expected_slopes), strict=True):
                torch.testing.assert_close(a.double(), b, rtol=0.0, atol=tolerance)


def test_density_and_entropy_share_their_truncation() -> None:
    """ln p and H from one object are those of the functions, ln p -inf off the support."""
    loc, log_std = torch.tanh(torch.randn(7, 3)), torch.randn(7, 3)
    policy = TruncatedNormal(loc, log_std.exp())
    x = policy.sample()
    log_prob, entropy = policy.log_prob(x), policy.entropy()
    expected = truncated_normal_log_prob(loc, log_std, x).sum(-1)
    torch.testing.assert_close(log_prob, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy, truncated_normal_entropy(loc, log_std).sum(-1))
    outside = truncated_normal_log_prob(loc, log_std, torch.full_like(loc, 1.1))
    assert (outside == -math.inf).all()


def test_rsample_carries_gradients_through_the_bounds() -> None:
    loc = torch.tensor([2.0, 9.9], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.0, 4.0], dtype=torch.float64, requires_grad=True)

    def sampled(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return TruncatedNormal(loc, scale, 0.0, 10.0).rsample((3,))

    assert torch.autograd.gradcheck(sampled, (loc, scale))
    assert not TruncatedNormal(loc, scale, 0.0, 10.0).sample().requires_grad


def test_validation_accepts_what_is_inside() -> None:
    policy = TruncatedNormal(torch.zeros(2), torch.ones(2), validate_args=True)
    assert policy.log_prob(torch.ones(2)).isfinite()
    assert policy.support.check(torch.tensor([0.3, 1.0]))
    assert not policy.support.check(torch.tensor([0.3, 1.1]))


@pytest.mark.parametrize(
    ("loc", "scale", "name"), [(1.5, 1.0, "loc"), (-1.1, 1.0, "loc"), (0.0, 0.0, "scale")]
)
def test_validation_names_the_argument_outside_its_range(loc, scale, name) -> None:
    with pytest.raises(ValueError, match=f"parameter {name}"):
        TruncatedNormal(torch.full((2,), loc), torch.full((2,), scale), validate_args=True)


def test_validation_refuses_a_value_off_the_support() -> None:
    policy = TruncatedNormal(torch.zeros(2), torch.ones(2), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        policy.log_prob(torch.tensor([0.0, 1.5]))


KL_CASES = [
    (0.0, 0.0, 0.3, -1.0),
    (-0.9, -2.0, 0.9, -0.5),
    (1.0, -3.0, 0.99, -2.9),
    (0.2, -1.5, 0.2, -1.5),
    (0.5, 4.0, -0.5, 5.0),
    (-0.3, -4.0, 0.1, 2.0),
]


def test_kl_is_the_integral_of_its_definition() -> None:
    """KL(p || q) = int p ln(p / q), at float64's rounding; 0 where p = q."""
    p_loc, p_log_std, q_loc, q_log_std = torch.tensor(KL_CASES, dtype=torch.float64).T
    kl = truncated_normal_kl(p_loc, p_log_std, q_loc, q_log_std)
    expected = torch.tensor([oracle.kl_mp(*case) for case in KL_CASES], dtype=torch.float64)
    torch.testing.assert_close(kl, expected, rtol=1e-9, atol=1e-12)
    assert kl[3] == 0.0


def test_kl_divergence_of_torch_takes_truncated_normals() -> None:
    """kl_divergence sums over dimensions and does not depend on the units of the actions."""
    loc, log_std = torch.tensor([[0.1, -0.7]]), torch.tensor([[-1.0, -2.0]])
    other = torch.tensor([[0.3, -0.6]])
    unit = kl_divergence(TruncatedNormal(loc, log_std.exp()), TruncatedNormal(other, log_std.exp()))
    wide = [
        TruncatedNormal(3.0 * mean + 1.0, 3.0 * log_std.exp(), -2.0, 4.0) for mean in (loc, other)
    ]
    torch.testing.assert_close(unit, truncated_normal_kl(loc, log_std, other, log_std).sum(-1))
    torch.testing.assert_close(kl_divergence(*wide), unit, rtol=1e-5, atol=1e-6)


def test_what_onnx_lacks_is_the_same_function_in_its_tails_too() -> None:
    """Phi^-1 from 1e-37 on and erfc to 1e-33, relatively, against torch's in float64."""
    p = torch.cat(
        [torch.logspace(-37, -0.31, 500).double(), torch.linspace(0.5, 0.999, 500).double()]
    )
    torch.testing.assert_close(normal_quantile(p), torch.special.ndtri(p), rtol=2e-7, atol=1e-7)
    x = torch.linspace(-3.0, 8.5, 1_000, dtype=torch.float64)
    torch.testing.assert_close(complementary_error_function(x), torch.erfc(x), rtol=2e-7, atol=0.0)
