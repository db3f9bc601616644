"""Entropies and the inverse against printed reference values and 50-digit arithmetic."""

import math

import numpy as np
import oracle
import pytest
import torch
from scipy import integrate, stats

from era_rl.core import (
    categorical_entropy,
    normal_entropy,
    std_for_target_entropy,
    tanh_normal_entropy,
    target_entropy_for_std,
    truncated_normal_entropy,
    truncated_normal_log_std,
)
from era_rl.core.truncation import LOG_TWO

# (loc, sigma, h) and (loc, h, sigma), printed from 50-digit arithmetic
ENTROPIES = [
    (0.0, 1.0, "0.682785934289"),
    (0.3, 0.2, "-0.192259586348"),
    (0.9, 0.1, "-1.20020032428"),
    (1.0, 1.0, "0.566094092127"),
    (1.0, math.exp(-8.0), "-7.27420864736"),
    (-0.5, 10.0, "0.693141914602"),
]
INVERSES = [
    (0.0, 0.25, "0.313606663684"),
    (-1.0, -6.0, "0.00119957092018"),
    (0.999, -5.0, "0.00283523605703"),
    (0.5, LOG_TWO - 1e-4, "4.78126798552"),
]
POINTS = [
    (loc, entropy)
    for loc in (0.0, 0.3, -0.77, 0.99, 1.0, -1.0)
    for entropy in (-7.2, -3.0, -0.5, 0.25, 0.6, LOG_TWO - 1e-3)
]


def test_loc_and_log_std_broadcast() -> None:
    shapes = [((), (2,)), ((3,), (2, 3)), ((3,), (5, 3)), ((2, 1), (3,)), ((4, 3), ())]
    for loc_shape, log_std_shape in shapes:
        loc, log_std = torch.rand(loc_shape) - 0.5, torch.rand(log_std_shape) - 1.0
        whole = torch.broadcast_tensors(loc, log_std)
        assert torch.equal(truncated_normal_entropy(loc, log_std), truncated_normal_entropy(*whole))
        assert torch.equal(tanh_normal_entropy(loc, log_std), tanh_normal_entropy(*whole))
        assert torch.equal(truncated_normal_log_std(loc, log_std), truncated_normal_log_std(*whole))


def _half_unit(printed: str) -> float:
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])


