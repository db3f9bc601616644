"""The discrete solvers: the lower Lambert branch to its conditioning, and the temperature's root."""

import math

import mpmath as mp
import numpy as np
import oracle
import pytest
import torch

from era_rl.core import categorical_entropy, softmax_era
from era_rl.core.categorical import lambert_lower, lambert_lower_approximation
from era_rl.core.temperature import binary_gap


def _kappas(dtype: torch.dtype) -> torch.Tensor:
    below = (1.0 - torch.logspace(-6, -0.01, 60, dtype=torch.float64)) / math.e
    return torch.cat([torch.logspace(-30, -1, 100, dtype=torch.float64), below]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_lambert_lower_is_exact_to_rounding(dtype) -> None:
    kappa = _kappas(dtype)
    z = lambert_lower(kappa).double()
    exact = np.array([float(mp.lambertw(-mp.mpf(k), -1).real) for k in kappa.tolist()])
    # an error of eps in kappa moves z by eps |z / (1 + z)|
    conditioning = np.abs(exact) + np.abs(exact / (1.0 + exact))
    assert (np.abs(z.numpy() - exact) <= 4.0 * torch.finfo(dtype).eps * conditioning).all()


def test_lambert_lower_at_the_branch_point_and_its_slope() -> None:
    kappa = _kappas(torch.float64).requires_grad_()
    z = lambert_lower(kappa)
    (slope,) = torch.autograd.grad(z.sum(), kappa)
    z = z.detach()
    away = z < -1.002
    expected = z / ((1.0 + z) * kappa.detach())
    torch.testing.assert_close(slope[away], expected[away], rtol=1e-12, atol=0.0)
    for dtype in (torch.float32, torch.float64):
        point = torch.tensor(math.exp(-1.0), dtype=dtype, requires_grad=True)
        value = lambert_lower(point)
        value.backward()
        assert value.item() == pytest.approx(-1.0, abs=1e-3)
        assert point.grad.isfinite()


def test_approximation_raises_small_values_and_lowers_large_ones() -> None:
    kappa = torch.logspace(-6, math.log10(0.36), 200, dtype=torch.float64)
    ratio = (lambert_lower_approximation(kappa) - lambert_lower(kappa)).exp()
    assert (ratio[kappa < 0.058] > 1.0).all()
    assert (ratio[kappa > 0.060] < 1.0).all()
    assert ratio.min() > 0.981
    at_thousandth = torch.tensor(1e-3, dtype=torch.float64)
    excess = lambert_lower_approximation(at_thousandth) - lambert_lower(at_thousandth)
    assert excess.item() == pytest.approx(0.25, abs=0.001)


@pytest.mark.parametrize(
    ("dtype", "below"), [(torch.float32, 4e-7), (torch.float64, 1e-15)], ids=str
)
def test_a_binary_gap_has_the_entropy_and_never_more_but_rounding(dtype, below) -> None:
    """h - 4e-7 <= H(softmax(0, -x)) <= h, from h = 0 to ln 2, whatever its distance from either."""
    small = torch.logspace(-15, -0.001, 400, dtype=torch.float64)
    h = (math.log(2.0) * torch.cat([torch.zeros(1), small, 1.0 - small, torch.ones(1)])).to(dtype)
    gap = binary_gap(h)
    assert (gap >= 0.0).all()
    excess = oracle.softmax_entropy(torch.stack([gap, 0.0 * gap], -1).double().numpy()[1:])
    excess = excess - h[1:].double().numpy()
    assert excess.min() >= -below
    assert excess.max() <= torch.finfo(dtype).eps


@pytest.mark.parametrize("num_classes", [2, 3, 18, 100])
def test_a_temperature_is_the_same_where_nothing_is_differentiated(num_classes) -> None:
    """To the bit: acting leaves the derivative out, and training begins at what acting gave."""
    logits = 9.0 * torch.randn(50, num_classes)
    floor = torch.full((50,), 0.3 * math.log(num_classes))
    with torch.no_grad():
        acting = softmax_era(logits, target_entropy=floor, method="temperature")
    training = softmax_era(logits.requires_grad_(), target_entropy=floor, method="temperature")
    assert training.requires_grad
    assert torch.equal(acting, training)


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0, 1e3])
def test_temperature_equals_the_bisected_root(spread) -> None:
    logits = spread * torch.randn(40, 9, dtype=torch.float64)
    bounded = softmax_era(logits, target_entropy=1.3, method="temperature")
    for row, out in zip(logits.numpy(), bounded.numpy(), strict=True):
        beta = oracle.temperature(row, 1.3)
        centred = out - out.max(), row - row.max()
        np.testing.assert_allclose(centred[0], beta * centred[1], rtol=1e-9, atol=1e-12)


