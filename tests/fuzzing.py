"""What the fuzzing tests of all packages share: numbers at their worst, and what errors must say."""

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

COMMON: dict[str, Any] = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
}


def examples(count: int) -> settings:
    """Return settings under which every process runs the same examples."""
    return settings(max_examples=count, **COMMON)


# most of them sensible, so that many constructions succeed; infinities and NaN among the rest
NUMBERS = st.one_of(
    st.floats(-3.0, 3.0),
    st.sampled_from(
        [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1e-300, 1e300, 1e9, -20.0]
    ),
    st.floats(),
)
SIZES = st.one_of(st.integers(1, 6), st.sampled_from([0, -1, 1, 2.5, math.nan]))
WORDS = st.sampled_from(["exact", "gaussian", "lambert", "paper", "temperature", "auto", "", "x"])
OPTIONAL = st.none() | NUMBERS


Strategies = dict[str, st.SearchStrategy[Any]]


@st.composite
def with_one_wild(draw: st.DrawFn, feasible: Strategies, wild: Strategies) -> dict[str, Any]:
    """Draw feasible arguments, with one that is drawn from ``wild`` in its place."""
    arguments = {name: draw(strategy) for name, strategy in feasible.items()}
    name = draw(st.sampled_from(sorted(wild)))
    return {**arguments, name: draw(wild[name])}


def fuzz(
    check: Callable[[dict[str, Any]], bool], feasible: Strategies, wild: Strategies, count: int
) -> None:
    """Run a check, which returns whether the arguments were taken, and see that most were.

    A third of the examples has a wild argument: drawn by chance, their share depends on every number
    in the source, from which hypothesis draws too.
    """
    taken: list[bool] = []
    wilder = with_one_wild(feasible, wild)
    for number, drawn in (
        (count // 3, wilder),
        (count - count // 3, st.fixed_dictionaries(feasible)),
    ):
        examples(number)(given(drawn)(lambda arguments: taken.append(check(arguments))))()
    assert count // 2 <= sum(taken) < count, sum(taken)


def built(make: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Return what is made of the arguments, None where they are refused by a clear error.

    Raises:
        AssertionError: If the error names none of the arguments. Other errors pass through.
    """
    try:
        return make(**arguments)
    except (ValueError, TypeError) as error:
        refusal = error
    named = [name for name in arguments if name.removeprefix("era_") in str(refusal)]
    assert named, f"{type(refusal).__name__} names no argument of {arguments}: {refusal}"
    return None


def raw_inputs(rows: int, width: int) -> Tensor:
    """Return random and extreme raw outputs (rows + 6, width) in float64."""
    random = torch.randn(rows, width, dtype=torch.float64)
    spread = 10.0 ** torch.empty(rows, 1, dtype=torch.float64).uniform_(-3.0, 4.0)
    one = torch.ones(1, width, dtype=torch.float64)
    alternating = one.clone()
    alternating[:, ::2] *= -1.0
    extremes = [
        0.0 * one,
        1e4 * one,
        -1e4 * one,
        1e4 * alternating,
        -1e4 * alternating,
        1e-30 * one,
    ]
    return torch.cat([random * spread, *extremes])
