"""The summary compares arms by intervals, and only with five seeds; what was not run is listed."""

from pathlib import Path

import pytest
from bench_tiny import made_up, tiny

from benchmarks import metrics, report, suite, summary
from benchmarks.metrics import Interval
from era_rl.runs.folder import write_json

FIVE = ("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4]")


@pytest.fixture(autouse=True)
def _few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REPETITIONS", 50)


def compared(folder: Path, era: float, *changes: tuple[str, str]) -> list[summary.Comparison]:
    """Return the comparisons of a tiny suite whose baseline's returns are about -800."""
    loaded = suite.load(tiny(folder, *changes))
    for run in loaded.runs:
        level = era if run.arm == "era" else -800.0
        write_json(run.result(folder / "tiny"), made_up(run, level))
    return list(summary.comparisons(loaded, report.read_grid(loaded, folder / "tiny")))


@pytest.mark.parametrize(
    ("era", "verdict"),
    [(-400.0, summary.BETTER), (-800.0, summary.EQUAL), (-900.0, summary.WORSE)],
)
def test_verdicts(tmp_path: Path, era: float, verdict: str) -> None:
    (row,) = compared(tmp_path, era, FIVE)
    assert (row.arm, row.baseline, row.task, row.seeds) == ("era", "sac", "pendulum", 5)
    assert row.verdict == verdict
    assert row.arm_iqm.value == pytest.approx(era, abs=2.0)
    assert row.baseline_iqm.value == pytest.approx(-800.0, abs=2.0)


def test_an_interval_that_touches_one_half_decides_nothing() -> None:
    iqm = Interval(0.0, 0.0, 0.0)
    for low, high in ((0.5, 1.0), (0.0, 0.5)):
        row = summary.Comparison("s", "a", "b", "t", 5, iqm, iqm, Interval(0.5, low, high))
        assert row.verdict == summary.EQUAL


def test_several_tasks_are_compared_together_too(tmp_path: Path) -> None:
    task = "pendulum: {env: Pendulum-v1, range: [-1600, 0]}"
    rows = compared(tmp_path, -400.0, FIVE, (task, f"{task}\n  {task.replace('pend', 'nod')}"))
    assert [row.task for row in rows] == ["all", "pendulum", "nodulum"]
    assert rows[0].arm_iqm.value == pytest.approx(0.75, abs=0.01)


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
    (tmp_path / "second.yaml").write_text(text[: text.index("arms:")] + arms)
    second = suite.load("second")
    for run in second.runs:
        if run.arm == "low":
            write_json(run.result(tmp_path / "second"), made_up(run, -100.0))
    rows = list(summary.comparisons(second, report.read_grid(second, tmp_path / "second")))
    assert [(row.arm, row.baseline) for row in rows] == [("low", "sac")]
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
    assert "| [tiny](tiny/report.md) | era | sac | pendulum | 5 | -900" in text
    assert "Worse: tiny, era against sac: pendulum." in text
    assert "Better: nowhere." in text
    assert "](tiny/curves.png)" in text
    assert "| other | 0 of 10 | Never run. |" in text
    assert "| tiny |" not in text
