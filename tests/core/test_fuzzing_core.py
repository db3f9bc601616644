"""Constructor arguments of era_rl.core at random: refused by name, or the floor holds."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from era_rl.core import (
    CategoricalHead,
    GaussianHead,
    LearnedDelta,
    MultiCategoricalHead,
    TruncatedGaussianHead,
    TruncatedNormal,
    categorical_entropy,
    delta_loss,
    gaussian_era,
    normal_entropy,
    softmax_era,
    tanh_normal_entropy,
    truncated_normal_entropy,
    truncated_normal_era,
    truncated_normal_log_std,
    truncated_normal_sample,
)
from tests.fuzzing import (
    NUMBERS,
    OPTIONAL,
    SIZES,
    WORDS,
    Strategies,
    built,
    examples,
    fuzz,
    raw_inputs,
)

FEW, MANY = 40, 3_000
METHODS = st.sampled_from(["lambert", "paper", "temperature"])


def check_truncated(arguments: dict[str, Any]) -> bool:
    head = built(TruncatedGaussianHead, arguments)
    if head is None:
        return False
    for dtype in (torch.float32, torch.float64):
        loc, log_std = head.params(raw_inputs(20, head.raw_dim).to(dtype))
        assert log_std.isfinite().all()
        entropy = truncated_normal_entropy(loc.double(), log_std.double()).sum(-1)
        if arguments["floor"] == "gaussian":  # of the normal before truncation
            entropy, delta = normal_entropy(log_std.double()).sum(-1), head.delta
            floor = head.target_entropy + delta
        else:
            floor = torch.tensor(head.target_entropy).double()
        assert (entropy >= floor - 1e-5 * (1.0 + floor.abs())).all()
    return True


def check_gaussian(arguments: dict[str, Any]) -> bool:
    head = built(GaussianHead, arguments)
    if head is None:
        return False
    loc, scale = head(raw_inputs(20, head.raw_dim))
    floor = head.target_entropy + head.delta.double()
    entropy = normal_entropy(scale.log()).sum(-1)
    assert loc.shape == scale.shape == (26, head.action_dim)
    assert (entropy >= floor - 1e-5 * (1.0 + floor.abs())).all()
    return True


def check_categorical(arguments: dict[str, Any]) -> bool:
    head = built(CategoricalHead, arguments)
    if head is None:
        return False
    logits = head(raw_inputs(20, head.num_classes))
    assert logits.isfinite().all()
    assert (categorical_entropy(logits) >= head.target_entropy - 1e-9).all()
    assert head.entropy_floor >= head.target_entropy - 1e-9
    return True


def check_multi(arguments: dict[str, Any]) -> bool:
    head = built(MultiCategoricalHead, arguments)
    if head is None:
        return False
    logits = head(raw_inputs(20, head.raw_dim))
    entropy = sum(categorical_entropy(part) for part in logits.split(head.num_actions, dim=-1))
    assert (entropy >= head.target_entropy - 1e-9).all()
    mask = torch.rand(26, head.raw_dim) < 0.5
    starts = [sum(head.num_actions[:i]) for i in range(len(head.num_actions))]
    mask[:, starts] = True
    masked = head(raw_inputs(20, head.raw_dim), mask)
    assert (masked[~mask] == -torch.inf).all()
    entropy = sum(categorical_entropy(part) for part in masked.split(head.num_actions, dim=-1))
    assert (entropy >= head.floor(mask) - 1e-5).all()
    return True


def check_delta(arguments: dict[str, Any]) -> bool:
    learner = built(LearnedDelta, arguments)
    if learner is None:
        return False
    for push in (-1e6, 1e6, 0.0):
        learner.parameter.data.add_(push)
        learner.project()
        assert 0.0 <= learner() <= learner.delta_max * (1.0 + 1e-6)
    return True


DIMS = st.integers(1, 6)
WILD_BOX: Strategies = {
    "action_dim": SIZES,
    "target_entropy": NUMBERS | WORDS,
    "log_std_min": NUMBERS,
    "log_std_max": NUMBERS,
    "delta": NUMBERS,
}
EQ_11: Strategies = {
    "action_dim": DIMS,
    "target_entropy": st.floats(-6.0, 1.0) | st.just("auto"),
    "log_std_min": st.floats(-20.0, -1.0),
    "log_std_max": st.floats(0.0, 2.0),
    "delta": st.floats(0.0, 0.4),
}
EXACT: Strategies = {
    "action_dim": DIMS,
    "target_entropy": st.floats(-6.0, 0.69) | st.just("auto"),
    "log_std_min": st.floats(-20.0, 0.0),
    "slack": st.none() | st.floats(0.01, 0.99),
}
TAKEN_FLOORS = {"exact": EXACT, "gaussian": EQ_11}
# name: (check, feasible arguments, arguments of which one may be anything)
CHECKS: dict[str, tuple[Any, Strategies, Strategies]] = {
    **{
        f"truncated-{floor}": (
            check_truncated,
            {**feasible, "floor": st.just(floor)},
            {**WILD_BOX, "slack": OPTIONAL, "floor": WORDS},
        )
        for floor, feasible in TAKEN_FLOORS.items()
    },
    "gaussian": (check_gaussian, EQ_11, WILD_BOX),
    "categorical": (
        check_categorical,
        {
            "num_classes": st.integers(2, 9),
            "target_entropy": st.floats(0.01, 0.55),
            "tau": st.floats(math.e, 4.5),
            "method": METHODS,
        },
        {"num_classes": SIZES, "target_entropy": NUMBERS | WORDS, "tau": NUMBERS, "method": WORDS},
    ),
    "multi": (
        check_multi,
        {
            "num_actions": st.lists(st.integers(1, 5), min_size=1, max_size=4),
            "target_entropy_fraction": st.none() | st.floats(0.0, 0.99),
        },
        {
            "num_actions": st.lists(st.integers(-1, 3)),
            "target_entropy": NUMBERS | st.just("auto"),
            "target_entropy_fraction": NUMBERS,
        },
    ),
    "delta": (
        check_delta,
        {
            "target_entropy": st.floats(-3.0, 1.0),
            "action_dim": DIMS,
            "log_std_max": st.floats(0.0, 2.0),
            "initial": st.floats(0.0, 0.4),
        },
        {"target_entropy": NUMBERS, "log_std_max": NUMBERS, "initial": NUMBERS},
    ),
}


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CHECKS)
def test_a_head_refuses_its_arguments_by_name_or_holds_its_floor(name: str, count: int) -> None:
    check, feasible, wild = CHECKS[name]
    fuzz(check, feasible, wild, count)


@examples(FEW)
@given(
    st.integers(-1, 3), st.integers(2, 5), METHODS, st.sampled_from([torch.float32, torch.float64])
)
def test_softmax_era_along_any_dimension(dim, width, method, dtype) -> None:
    shape = [3, 2, 4, 3]
    shape[dim] = width
    logits = torch.randn(shape, dtype=dtype, requires_grad=True)
    arguments = {"target_entropy": 0.3, "method": method}
    out = softmax_era(logits, **arguments, dim=dim)
    moved = softmax_era(logits.movedim(dim, -1).contiguous(), **arguments).movedim(-1, dim)
    torch.testing.assert_close(out, moved)
    assert out.dtype == dtype
    negative = softmax_era(logits, **arguments, dim=dim % 4 - 4)
    torch.testing.assert_close(negative, out)
    (gradient,) = torch.autograd.grad(out.square().sum(), logits)
    assert gradient.shape == logits.shape
    assert gradient.isfinite().all()


UNARY = {
    "gaussian_era": lambda x: gaussian_era(x, target_entropy=0.0),
    "truncated_normal_era": lambda x: truncated_normal_era(x.tanh(), x, target_entropy=-1.0),
    "softmax_era": lambda x: softmax_era(x, target_entropy=0.3),
    "categorical_entropy": categorical_entropy,
    "normal_entropy": normal_entropy,
    "tanh_normal_entropy": lambda x: tanh_normal_entropy(x, x.clamp(-5.0, 1.0)),
    "truncated_normal_entropy": lambda x: truncated_normal_entropy(x.tanh(), x),
    "truncated_normal_log_std": lambda x: truncated_normal_log_std(x.tanh(), -x.exp()),
    "truncated_normal_sample": lambda x: truncated_normal_sample(x.tanh(), x, x.sigmoid()),
    "log_prob": lambda x: TruncatedNormal(x.tanh(), x.exp()).log_prob(x.tanh()),
    "delta_loss": lambda x: delta_loss(x.sum(), x, 0.0),
}


@pytest.mark.parametrize("name", UNARY)
@examples(15)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(2, 5),
    st.sampled_from(["transposed", "strided", "expanded", "offset"]),
)
def test_memory_layout_and_requires_grad_do_not_matter(name, shape, width, layout) -> None:
    function, plain = UNARY[name], torch.randn(*shape, width, dtype=torch.float64)
    if layout == "transposed":
        view = plain.transpose(0, -1).contiguous().transpose(0, -1)
    elif layout == "strided":
        view = plain.repeat_interleave(2, -1)[..., ::2]
    elif layout == "expanded":
        plain = plain[:1].expand_as(plain).contiguous()
        view = plain[:1].expand_as(plain)
    else:
        view = torch.cat([torch.zeros_like(plain[:1]), plain])[1:]
    torch.testing.assert_close(function(view), function(plain))
    tracked = function(plain.clone().requires_grad_())
    assert tracked.requires_grad
    assert torch.equal(tracked.detach(), function(plain))


@pytest.mark.parametrize("name", UNARY)
def test_empty_batches_pass(name: str) -> None:
    out = UNARY[name](torch.randn(0, 3))
    assert out.numel() == (1 if name == "delta_loss" else 0)


WRONG = [
    (TruncatedGaussianHead, {"action_dim": "3"}),
    (TruncatedGaussianHead, {"action_dim": None}),
    (TruncatedGaussianHead, {"action_dim": 2.5}),
    (TruncatedGaussianHead, {"action_dim": 2, "target_entropy": None}),
    (GaussianHead, {"action_dim": [2]}),
    (CategoricalHead, {"num_classes": "3"}),
    (CategoricalHead, {"num_classes": 2.5}),
    (CategoricalHead, {"num_classes": 3, "target_entropy": [0.3]}),
    (MultiCategoricalHead, {"num_actions": 3}),
    (MultiCategoricalHead, {"num_actions": ["a"]}),
]


@pytest.mark.parametrize(("make", "arguments"), WRONG, ids=range(len(WRONG)))
def test_arguments_of_another_type_are_refused_by_name(make, arguments) -> None:
    assert built(make, arguments) is None
