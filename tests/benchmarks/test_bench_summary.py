"""The summary compares ERA's arms by exact tests, with five seeds, and lists what is missing."""

from pathlib import Path

import numpy as np
import pytest
from bench_tiny import made_up, tiny

from benchmarks import compare, idle, metrics, report, scores, suite, summary
from benchmarks.metrics import Improvement
from era_rl.runs.folder import write_json

FIVE = ("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4]")


@pytest.fixture(autouse=True)
def _few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REPETITIONS", 50)
    monkeypatch.setattr(
        idle, "measured", lambda: {"Pendulum-v1": {"zero": -950.0, "random": -1200.0}}
    )


def compared(folder: Path, era: float, *changes: tuple[str, str]) -> list[compare.Comparison]:
    """Return the comparisons of a tiny suite whose baseline's returns are about -800."""
    loaded = suite.load(tiny(folder, *changes))
    for run in loaded.runs:
        level = era if run.arm == "era" else -800.0
        write_json(run.result(folder / "tiny"), made_up(run, level))
    return compare.comparisons([scores.load(loaded, folder / "tiny")])


@pytest.mark.parametrize(
    ("era", "verdict"), [(-400.0, compare.BETTER), (-800.0, compare.EQUAL), (-900.0, compare.WORSE)]
)
def test_verdicts(tmp_path: Path, era: float, verdict: str) -> None:
    (row,) = compared(tmp_path, era, FIVE)
    assert (row.arm, row.baseline, row.task) == ("era", "sac", "pendulum")
    assert row.verdict == verdict
    assert metrics.iqm(row.ours) == pytest.approx(era, abs=2.0)
    assert metrics.iqm(row.theirs) == pytest.approx(-800.0, abs=2.0)


@pytest.mark.parametrize(("corrected", "verdict"), [(0.05, "better"), (0.051, "cannot be told")])
def test_a_verdict_is_one_after_correction(corrected: float, verdict: str) -> None:
    """A verdict needs Holm's p <= 0.05; the p-value of the comparison alone gives none."""
    returns, improvement = np.zeros((5, 1)), Improvement(0.9, 0.001)
    row = compare.Comparison("s", "a", "b", "t", returns, returns, {}, improvement, corrected)
    assert row.verdict == verdict


def test_several_tasks_are_compared_together_too(tmp_path: Path) -> None:
    task = "pendulum: {env: Pendulum-v1, range: [-1600, 0]}"
    rows = compared(tmp_path, -400.0, FIVE, (task, f"{task}\n  {task.replace('pend', 'nod')}"))
    assert [row.task for row in rows] == ["all", "pendulum", "nodulum"]
    # 0 is the better of no action and random actions, -950, and 1 the suite's 0
    assert metrics.iqm(rows[0].ours) == pytest.approx(550.0 / 950.0, abs=0.01)
    assert [row.improvement.p_value for row in rows] == pytest.approx(
        [2 / 252**2, 2 / 252, 2 / 252]
    )
    assert [row.corrected for row in rows] == pytest.approx([6 / 252**2, 4 / 252, 4 / 252])


def test_arms_of_which_neither_is_eras_are_not_compared(tmp_path: Path) -> None:
    era = "era: {algo: sac_era, nats_per_dim: -0.5, about: floor}"
    stock = "era: {algo: sac, params: {ent_coef: 0.1}, about: stock}"
    assert compared(tmp_path, -400.0, FIVE, (era, stock)) == []


def test_fewer_than_five_seeds_are_not_compared(tmp_path: Path) -> None:
    assert compared(tmp_path, -400.0, ("seeds: [0, 1]", "seeds: [0, 1, 2, 3]")) == []


def test_two_arms_of_another_suite_are_compared_there_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "SUITES", tmp_path)
    compared(tmp_path, -900.0, FIVE)
    arms = "arms:\n  sac: {suite: tiny}\n  era: {suite: tiny}\n"
    arms += "  low: {algo: sac_era, nats_per_dim: -1.0, about: low}\n"
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "second.yaml").write_text(f"{text[: text.index('arms:')]}also_against: era\n{arms}")
    second = suite.load("second")
    for run in second.runs:
        if run.arm == "low":
            write_json(run.result(tmp_path / "second"), made_up(run, -100.0))
    rows = compare.comparisons([scores.load(second, tmp_path / "second")])
    assert [(row.arm, row.baseline) for row in rows] == [("low", "sac"), ("low", "era")]
    assert [row.improvement.probability for row in rows] == [1.0, 1.0]
    assert [metrics.iqm(row.theirs) for row in rows] == pytest.approx([-800.0, -900.0], abs=2.0)
    (tmp_path / "second" / "pendulum-low-seed4.json").unlink()
    page = summary.write(tmp_path).read_text()
    assert "| second | 4 of 5 | Tiny. |" in page


def test_the_page_has_comparisons_curves_and_what_was_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suite, "SUITES", tmp_path)
    assert compared(tmp_path, -900.0, FIVE)
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "tiny.yaml").read_text().replace("Tiny.", "Never run."))
    report.write(suite.load("tiny"), tmp_path / "tiny", tmp_path / "scratch")
    text = summary.write(tmp_path).read_text()
    assert "| [tiny](tiny/report.md) | era | sac | pendulum | 5 | -950 | -1200 | -900" in text
    assert "| 0.00 | 0.00794 | 0.00794 | worse |" in text
    assert "Worse: tiny, era against sac: pendulum." in text
    assert "Better: nowhere." in text
    assert "without an action or with random ones: nowhere." in text
    assert "](tiny/curves.png)" in text
    assert "| other | 0 of 10 | Never run. |" in text
    assert "| tiny |" not in text
