"""The guarantee: no raw output, random, extreme or optimised, gives less entropy than the floor."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import oracle
import pytest
import torch
from adversary import logit_rows, raw_states
from torch import Tensor

from era_rl.core import (
    CategoricalHead,
    TruncatedGaussianHead,
    categorical_entropy,
    truncated_normal_entropy,
)
from era_rl.core.feasibility import MAX_ENTROPY

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
FLOORS = (-3.0, -1.0, -0.5, 0.0, 0.25, 0.6, MAX_ENTROPY - 1e-5)
"""Nats per dimension, from loose to within 1e-5 of what can be held."""

ACTION_DIMS = (1, 2, 6, 21, 38, 61)
CLASSES = (2, 10, 100, 1000, 50_000)
ELEMENTS_PER_CHUNK = 600_000

Record = Callable[[str, object], None]


def _chunks(rows: int, width: int) -> Iterator[int]:
    step = max(1, ELEMENTS_PER_CHUNK // width)
    for start in range(0, rows, step):
        yield min(step, rows - start)


@torch.no_grad()
def _continuous_audit(action_dim: int, dtype: torch.dtype, states: int) -> tuple[float, float]:
    """Return the least entropy - floor and, where nothing is clamped, the largest, per dimension."""
    least, loosest = math.inf, -math.inf
    for floor in FLOORS:
        head = TruncatedGaussianHead(action_dim, target_entropy=floor * action_dim)
        for count in _chunks(states // len(FLOORS) + 1, action_dim):
            loc, log_std = head.params(raw_states(count, action_dim, dtype))
            loc, log_std = loc.double().numpy(), log_std.double().numpy()
            entropy = oracle.truncated_normal_entropy(loc, log_std)
            excess = entropy.mean(-1) - floor
            free = (log_std > head.log_std_min).all(-1)
            least = min(least, excess.min())
            loosest = max(loosest, excess[free].max(initial=-math.inf))
    return least, loosest


def _check_continuous(action_dim: int, dtype: torch.dtype, states: int, record: Record) -> None:
    least, loosest = _continuous_audit(action_dim, dtype, states)
    record("least_excess_per_dim", least)
    record("tightness_per_dim", loosest)
    assert least >= 0.0
    assert 0.0 <= loosest <= 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("action_dim", ACTION_DIMS)
def test_continuous_floor_is_exact_and_tight(action_dim, dtype, record) -> None:
    states = 100_000 if dtype == torch.float32 else min(100_000, 1_200_000 // action_dim)
    _check_continuous(action_dim, dtype, states, record)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("action_dim", ACTION_DIMS)
def test_continuous_floor_over_a_million_states(action_dim, dtype, record) -> None:
    _check_continuous(action_dim, dtype, 1_000_000, record)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("floor", [-3.0, -0.5, 0.25, MAX_ENTROPY - 1e-5])
@pytest.mark.parametrize("slack", [None, 0.3])
def test_gradient_descent_on_the_entropy_stops_at_the_continuous_floor(floor, dtype, slack) -> None:
    action_dim = 6
    head = TruncatedGaussianHead(action_dim, target_entropy=floor * action_dim, slack=slack)
    start = torch.randn(256, head.raw_dim, dtype=dtype)
    for loc, log_std in _descend(start, head.params, _truncated_total):
        entropy = oracle.truncated_normal_entropy(loc.double().numpy(), log_std.double().numpy())
        assert (entropy.sum(-1) >= floor * action_dim).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("slack", [0.01, 0.5, 0.99])
def test_floor_holds_with_slack(slack, dtype) -> None:
    action_dim, floor = 21, -0.5
    head = TruncatedGaussianHead(action_dim, target_entropy=floor * action_dim, slack=slack)
    raw = raw_states(20_000, action_dim, dtype)
    logit = torch.randn(20_000, 1, dtype=dtype) * 10.0 ** torch.randint(-3, 5, (20_000, 1))
    loc, log_std = head.params(torch.cat([raw, logit], -1))
    entropy = oracle.truncated_normal_entropy(loc.double().numpy(), log_std.double().numpy())
    assert (entropy.mean(-1) >= floor).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("action_dim", ACTION_DIMS)
@pytest.mark.parametrize("slack", [None, 0.3])
def test_every_dimension_has_its_floor_and_the_sum_stays_exact(action_dim, dtype, slack) -> None:
    """h_i >= m in every state and dimension; sum h_i >= H0, and = H0 without slack or clamp."""
    for floor, least in ((-0.5, -0.5), (-0.5, -0.6), (-0.5, -1.5), (0.25, -3.0), (-3.0, -4.0)):
        head = TruncatedGaussianHead(
            action_dim, target_entropy=floor * action_dim, slack=slack, min_entropy_per_dim=least
        )
        raw = raw_states(40_000 // action_dim + 600, action_dim, dtype)
        if slack is not None:
            raw = torch.cat([raw, 10.0 * raw[:, :1].sin()], dim=-1)
        loc, log_std = head.params(raw)
        entropy = oracle.truncated_normal_entropy(loc.double().numpy(), log_std.double().numpy())
        assert (entropy >= least).all()
        excess = entropy.mean(-1) - floor
        assert (excess >= 0.0).all()
        if slack is None:
            assert (excess <= 1e-5).all()


def test_a_floor_of_each_dimension_changes_nothing_where_it_is_not_met() -> None:
    """log_std is that of the head without min_entropy_per_dim where every h_i > m, to the bit."""
    raw = raw_states(20_000, 6, torch.float32)
    plain = TruncatedGaussianHead(6, target_entropy=-3.0)
    loc, log_std = plain.params(raw)
    capped = TruncatedGaussianHead(6, target_entropy=-3.0, min_entropy_per_dim=-1.5)
    free = (truncated_normal_entropy(loc, log_std) > -1.5 + 1e-5).all(-1)
    assert 1000 < free.sum() < 19_000
    assert torch.equal(capped.params(raw)[1][free], log_std[free])


def test_a_floor_of_each_dimension_may_change_in_use() -> None:
    """Both floors are settings: what is set is held by the next call, and checked beside the other."""
    head = TruncatedGaussianHead(4, target_entropy=-2.0, min_entropy_per_dim=-1.0)
    raw = torch.tensor([[0.0] * 4 + [50.0, 0.0, 0.0, 0.0]])
    for least in (-1.0, -0.6, -2.0):
        head.min_entropy_per_dim = least
        entropy = truncated_normal_entropy(*head.params(raw))
        assert entropy.min().item() == pytest.approx(least, abs=1e-5)
        assert entropy.sum().item() == pytest.approx(-2.0, abs=1e-5)
    with pytest.raises(ValueError, match=r"min_entropy_per_dim=-2.0 must be at most -2.5 nats"):
        head.target_entropy = -10.0


def test_floor_holds_at_the_scale_that_the_head_returns() -> None:
    head = TruncatedGaussianHead(6, target_entropy=-3.0)
    loc, scale = (out.double().numpy() for out in head(raw_states(100_000, 6, torch.float32)))
    assert (oracle.truncated_normal_entropy(loc, np.log(scale)).sum(-1) >= -3.0).all()


@pytest.mark.parametrize("log_std_min", [-20.0, -14.0])
def test_floor_holds_to_rounding_at_the_lowest_scales(log_std_min) -> None:
    for floor in (-18.0, -12.0, -8.0):
        head = TruncatedGaussianHead(2, target_entropy=2.0 * floor, log_std_min=log_std_min)
        loc, log_std = head.params(raw_states(100_000, 2, torch.float32))
        entropy = oracle.truncated_normal_entropy(loc.double().numpy(), log_std.double().numpy())
        assert (entropy.mean(-1) >= floor - 1e-5).all()


def _softmax_floors(num_classes: int, method: str) -> list[float]:
    lowest = 0.0 if method == "temperature" else 1.0 + math.log(math.log(4.0) / 4.0)
    highest = math.log(num_classes) + min(lowest, 0.0)
    return [lowest + share * (highest - lowest) for share in (1e-3, 0.1, 0.3, 0.7, 0.95, 0.9999)]


@torch.no_grad()
def _check_discrete(
    num_classes: int, dtype: torch.dtype, method: str, rows: int, record: Record
) -> None:
    least, loosest = math.inf, 0.0
    for floor in _softmax_floors(num_classes, method):
        head = CategoricalHead(num_classes, target_entropy=floor, method=method)
        for count in _chunks(rows // 6 + 1, num_classes):
            logits = logit_rows(count, num_classes, dtype)
            bounded = head(logits)
            entropy = oracle.softmax_entropy(bounded.double().numpy())
            least = min(least, (entropy - floor).min())
            if method == "temperature":
                before = oracle.softmax_entropy(logits.double().numpy())
                active = before < floor
                loosest = max(loosest, (entropy - floor)[active].max(initial=0.0))
                unchanged = (bounded == logits.to(bounded.dtype)).all(-1).numpy()
                assert unchanged[before > floor + 1e-5].all()
    record("least_excess", least)
    record("tightness", loosest)
    assert least >= -1e-5
    assert loosest <= 1e-5


@pytest.mark.parametrize("method", ["lambert", "paper", "temperature"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_classes", CLASSES)
def test_discrete_floor(num_classes, dtype, method, record) -> None:
    rows = max(24, 300_000 // num_classes)
    _check_discrete(num_classes, dtype, method, rows, record)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["lambert", "paper", "temperature"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("num_classes", CLASSES)
def test_discrete_floor_over_many_rows(num_classes, dtype, method, record) -> None:
    rows = max(1000, 20_000_000 // num_classes)
    _check_discrete(num_classes, dtype, method, rows, record)


@pytest.mark.parametrize("num_classes", [3, 10, 64])
def test_a_floor_near_0_is_met_however_far_a_class_is_ahead(num_classes: int) -> None:
    """p_max = 1 / (1 + rest) loses digits of the rest, so Newton's last iterate may be below it."""
    floor = 1e-3 * math.log(num_classes)
    logits = torch.zeros(20_000, num_classes)
    logits[:, 0] = torch.linspace(14.0, 7000.0, len(logits))
    logits[:, -1] = -torch.linspace(0.0, 30.0, 997).repeat(21)[: len(logits)]
    bounded = CategoricalHead(num_classes, target_entropy=floor, method="temperature")(logits)
    assert abs(oracle.softmax_entropy(bounded.double().numpy()) - floor).max() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", ["lambert", "paper", "temperature"])
def test_gradient_descent_on_the_entropy_stops_at_the_discrete_floor(method, dtype) -> None:
    for floor in _softmax_floors(10, method)[1::2]:
        head = CategoricalHead(10, target_entropy=floor, method=method)
        start = torch.randn(64, 10, dtype=dtype)
        for logits in _descend(start, head, categorical_entropy):
            assert (oracle.softmax_entropy(logits.double().numpy()) >= floor - 1e-5).all()


def _truncated_total(parameters: tuple[Tensor, Tensor]) -> Tensor:
    return truncated_normal_entropy(*parameters).sum(-1)


def _descend(raw: Tensor, head: Callable, entropy_of: Callable, steps: int = 60) -> Iterator:
    """Yield the distribution parameters along Adam's way down the entropy, at a growing step size."""
    raw = raw.requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.05)
    for step in range(steps):
        optimizer.zero_grad()
        parameters = head(raw)
        entropy_of(parameters).sum().backward()
        assert raw.grad.isfinite().all()
        optimizer.step()
        optimizer.param_groups[0]["lr"] *= 1.1
        if step % 5 == 4:
            with torch.no_grad():
                yield head(raw)
