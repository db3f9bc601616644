"""The report's statistics are rliable's, on synthetic scores."""

import numpy as np
import pytest
from rliable import library
from rliable import metrics as rliable

from benchmarks import metrics

SCORES = np.random.default_rng(0).uniform(size=(5, 3))
BASELINE = np.random.default_rng(1).uniform(size=(5, 3)) - 0.2


@pytest.fixture(autouse=True)
def _few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REPETITIONS", 200)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("IQM", rliable.aggregate_iqm),
        ("mean", rliable.aggregate_mean),
        ("optimality gap", rliable.aggregate_optimality_gap),
    ],
    ids=["IQM", "mean", "optimality gap"],
)
def test_aggregates_are_those_of_rliable(name: str, function) -> None:
    interval = metrics.aggregates(SCORES)[name]
    np.random.seed(0)
    points, bounds = library.get_interval_estimates({"x": SCORES}, function, reps=200)
    assert interval.value == points["x"]
    assert [interval.low, interval.high] == bounds["x"].flatten().tolist()


def test_improvement_is_that_of_rliable() -> None:
    interval = metrics.improvement(SCORES, BASELINE)
    np.random.seed(0)
    points, bounds = library.get_interval_estimates(
        {"x": (SCORES, BASELINE)}, rliable.probability_of_improvement, reps=200
    )
    assert interval.value == points["x"]
    assert [interval.low, interval.high] == bounds["x"].flatten().tolist()


def test_curves_are_rliables_iqm_step_by_step() -> None:
    scores = np.random.default_rng(2).uniform(size=(5, 2, 4))
    value, low, high = metrics.curve(scores)
    expected = [rliable.aggregate_iqm(scores[..., step]) for step in range(4)]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert np.all(low <= value)
    assert np.all(value <= high)


def test_one_seed_has_no_interval() -> None:
    assert all(np.isnan(found.low) for found in metrics.aggregates(SCORES[:1]).values())
    assert np.isnan(metrics.improvement(SCORES[:1], BASELINE).low)
    assert np.isnan(metrics.curve(SCORES[:1, :1, None])[1]).all()
    assert str(metrics.aggregates(SCORES[:1])["IQM"]).endswith("(one seed)")


def test_intervals_repeat_and_leave_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    assert metrics.aggregates(SCORES) == metrics.aggregates(SCORES)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_the_final_return_is_that_of_the_last_tenth() -> None:
    steps = list(range(1, 21))
    returns = [[float(step), step + 1.0] for step in steps]
    final = metrics.final_return({"timesteps": steps, "returns": returns})
    assert final == np.mean([19, 20, 20, 21])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (612.7, "613"), (-1.5, "-1.50"), (9535.2, "9535"), (0.0, "0.00")],
    ids=str,
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert metrics.number(value) == text
