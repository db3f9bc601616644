"""The report's statistics are rliable's, on synthetic scores; its tests are exact."""

from itertools import combinations

import numpy as np
import pytest
from rliable import library
from rliable import metrics as rliable
from scipy.stats import mannwhitneyu

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


def arrangements(first: int, second: int) -> list[np.ndarray]:
    """Return all 0-1 masks of ``first`` of the runs."""
    total = first + second
    return [np.isin(np.arange(total), chosen) for chosen in combinations(range(total), first)]


def test_improvement_is_that_of_rliable_and_its_p_value_scipys() -> None:
    """P(x > y) = U / (n m); without ties p is that of scipy's exact Mann-Whitney test."""
    found = metrics.improvement(SCORES, BASELINE)
    assert found.probability == rliable.probability_of_improvement(SCORES, BASELINE)
    for task in range(3):
        ours, theirs = SCORES[:, [task]], BASELINE[1:, [task]]
        expected = mannwhitneyu(ours[:, 0], theirs[:, 0], method="exact").pvalue
        assert metrics.improvement(ours, theirs).p_value == pytest.approx(expected, rel=1e-12)


def test_p_values_with_ties_and_over_tasks_are_those_of_all_arrangements() -> None:
    """p = share of arrangements with |sum_t U_t - mean| at least the observed one, ties at midranks."""
    pooled = np.array([[1.0, 2.0, 2.0, 3.0, 2.0, 0.0], [5.0, 1.0, 1.0, 0.5, 2.0, 1.0]])
    masks = arrangements(3, 3)

    def u(values: np.ndarray, mask: np.ndarray) -> float:
        pairs = values[mask][:, None] - values[~mask]
        return float(((pairs > 0) + 0.5 * (pairs == 0)).sum())

    sums = np.array([u(pooled[0], a) + u(pooled[1], b) for a in masks for b in masks]) - 9.0
    found = metrics.improvement(pooled[:, :3].T, pooled[:, 3:].T)
    assert found.p_value == pytest.approx(np.mean(np.abs(sums) >= abs(sums[0])), rel=1e-12)
    assert found.probability == pytest.approx((sums[0] + 9.0) / 18.0)


def test_one_test_in_twenty_is_wrong_at_most() -> None:
    """Over all 252 arrangements of 5 runs against 5, P(p <= a) = a for every attained a."""
    values = np.random.default_rng(0).normal(size=10)
    found = [
        metrics.improvement(values[mask][:, None], values[~mask][:, None]).p_value
        for mask in arrangements(5, 5)
    ]
    for p_value in sorted(set(found)):
        assert np.mean(np.array(found) <= p_value) == pytest.approx(p_value)
    assert min(found) == pytest.approx(2 / 252)
    assert 0.03 < np.mean(np.array(found) <= 0.05) < 0.05


def test_of_twenty_families_of_comparisons_one_has_a_false_verdict_at_most() -> None:
    """Holm: without any difference at most 5% of families of 6 comparisons of 6 runs have a verdict."""
    values = np.arange(12.0)
    attained = [
        metrics.improvement(values[mask][:, None], values[~mask][:, None]).p_value
        for mask in arrangements(6, 6)[::3]
    ]
    families = np.random.default_rng(0).choice(attained, (4_000, 6))
    wrong = np.mean([min(metrics.holm(family.tolist())) <= metrics.LEVEL for family in families])
    assert 0.0 < wrong <= metrics.LEVEL
    assert np.mean(families.min(axis=1) <= metrics.LEVEL) > 0.15


def test_holms_p_values_step_down() -> None:
    """p_(i) -> max over j <= i of min(1, (m - j + 1) p_(j)), in the order given."""
    assert metrics.holm([0.01, 0.04, 0.03, 0.9]) == pytest.approx([0.04, 0.09, 0.09, 0.9])
    assert metrics.holm([0.5, 0.6]) == [1.0, 1.0]
    assert metrics.holm([]) == []


def test_curves_are_rliables_iqm_step_by_step() -> None:
    scores = np.random.default_rng(2).uniform(size=(5, 2, 4))
    value, low, high = metrics.curve(scores)
    expected = [rliable.aggregate_iqm(scores[..., step]) for step in range(4)]
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    assert np.all(low <= value)
    assert np.all(value <= high)


def test_one_seed_has_no_interval() -> None:
    assert all(np.isnan(found.low) for found in metrics.aggregates(SCORES[:1]).values())
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
