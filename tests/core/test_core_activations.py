"""The activations: Eq. 11's budget, the exact budget, and the discrete map's printed references."""

import math

import numpy as np
import oracle
import pytest
import torch
from adversary import logit_rows, raw_states

from era_rl.core import (
    gaussian_era,
    normal_entropy,
    softmax_era,
    truncated_normal_entropy,
    truncated_normal_era,
)
from era_rl.core.feasibility import MAX_ENTROPY

# (logits, H0, p, H) for tau = 4, printed from 50-digit arithmetic
SOFTMAX_REFERENCES = [
    ([1.0, 0.0, -1.0], 0.5, [".5405469273", ".265296238201", ".194156834499"], "1.00279440916"),
    (
        [50.0, 0.0, 0.0],
        0.0,
        [".986854553653", ".00657272317339", ".00657272317339"],
        ".0791122582029",
    ),
    (
        [float(z) for z in range(10)],
        0.7,
        [
            *[".0418071916029", ".0418564673246", ".041990492584", ".0423554013801"],
            *[".043351679437", ".0460918348234", ".0537736963762", ".0763386859292"],
            *[".14999663224", ".462437918302"],
        ],
        "1.80526129332",
    ),
]


def _agrees(value: float, printed: str) -> bool:
    return abs(value - float(printed)) <= 0.5 * 10.0 ** -len(printed.partition(".")[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("floor", "delta"), [(-0.5, 0.0), (0.25, 0.0), (0.25, 0.36), (1.4, 0.0)])
def test_gaussian_era_holds_its_floor_and_spends_exactly_the_budget(floor, delta, dtype) -> None:
    action_dim = 6
    _, raw = raw_states(50_000, action_dim, dtype).split(action_dim, -1)
    asked = action_dim * (floor + delta)
    log_std = gaussian_era(raw, target_entropy=floor * action_dim, delta=delta * action_dim)
    entropy = normal_entropy(log_std).sum(-1)
    rounding = 32 * action_dim * torch.finfo(dtype).eps
    assert (entropy >= asked - rounding).all()
    free = (log_std > -8.0).all(-1)
    assert free.any()
    assert (entropy[free] <= asked + rounding).all()
    assert (log_std <= 0.0).all()
    assert (log_std >= -8.0).all()


def test_gaussian_era_is_equation_11() -> None:
    raw = torch.randn(100, 4, dtype=torch.float64)
    log_std = gaussian_era(raw, target_entropy=1.0, log_std_min=-3.0, log_std_max=0.5, delta=0.2)
    share = np.exp(raw.numpy()) / np.exp(raw.numpy()).sum(-1, keepdims=True)
    spent = 1.0 + 0.2 - 4 * oracle.GAUSSIAN_CONSTANT - 4 * 0.5
    np.testing.assert_allclose(log_std, np.maximum(0.5 + spent * share, -3.0), rtol=1e-13)


def test_gaussian_era_takes_delta_as_a_tensor_and_passes_no_check_on_it() -> None:
    raw = torch.randn(10, 3)
    expected = gaussian_era(raw, target_entropy=0.3, delta=0.5)
    torch.testing.assert_close(
        gaussian_era(raw, target_entropy=0.3, delta=torch.tensor(0.5)), expected
    )


def test_truncated_normal_era_spends_the_budget_by_softmax_shares() -> None:
    loc = torch.tanh(torch.randn(200, 5, dtype=torch.float64))
    raw = torch.randn(200, 5, dtype=torch.float64)
    log_std = truncated_normal_era(loc, raw, target_entropy=-2.5)
    budget = 5 * MAX_ENTROPY + 2.5
    expected = MAX_ENTROPY - budget * raw.softmax(-1)
    torch.testing.assert_close(
        truncated_normal_entropy(loc, log_std), expected, atol=1e-12, rtol=0.0
    )


def test_truncated_normal_era_moves_no_other_dimension_with_a_mean() -> None:
    loc, raw = torch.zeros(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda mean: truncated_normal_era(mean, raw, target_entropy=-2.0), loc + 0.3
    )
    assert torch.equal(jacobian, jacobian.diag().diag())


def test_clamped_dimensions_get_the_bound_and_no_gradient() -> None:
    loc = torch.tensor([0.5, -0.2, 1.0], requires_grad=True)
    raw = torch.tensor([1e4, 0.0, 0.0], requires_grad=True)
    log_std = truncated_normal_era(loc, raw, target_entropy=-30.0, log_std_min=-8.0)
    assert log_std[0].item() == -8.0
    log_std[0].backward()
    assert torch.equal(loc.grad, torch.zeros(3))
    assert torch.equal(raw.grad, torch.zeros(3))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_slack_keeps_its_share_of_the_budget_unspent(share) -> None:
    action_dim, floor = 4, -2.0
    loc = torch.tanh(torch.randn(100, action_dim, dtype=torch.float64))
    raw = torch.zeros(100, action_dim, dtype=torch.float64)
    logit = math.log(action_dim) + math.log(share / (1.0 - share))
    slack = torch.full((100, 1), logit, dtype=torch.float64)
    log_std = truncated_normal_era(loc, raw, target_entropy=floor, slack_logit=slack)
    entropy = truncated_normal_entropy(loc, log_std).sum(-1)
    expected = floor + share * (action_dim * MAX_ENTROPY - floor)
    torch.testing.assert_close(entropy, torch.full_like(entropy, expected), atol=1e-12, rtol=0.0)


def test_slack_logit_of_minus_infinity_spends_everything() -> None:
    loc, raw = torch.tanh(torch.randn(2, 20, 3)).unbind()
    spent = truncated_normal_era(loc, raw, target_entropy=-1.0)
    off = torch.full((20, 1), -torch.inf)
    torch.testing.assert_close(
        truncated_normal_era(loc, raw, target_entropy=-1.0, slack_logit=off), spent
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("slack", [False, True])
def test_continuous_activations_are_finite_forward_and_backward(slack, dtype) -> None:
    raw = raw_states(6000, 6, dtype).requires_grad_()
    logit = (1e4 * torch.randn(6000, 1)).to(dtype).requires_grad_() if slack else None
    for floor in (-3.0, -0.5, MAX_ENTROPY - 1e-5):
        means, log_stds = raw.split(6, -1)
        bounded = truncated_normal_era(
            torch.tanh(means), log_stds, target_entropy=6 * floor, slack_logit=logit
        )
        gaussian = gaussian_era(log_stds, target_entropy=6 * floor)
        inputs = (raw, logit) if slack else (raw,)
        grads = torch.autograd.grad((bounded + gaussian).sum(), inputs)
        assert all(t.isfinite().all() for t in (bounded, gaussian, *grads))


@pytest.mark.parametrize(
    ("logits", "floor", "printed_probs", "printed_entropy"), SOFTMAX_REFERENCES
)
def test_softmax_era_references_to_every_printed_digit(
    logits, floor, printed_probs, printed_entropy
) -> None:
    bounded = softmax_era(torch.tensor(logits, dtype=torch.float64), target_entropy=floor)
    for value, printed in zip(bounded.softmax(-1).tolist(), printed_probs, strict=True):
        assert _agrees(value, printed)
    assert _agrees(float(oracle.softmax_entropy(bounded.numpy())), printed_entropy)


@pytest.mark.parametrize("tau", [math.e, 3.0, 4.0, 20.0])
def test_softmax_era_equals_scipys_lambert_function(tau) -> None:
    logits = 3.0 * torch.randn(500, 12, dtype=torch.float64)
    bounded = softmax_era(logits, target_entropy=0.9, tau=tau)
    np.testing.assert_allclose(
        bounded, oracle.lambert_logits(logits.numpy(), 0.9, tau), rtol=1e-9, atol=1e-9
    )


def test_paper_method_is_the_papers_closed_form() -> None:
    logits = 3.0 * torch.randn(500, 12, dtype=torch.float64)
    bounded = softmax_era(logits, target_entropy=0.9, method="paper")
    exact = oracle.lambert_logits(logits.numpy(), 0.9, 4.0)
    log_kappa = np.log(-exact) + exact
    expected = -0.25 - np.sqrt(2.0 * (-1.0 - log_kappa)) + 0.75 * log_kappa
    np.testing.assert_allclose(bounded, expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["lambert", "paper", "temperature"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("num_classes", [2, 10, 1000])
def test_softmax_era_is_finite_forward_and_backward(num_classes, dtype, method) -> None:
    logits = logit_rows(400, num_classes, dtype).requires_grad_()
    for tau in (math.e, 4.0):
        floor = 0.6 * math.log(num_classes) if method == "temperature" else 0.5 + math.log(1 / tau)
        bounded = softmax_era(logits, target_entropy=max(floor, 0.1), method=method, tau=tau)
        weights = torch.randn_like(bounded)
        (grad,) = torch.autograd.grad((bounded.log_softmax(-1) * weights).sum(), logits)
        assert bounded.isfinite().all()
        assert grad.isfinite().all()


@pytest.mark.parametrize("method", ["lambert", "paper"])
def test_softmax_era_is_finite_where_the_branch_point_is_reached(method) -> None:
    for dtype in (torch.float32, torch.float64):
        # tau = e puts kappa at 1/e, the branch point, for one-hot probabilities
        logits = torch.tensor([[1e4, 0.0, 0.0], [20.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
        logits.requires_grad_()
        bounded = softmax_era(logits, target_entropy=1.0, tau=math.e, method=method)
        (grad,) = torch.autograd.grad(bounded.square().sum(), logits)
        assert bounded.isfinite().all()
        assert grad.isfinite().all()
        assert bounded[0, 0].item() == pytest.approx(-1.0, abs=1e-3)


@pytest.mark.parametrize("method", ["lambert", "paper", "temperature"])
def test_softmax_era_works_along_any_dimension(method) -> None:
    logits = torch.randn(4, 7, 3, dtype=torch.float64)
    moved = softmax_era(logits.movedim(1, -1), target_entropy=0.9, method=method).movedim(-1, 1)
    torch.testing.assert_close(softmax_era(logits, target_entropy=0.9, method=method, dim=1), moved)
