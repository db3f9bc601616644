"""Figures over seeds, as pure functions of arrays; the statistics are rliable's."""

from collections.abc import Callable, Mapping, Sequence
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
from scipy.stats import rankdata, trim_mean

Array = NDArray[np.float64]
REPETITIONS = 2_000
"""Bootstrap samples of an interval."""
FINAL_SHARE = 0.1
"""The last share of the steps whose evaluations are a run's final return."""
LEVEL = 0.05
"""Most that a p-value, corrected for the number of comparisons, may be where arms are told apart."""


class Interval(NamedTuple):
    """An estimate and its 95% stratified bootstrap interval; NaN bounds for a single seed.

    The percentile bootstrap is too narrow for few seeds: it describes, and decides nothing.
    """

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


def aggregates(scores: Array) -> dict[str, Interval]:
    """Return IQM, mean and optimality gap of scores (seeds, tasks), each with its interval."""
    return {name: interval(scores, function) for name, function in AGGREGATES.items()}


def interval(scores: Array, function: Callable[[Array], Any] = aggregate_iqm) -> Interval:
    """Return a figure, the IQM, of scores (seeds, tasks), with its interval."""
    return Interval(*map(float, _with_bounds(scores, function)))


def curve(scores: Array) -> tuple[Array, Array, Array]:
    """Return the IQM and its interval's bounds, each (steps,), of scores (seeds, tasks, steps)."""
    return _with_bounds(scores, iqm_of_steps)


def iqm(scores: Array) -> float:
    """Return rliable's IQM of scores (seeds, tasks)."""
    return float(aggregate_iqm(scores))


def iqm_of_steps(scores: Array) -> Array:
    """Return rliable's IQM at every step, (steps,), of scores (seeds, tasks, steps)."""
    return np.asarray(trim_mean(scores.reshape(-1, scores.shape[-1]), 0.25, axis=0))


class Improvement(NamedTuple):
    """The probability that a run ends above one of the baseline, and the p-value of its being 1/2."""

    probability: float
    p_value: float

    def __str__(self) -> str:
        """Return "probability (p = value)"."""
        return f"{self.probability:.2f} (p = {number(self.p_value)})"


def improvement(scores: Array, baseline: Array) -> Improvement:
    """Return P(score of a run > score of a baseline's run), a mean over tasks, from (seeds, tasks).

    The p-value is that of the exact two-sided Mann-Whitney test: the share of all arrangements of the
    runs in which the sum over tasks of U, with midranks for ties, is as far from its mean as here.
    Tasks are independent strata, so that the sum's distribution is the convolution of theirs. With 5
    runs against 5 a task has 252 arrangements, and no p-value below 2/252 = 0.0079.
    """
    observed, null = 0, np.ones(1)
    for ours, theirs in zip(scores.T, baseline.T, strict=True):
        # twice the midranks are whole numbers
        ranks = np.rint(2.0 * rankdata(np.concatenate([ours, theirs]))).astype(int)
        observed += int(ranks[: len(ours)].sum())
        null = np.convolve(null, _rank_sums(ranks, len(ours)))
    center = scores.shape[1] * len(scores) * (len(scores) + len(baseline) + 1)
    extreme = np.abs(np.arange(len(null)) - center) >= abs(observed - center)
    p_value = float(null[extreme].sum() / null.sum())
    return Improvement(float(probability_of_improvement(scores, baseline)), p_value)


def _rank_sums(ranks: NDArray[np.int_], size: int) -> Array:
    """Return how many of the choices of ``size`` ranks have each sum, (sum of all ranks + 1,)."""
    counts = np.zeros((size + 1, int(ranks.sum()) + 1))
    counts[0, 0] = 1.0
    for rank in ranks:
        counts[1:, rank:] += counts[:-1, : counts.shape[1] - rank].copy()
    return counts[size]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's p-values: the chance of one false verdict among all is at most ``LEVEL``.

    In ascending order p_(i) becomes max_{j <= i} min(1, (m - j + 1) p_(j)) of m comparisons.
    """
    order = np.argsort(p_values)
    factors = np.arange(len(order), 0, -1)
    adjusted = np.maximum.accumulate(np.minimum(1.0, factors * np.array(p_values)[order]))
    return adjusted[np.argsort(order)].tolist()


def _with_bounds(scores: Array, function: Callable[[Array], Any]) -> tuple[Array, Array, Array]:
    """Return a value and the bounds of rliable's interval, the same on every call; NaN for one seed."""
    value = np.asarray(function(scores))
    if len(scores) < 2:
        return value, np.full_like(value, np.nan), np.full_like(value, np.nan)
    state = np.random.get_state()
    np.random.seed(0)  # rliable draws from the global generator
    try:
        _, found = library.get_interval_estimates({"": scores}, function, reps=REPETITIONS)
    finally:
        np.random.set_state(state)
    low, high = (bound.reshape(value.shape) for bound in found[""])
    return value, low, high