def _float64(*values: float) -> list[torch.Tensor]:
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def _domain(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A grid of (loc, h): |loc| up to 1 through its last bits, h from h(1, e^-8) to ln 2 - 1e-3."""
    near = 1.0 - torch.logspace(-7.2, -1.0, 60, dtype=torch.float64)
    half = torch.cat([torch.linspace(0.0, 1.0, 201, dtype=torch.float64), near])
    entropy = torch.cat(
        [
            torch.linspace(-7.27420864736, LOG_TWO - 1e-3, 1500, dtype=torch.float64),
            LOG_TWO - torch.logspace(-2.999, -0.5, 300, dtype=torch.float64),
        ]
    )
    loc, entropy = torch.meshgrid(torch.cat([half, -half]), entropy, indexing="ij")
    return loc.to(dtype), entropy.to(dtype)


@pytest.mark.parametrize(("loc", "sigma", "printed"), ENTROPIES)
def test_reference_entropies_to_every_printed_digit(loc, sigma, printed) -> None:
    value = truncated_normal_entropy(*_float64(loc, math.log(sigma))).item()
    assert abs(value - float(printed)) <= _half_unit(printed) + 1e-14
    assert abs(oracle.entropy_mp(loc, math.log(sigma)) - float(printed)) <= _half_unit(printed)


@pytest.mark.parametrize(("loc", "entropy", "printed"), INVERSES)
def test_reference_inverses_to_every_printed_digit(loc, entropy, printed) -> None:
    value = truncated_normal_log_std(*_float64(loc, entropy)).exp().item()
    # ln 2 - 1e-4 itself is rounded to 1e-16, which sigma amplifies by sigma 2 / V, near 1e4
    assert abs(value - float(printed)) <= _half_unit(printed) + 1e-12


def test_oracle_agrees_with_50_digits_and_with_scipy() -> None:
    loc, log_std = np.random.default_rng(0).uniform([-1, -8], [1, 3], (200, 2)).T
    fast = oracle.truncated_normal_entropy(loc, log_std)
    exact = [float(oracle.entropy_mp(*point)) for point in zip(loc, log_std, strict=True)]
    np.testing.assert_allclose(fast, exact, atol=1e-12, rtol=0)
    sigma = np.exp(log_std)
    scipy_entropy = stats.truncnorm((-1 - loc) / sigma, (1 - loc) / sigma, loc, sigma).entropy()
    np.testing.assert_allclose(fast, scipy_entropy, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_entropy_equals_the_oracle_over_the_domain(dtype, error) -> None:
    loc = torch.linspace(-1.0, 1.0, 801, dtype=dtype).unsqueeze(-1)
    log_std = torch.linspace(-8.0, 1.5, 801, dtype=dtype)
    value = truncated_normal_entropy(loc, log_std).double().numpy()
    expected = oracle.truncated_normal_entropy(loc.double().numpy(), log_std.double().numpy())
    assert np.abs(value - expected).max() <= error


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_inversion_error_over_the_whole_domain(dtype, error, record) -> None:
    loc, entropy = _domain(dtype)
    log_std = truncated_normal_log_std(loc, entropy).double().numpy()
    reached = oracle.truncated_normal_entropy(loc.double().numpy(), log_std)
    worst = np.abs(reached - entropy.double().numpy()).max()
    record("inversion_error", worst)
    assert worst <= error


@pytest.mark.parametrize(("loc", "entropy"), POINTS)
def test_inverse_and_its_gradient_equal_50_digit_arithmetic(loc, entropy) -> None:
    loc, entropy = _float64(loc, entropy)
    loc.requires_grad_()
    entropy.requires_grad_()
    log_std = truncated_normal_log_std(loc, entropy)
    log_std.backward()
    slope_loc, slope_entropy = oracle.log_std_slopes_mp(loc.item(), entropy.item())
    # the conditioning d log_std / dh multiplies one rounding of h
    assert abs(log_std.item() - oracle.log_std_mp(loc.item(), entropy.item())) <= (
        1e-15 * (10.0 + 10.0 * abs(slope_entropy))
    )
    assert entropy.grad.item() == pytest.approx(slope_entropy, rel=1e-8)
    assert loc.grad.item() == pytest.approx(slope_loc, rel=1e-8, abs=1e-8)


def test_float32_gradients_equal_float64_ones(record) -> None:
    grads = {}
    for dtype in (torch.float32, torch.float64):
        loc, entropy = (t.float().to(dtype).requires_grad_() for t in _domain(torch.float32))
        truncated_normal_log_std(loc, entropy).sum().backward()
        grads[dtype] = loc.grad.double(), entropy.grad.double()
    pairs = zip(grads[torch.float32], grads[torch.float64], strict=True)
    for name, (narrow, wide) in zip(("loc", "entropy"), pairs, strict=True):
        error = ((narrow - wide).abs() / (wide.abs() + 1.0)).max().item()
        record(f"gradient_error_{name}", error)
        assert error <= 1e-3


def test_entropy_is_even_in_loc_and_rises_with_log_std_below_ln_2() -> None:
    loc = torch.linspace(0.0, 1.0, 101, dtype=torch.float64).unsqueeze(-1)
    log_std = torch.linspace(-8.0, 2.0, 400, dtype=torch.float64)
    entropy = truncated_normal_entropy(loc, log_std)
    torch.testing.assert_close(entropy, truncated_normal_entropy(-loc, log_std))
    assert (entropy.diff(dim=-1) > 0).all()
    assert (entropy < LOG_TWO).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("loc", [-1.0, 0.0, 1.0])
def test_nothing_is_non_finite_at_the_edges(loc, dtype) -> None:
    log_std = torch.tensor([-20.0, -8.0, 0.0, 10.0], dtype=dtype, requires_grad=True)
    loc = torch.full_like(log_std, loc).requires_grad_()
    entropy = truncated_normal_entropy(loc, log_std)
    grads = torch.autograd.grad(entropy.sum(), (loc, log_std))
    assert all(t.isfinite().all() for t in (entropy, *grads))
    target = torch.tensor([-18.0, -7.2, 0.0, LOG_TWO - 1e-3], dtype=dtype, requires_grad=True)
    inverse = truncated_normal_log_std(loc, target)
    grads = torch.autograd.grad(inverse.sum(), (loc, target))
    assert all(t.isfinite().all() for t in (inverse, *grads))


def test_inverse_without_gradients_is_the_same_number() -> None:
    loc, entropy = _domain(torch.float32)
    with torch.no_grad():
        expected = truncated_normal_log_std(loc, entropy)
    assert torch.equal(truncated_normal_log_std(loc, entropy), expected)


def test_normal_entropy_equals_scipy() -> None:
    log_std = torch.linspace(-8.0, 2.0, 50, dtype=torch.float64)
    expected = stats.norm(scale=log_std.exp().numpy()).entropy()
    np.testing.assert_allclose(normal_entropy(log_std), expected, rtol=1e-14)


def test_categorical_entropy_equals_scipy_and_survives_masks() -> None:
    logits = torch.randn(50, 7, dtype=torch.float64) * 5
    expected = stats.entropy(logits.softmax(-1).numpy(), axis=-1)
    np.testing.assert_allclose(categorical_entropy(logits), expected, atol=1e-14)
    np.testing.assert_allclose(categorical_entropy(logits.T, dim=0), expected, atol=1e-14)
    masked = torch.cat([logits, torch.full((50, 2), -torch.inf, dtype=torch.float64)], -1)
    masked.requires_grad_()
    entropy = categorical_entropy(masked)
    np.testing.assert_allclose(entropy.detach(), expected, atol=1e-14)
    entropy.sum().backward()
    assert masked.grad[:, :7].isfinite().all()


def test_categorical_entropy_of_extreme_logits_is_exact() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        logits = torch.tensor([[1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype=dtype)
        entropy = categorical_entropy(logits)
        torch.testing.assert_close(entropy, torch.tensor([0.0, LOG_TWO], dtype=entropy.dtype))


@pytest.mark.parametrize("loc", [0.0, 0.8, -3.0])
@pytest.mark.parametrize("log_std", [-3.0, 0.0, 1.0])
def test_tanh_entropy_equals_adaptive_quadrature(loc, log_std) -> None:
    def weighted_log_slope(z: float) -> float:
        x = loc + math.exp(log_std) * z
        slope = 2.0 * (LOG_TWO - x - np.logaddexp(0.0, -2.0 * x))
        return slope * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)

    mean_log_slope, _ = integrate.quad(weighted_log_slope, -12.0, 12.0, epsabs=1e-12, limit=400)
    expected = log_std + oracle.GAUSSIAN_CONSTANT + mean_log_slope
    value = tanh_normal_entropy(*_float64(loc, log_std)).item()
    assert value == pytest.approx(expected, abs=2.5e-5)


# the peak of h over sigma: h stops rising, so that it has no inverse (loc, sigma, h at the peak)
@pytest.mark.parametrize(
    ("loc", "sigma", "peak"),
    [(0.0, 0.874, 0.684), (1.0, 1.06, 0.096), (2.0, 1.46, -1.23), (3.0, 1.91, -2.85)],
)
def test_tanh_entropy_peaks_where_the_facts_say(loc, sigma, peak) -> None:
    log_std = torch.linspace(-2.0, 1.0, 3001, dtype=torch.float64)
    entropy = tanh_normal_entropy(torch.tensor(loc, dtype=torch.float64), log_std)
    best = entropy.argmax()
    assert log_std[best].exp().item() == pytest.approx(sigma, abs=0.006)
    assert entropy[best].item() == pytest.approx(peak, abs=0.006)
    assert entropy[-1] < entropy[best]


# sigma by (H0 / D, loc), as the table of docs/defaults.md has it
STDS = [
    *((0.0, 0.0, 0.24), (-0.3, 0.0, 0.18), (-0.5, 0.0, 0.15), (-1.0, 0.0, 0.09), (-2.0, 0.0, 0.03)),
    *((0.0, 1.0, 0.48), (-0.3, 1.0, 0.36), (-0.5, 1.0, 0.29), (-1.0, 1.0, 0.18), (-2.0, 1.0, 0.07)),
]


@pytest.mark.parametrize(("nats", "loc", "std"), STDS)
def test_a_floor_and_a_std_are_each_others(nats: float, loc: float, std: float) -> None:
    """std = exp(h^-1(loc, H0 / D)), and H0 = D h(loc, ln std)."""
    found = std_for_target_entropy(6 * nats, 6, loc)
    assert round(found, 2) == std
    assert target_entropy_for_std(found, 6, loc) == pytest.approx(6 * nats, abs=1e-9)


def test_floors_and_stds_out_of_range_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"target_entropy=6\.0 must be below 4\.15.*default is -0\.5"
    ):
        std_for_target_entropy(6.0, 6)
    with pytest.raises(ValueError, match=r"std=0\.0 must be above 0"):
        target_entropy_for_std(0.0)
    with pytest.raises(ValueError, match=r"loc=2\.0 must be in \[-1, 1\]"):
        std_for_target_entropy(-1.0, loc=2.0)
