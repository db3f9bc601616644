"""Figures over seeds, as pure functions of arrays; the statistics are rliable's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rliable import library
from rliable.metrics import (
    aggregate_iqm,
    aggregate_mean,
    aggregate_optimality_gap,
    probability_of_improvement,
)
from scipy.stats import trim_mean

Array = NDArray[np.float64]
REPETITIONS = 2_000
"""Bootstrap samples of an interval."""
FINAL_SHARE = 0.1
"""The last share of the steps whose evaluations are a run's final return."""


class Interval(NamedTuple):
    """An estimate and its 95% stratified bootstrap interval; NaN bounds for a single seed."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return "value [low, high]" with three significant digits."""
        if np.isnan(self.low):
            return f"{number(self.value)} (one seed)"
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


AGGREGATES: dict[str, Callable[[Array], Any]] = {
    "IQM": aggregate_iqm,
    "mean": aggregate_mean,
    "optimality gap": aggregate_optimality_gap,
}


def number(value: float) -> str:
    """Return a number with three significant digits, without an exponent."""
    if not np.isfinite(value):
        return "-"
    digits = 2 - int(np.floor(np.log10(abs(value)))) if value else 2
    return f"{value:.{max(digits, 0)}f}"


def final_return(evaluation: Mapping[str, Any]) -> float:
    """Return the mean return of a run's evaluations in the last tenth of its steps."""
    steps = np.asarray(evaluation["timesteps"])
    late = steps > (1.0 - FINAL_SHARE) * steps[-1]
    return float(np.mean(np.asarray(evaluation["returns"])[late]))


def mean_return(evaluation: Mapping[str, Any]) -> float:
    """Return the mean return of all of a run's evaluations: higher, the sooner it learned."""
    return float(np.mean(np.asarray(evaluation["returns"])))


def normalised(returns: Array, low: float, high: float) -> Array:
    """Return scores, 0 at ``low`` and 1 at ``high``."""
    return (returns - low) / (high - low)


def aggregates(scores: Array) -> dict[str, Interval]:
    """Return IQM, mean and optimality gap of scores (seeds, tasks), each with its interval."""
    return {name: _interval(scores, function) for name, function in AGGREGATES.items()}


def curve(scores: Array) -> tuple[Array, Array, Array]:
    """Return the IQM and its interval's bounds, each (steps,), of scores (seeds, tasks, steps)."""
    value = iqm_of_steps(scores)
    if len(scores) < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    low, high = _bounds({"scores": scores}, iqm_of_steps)
    return value, np.atleast_1d(low), np.atleast_1d(high)


def iqm_of_steps(scores: Array) -> Array:
    """Return rliable's IQM at every step, (steps,), of scores (seeds, tasks, steps)."""
    return np.asarray(trim_mean(scores.reshape(-1, scores.shape[-1]), 0.25, axis=0))


def improvement(scores: Array, baseline: Array) -> Interval:
    """Return P(score of a run > score of a baseline's run), a mean over tasks, from (seeds, tasks)."""
    value = float(probability_of_improvement(scores, baseline))
    if min(len(scores), len(baseline)) < 2:
        return Interval(value, np.nan, np.nan)
    low, high = _bounds({"pair": (scores, baseline)}, probability_of_improvement)
    return Interval(value, float(low), float(high))


def _interval(scores: Array, function: Callable[[Array], Any]) -> Interval:
    value = float(function(scores))
    if len(scores) < 2:
        return Interval(value, np.nan, np.nan)
    low, high = _bounds({"scores": scores}, function)
    return Interval(value, float(low), float(high))


def _bounds(scores: Mapping[str, Any], function: Callable[..., Any]) -> tuple[Any, Any]:
    """Return the bounds of rliable's interval, the same on every call."""
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from the global generator
    try:
        _, intervals = library.get_interval_estimates(scores, function, reps=REPETITIONS)
    finally:
        np.random.set_state(state)
    low, high = next(iter(intervals.values()))
    return np.squeeze(low), np.squeeze(high)