def test_temperature_gradient_equals_differences_of_the_bisected_root() -> None:
    logits = 4.0 * torch.randn(7, dtype=torch.float64)
    cotangent = torch.randn(7, dtype=torch.float64)
    leaf = logits.clone().requires_grad_()
    floor = torch.tensor(1.2, dtype=torch.float64, requires_grad=True)
    # the common shift of logits is free: compare log-probabilities
    probs = softmax_era(leaf, target_entropy=floor, method="temperature").log_softmax(-1)
    (probs * cotangent).sum().backward()

    def objective(row: np.ndarray, floor: float = 1.2) -> float:
        scaled = torch.from_numpy(oracle.temperature(row, floor) * row)
        return (scaled.log_softmax(-1) * cotangent).sum().item()

    for i in range(7):
        step = np.zeros(7)
        step[i] = 1e-5
        slope = (objective(logits.numpy() + step) - objective(logits.numpy() - step)) / 2e-5
        assert leaf.grad[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-7)
    rise = (objective(logits.numpy(), 1.2 + 1e-5) - objective(logits.numpy(), 1.2 - 1e-5)) / 2e-5
    assert floor.grad.item() == pytest.approx(rise, rel=1e-6)


def test_a_class_alone_has_no_slope_by_its_floor() -> None:
    """One possible class: H0 = 0, beta is free, and d logits / d H0 = 0 instead of NaN."""
    logits = torch.tensor([[3.0, -torch.inf, -torch.inf], [3.0, 1.0, -4.0]])
    floor = torch.tensor([0.0, 1.0], requires_grad=True)
    bounded = softmax_era(logits, target_entropy=floor, method="temperature")
    bounded[:, 0].sum().backward()
    assert floor.grad[0] == 0.0
    assert floor.grad[1].isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_temperature_is_the_identity_to_the_bit_where_inactive(dtype) -> None:
    logits = (0.5 * torch.randn(1000, 12)).to(dtype).requires_grad_()
    bounded = softmax_era(logits, target_entropy=0.3, method="temperature")
    assert torch.equal(bounded, logits.to(bounded.dtype))
    weights = torch.randn_like(bounded)
    bounded.backward(weights)
    assert torch.equal(logits.grad, weights.to(dtype))


def test_temperature_keeps_masked_classes_impossible_and_holds_the_floor_on_the_rest() -> None:
    logits = 50.0 * torch.randn(500, 8)
    masked = logits.masked_fill(torch.arange(8) % 2 == 1, -torch.inf).requires_grad_()
    bounded = softmax_era(masked, target_entropy=1.0, method="temperature")
    assert torch.equal(bounded == -torch.inf, masked == -torch.inf)
    torch.testing.assert_close(
        bounded[:, ::2], softmax_era(logits[:, ::2], target_entropy=1.0, method="temperature")
    )
    assert (categorical_entropy(bounded) >= 1.0 - 1e-5).all()
    bounded[:, ::2].sum().backward()
    assert masked.grad.isfinite().all()
    assert (masked.grad[:, 1::2] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("num_classes", [2, 3, 10, 64, 100])
def test_temperature_is_tight_on_logits_of_any_scale(num_classes, dtype) -> None:
    """H is H0 where it was below, of logits of one scale a row, or a class, up to 1e28."""
    for scales in (1, num_classes):
        scale = 10.0 ** (30.0 * torch.rand(1000, scales, dtype=dtype) - 2.0)
        logits = scale * torch.randn(1000, num_classes, dtype=dtype)
        for target in (0.05 * math.log(num_classes), 0.9 * math.log(num_classes)):
            bounded = softmax_era(logits, target_entropy=target, method="temperature")
            excess = (categorical_entropy(bounded) - target)[categorical_entropy(logits) < target]
            assert excess.min() >= -1e-5
            assert excess.max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("inequality", [False, True])
def test_temperature_holds_the_floor_of_the_lowest_logits(dtype, inequality) -> None:
    """Those that are not -inf are possible, however low, as where a mask is written as finfo.min."""
    finfo = torch.finfo(dtype)
    lows = [-1e8, -1e30, finfo.min / 2, finfo.min]
    rows = [row for low in lows for row in ([5.0, low, low], [5.0, 1.0, low], [0.0, 0.0, low])]
    logits = torch.tensor([*rows, [finfo.max, finfo.min, 0.0]], dtype=dtype).requires_grad_()
    for target in (0.1, 0.9):
        settings = {"target_entropy": target, "method": "temperature", "inequality": inequality}
        bounded = softmax_era(logits, **settings)
        assert (categorical_entropy(bounded) >= target - 1e-5).all()
        (gradient,) = torch.autograd.grad(bounded.log_softmax(-1)[:, 0].sum(), logits)
        assert gradient.isfinite().all()


def test_temperature_takes_one_floor_a_row() -> None:
    logits = 30.0 * torch.randn(60, 10, dtype=torch.float64)
    floors = torch.linspace(0.05, 2.2, 60, dtype=torch.float64)
    bounded = softmax_era(logits, target_entropy=floors, method="temperature")
    looped = [
        softmax_era(row, target_entropy=floor.item(), method="temperature")
        for row, floor in zip(logits, floors, strict=True)
    ]
    torch.testing.assert_close(bounded, torch.stack(looped))
    torch.testing.assert_close(categorical_entropy(bounded), floors, rtol=0.0, atol=1e-12)
