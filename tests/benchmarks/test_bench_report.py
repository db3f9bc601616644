"""Reports say what there is, what is missing and what failed, and hold the statistics' numbers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_tiny import made_up, tiny

from benchmarks import compare, figures, idle, metrics, report, scores, suite, tables
from benchmarks.suite import Suite, TrainingRun
from era_rl.runs.folder import write_json
from era_rl.runs.settings import SettingsError

LEVELS = {"sac": -800.0, "era": -400.0}


@pytest.fixture(autouse=True)
def _few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "REPETITIONS", 50)
    monkeypatch.setattr(suite, "names", list)  # no other suite's results are read
    monkeypatch.setattr(
        idle, "measured", lambda: {"Pendulum-v1": {"zero": -1200.0, "random": -1300.0}}
    )


def fill(runs: list[TrainingRun], folder: Path) -> None:
    for run in runs:
        write_json(run.result(folder), made_up(run, LEVELS[run.arm]))


def written(loaded: Suite, folder: Path, scratch: Path) -> str:
    """Write the report and return its Markdown; the page has the images in itself."""
    page = report.write(loaded, folder, scratch).read_text()
    text = (folder / "report.md").read_text()
    assert not re.search(r"http:|https:|src=\"(?!data:image/png;base64,iVBOR)", page)
    images = list(folder.glob("*.png"))
    assert page.count("<img") == len(images)
    assert all(image.name in text for image in images)
    return text


def test_a_complete_suite(tmp_path: Path) -> None:
    loaded = suite.load(tiny(tmp_path))
    fill(loaded.runs, tmp_path / "r")
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    assert "INCOMPLETE" not in text
    assert "## Not done" not in text
    findings = scores.load(loaded, tmp_path / "r")
    era, sac = (findings.matrix(arm) for arm in ("era", "sac"))
    runs = findings.grid["pendulum", "era"]
    finals = [metrics.final_return(run["evaluation"]) for run in runs]
    np.testing.assert_allclose(era[:, 0], (np.array(finals) + 1200.0) / 1200.0)
    assert "| no action | -1200 |\n| random actions | -1300 |" in text
    expected = [*metrics.aggregates(era).values(), metrics.improvement(era, sac)]
    assert f"| era | 2 | {' | '.join(map(str, expected))} |" in text
    means = [[metrics.mean_return(run["evaluation"])] for run in runs]
    iqm = metrics.aggregates(np.array(means))["IQM"]
    assert iqm != metrics.aggregates(np.array(finals)[:, None])["IQM"]
    assert f"| era | {iqm} |" in text
    assert {path.name for path in (tmp_path / "r").glob("*.png")} == {
        "curves.png",
        "entropy.png",
        "gradient_norm.png",
        "log_std.png",
    }


def test_entropies_and_floors_are_per_dimension(tmp_path: Path) -> None:
    loaded = suite.load(tiny(tmp_path))
    for run, scale in zip(loaded.runs, (1.0, 1.0, 1.0, 3.0), strict=True):
        result = made_up(run, LEVELS[run.arm])
        result["trace"]["entropy_mean"] = [8.0] * 9 + [0.2 * scale]
        result["trace"]["entropy_min"] = [-0.5, -0.4 * scale] * 5
        result["trace"]["floor"] = [0.0, *[-1.0] * 9] if run.arm == "era" else [None] * 10
        result["trace"]["margin_min"] = [0.3, -0.1 * scale] * 5
        write_json(run.result(tmp_path / "r"), {**result, "action_dim": 2})
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    assert "| pendulum, era | 2 | 0.000 to -0.500 | 0.200 | -0.600 | -0.1500 |" in text
    assert "| pendulum, sac | 2 | none | 0.100 | -0.250 | - |" in text


def test_single_dimensions_are_reported_of_runs_that_have_them(tmp_path: Path) -> None:
    """Means over seeds of the least and the greatest dimension, and the least of any state."""
    loaded = suite.load(tiny(tmp_path))
    for run, scale in zip(loaded.runs, (1.0, 1.0, 1.0, 3.0), strict=True):
        result = {**made_up(run, LEVELS[run.arm]), "action_dim": 2}
        if run.arm == "era":
            result["trace"] |= {"std_0": [0.1 * scale] * 10, "std_1": [0.5] * 10}
            result["trace"] |= {"entropy_0": [-1.0] * 10, "entropy_1": [-0.4 * scale] * 10}
            result["trace"] |= {"lowest_0": [-1.5] * 10, "lowest_1": [0.0, -2.0 * scale] * 5}
            result["trace"]["log_std_min"] = [-3.0] * 10
        write_json(run.result(tmp_path / "r"), result)
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    cells = "-1.100 to -0.700 | -6.000 | 0.200 to 0.500 | 0.050"
    assert f"| pendulum, era | {cells} |" in text
    assert {"each_entropy.png", "each_std.png"} < {p.name for p in (tmp_path / "r").glob("*.png")}


def test_conflicts_are_means_over_training_with_the_lowest_and_the_highest_seed(
    tmp_path: Path,
) -> None:
    on = ("description: Tiny.", "description: Tiny.\ngradient_conflict: true")
    loaded = suite.load(tiny(tmp_path, on))
    fill(loaded.runs, tmp_path / "r")
    for run, at_params in zip(
        loaded.runs[1::2], ([-0.5, -0.2, None], [0.3, 0.1, -0.1]), strict=True
    ):
        result = json.loads(run.result(tmp_path / "r").read_text())
        for name, column in result["gradient_conflict"].items():
            result["gradient_conflict"][name] = column[:3]
        cosines = {"cosine_params": at_params, "cosine_actor": [None] * 3}
        result["gradient_conflict"] |= cosines
        write_json(run.result(tmp_path / "r"), result)
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    assert "| pendulum, era | 2 | -0.125 [-0.350, 0.100] | 67% | - | - |" in text
    assert (tmp_path / "r" / "gradient_conflict.png").exists()


def test_acting_is_reported_of_the_runs_that_have_it(tmp_path: Path) -> None:
    loaded = suite.load(tiny(tmp_path))
    fill(loaded.runs, tmp_path / "r")
    assert "Acting by" not in written(loaded, tmp_path / "r", tmp_path / "s")
    for run, level in zip(loaded.runs[1::2], (0.0, 4.0), strict=True):
        result = json.loads(run.result(tmp_path / "r").read_text())
        result["acting"] = {"mode": [level, level], "mean": [level, 2.0], "sample": [-8.0, -8.0]}
        along = {way: [0.0, level] for way in ("mode", "mean", "sample")}
        result["acting_along"] = {"timesteps": [100, 300], **along}
        write_json(run.result(tmp_path / "r"), result)
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    cells = "2.00 [0.00, 4.00] | 2.00 [1.00, 3.00] | -8.00 [-8.00, -8.00]"
    assert f"| pendulum, era | 2 | {cells} |" in text
    assert f"| pendulum, era | 2 |{3 * ' 1.00 [0.00, 2.00] |'}" in text
    assert "| pendulum, sac | 2 | -8" not in text


def test_an_incomplete_suite_says_so_and_compares_no_single_seed(tmp_path: Path) -> None:
    loaded = suite.load(tiny(tmp_path))
    fill(loaded.runs[:-1], tmp_path / "r")
    failed = loaded.runs[-1]
    failed.folder(tmp_path / "s").mkdir(parents=True)
    (failed.folder(tmp_path / "s") / "failure.txt").write_text("Traceback: of this run")
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    assert "INCOMPLETE: 3 of 4 runs are done, 1 failed" in text
    assert "| era | 1/2 | floor |" in text
    assert "Traceback: of this run" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| era | 1 |"))
    assert row.count("(one seed)") == len(metrics.AGGREGATES)
    assert row.endswith("| - |")


def test_an_empty_suite_has_a_report_of_what_is_missing(tmp_path: Path) -> None:
    text = written(suite.load(tiny(tmp_path)), tmp_path / "r", tmp_path / "s")
    assert "INCOMPLETE: 0 of 4" in text
    assert "4 runs are missing: pendulum-sac-seed0" in text


def test_results_of_another_config_are_not_reported(tmp_path: Path) -> None:
    loaded = suite.load(tiny(tmp_path))
    fill(loaded.runs, tmp_path / "r")
    other = suite.load(tiny(tmp_path, ("evaluate_every: 100", "evaluate_every: 50")))
    with pytest.raises(SettingsError, match=r"other settings \(evaluate_every"):
        report.write(other, tmp_path / "r", tmp_path / "s")


def test_gains_are_drawn_against_the_number_of_dimensions(tmp_path: Path) -> None:
    task = "pendulum: {env: Pendulum-v1, dimension: 1, range: [-1600, 0]}"
    old = "pendulum: {env: Pendulum-v1, range: [-1600, 0]}"
    second = task.replace("pendulum", "other").replace("dimension: 1", "dimension: 4")
    loaded = suite.load(tiny(tmp_path, (old, f"{task}\n  {second}")))
    fill(loaded.runs, tmp_path / "r")
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    assert (tmp_path / "r" / "dimensions.png").exists()
    assert "| era, D = 4 | 1.00 (p = 0.333) |" in text


def test_scores_are_drawn_against_the_height_of_exact_floors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    era = "era: {algo: sac_era, nats_per_dim: -0.5, about: floor}"
    others = [
        "low: {algo: sac_era, nats_per_dim: -1.0, about: low}",
        "slack: {algo: sac_era, nats_per_dim: -0.7, params: {slack: 0.2}, about: slack}",
        "eq11: {algo: sac_era, nats_per_dim: 0.1, params: {floor: gaussian}, about: Eq. 11}",
        "target: {algo: sac, nats_per_dim: -0.3, about: no floor}",
    ]
    loaded = suite.load(tiny(tmp_path, (era, "\n  ".join([era, *others]))))
    drawn = {}

    def draw(heights: dict[str, float], scores: dict[str, dict], path: Path) -> None:
        drawn.update(heights=heights, scores=scores)
        real(heights, scores, path)

    real = figures.floors
    monkeypatch.setattr(figures, "floors", draw)
    for run in loaded.runs[:-5]:  # of the second seed, sac alone
        write_json(run.result(tmp_path / "r"), made_up(run, LEVELS.get(run.arm, -100.0)))
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    assert "## Score against the floor" in text
    assert (tmp_path / "r" / "floor.png").exists()
    assert drawn["heights"] == {"era": -0.5, "low": -1.0}
    assert set(drawn["scores"]) == {"pendulum"}
    by_arm = drawn["scores"]["pendulum"]
    assert set(by_arm) == {"sac", "era", "low"}
    assert by_arm["low"].value == pytest.approx((1200.0 - 100.0) / 1200.0, abs=2e-3)
    assert np.isnan(by_arm["low"].low)


def test_tables_of_speed_and_of_margins(tmp_path: Path) -> None:
    audit = {"head": "exact floor", "size": 6, "floor": -3.0, "kind": "exact"}
    content: dict[str, Any] = {
        "rows": [
            {**audit, "random": 1e-5, "ascent": -2e-6, "visited": None},
            {**audit, "size": 38, "random": 2e-5, "ascent": 3e-5, "visited": 1e-6},
        ]
    }
    write_json(tmp_path / "audit.json", content)
    cells = ["+1.0e-05, +2.0e-05", "-2.0e-06, +3.0e-05", "-, +1.0e-06"]
    rows = tables.floor_audit(tmp_path / "audit.json").rows
    assert rows == [["exact floor", "6, 38", "-3, -3", *cells]]
    speed = {"speed_over_sac": {"median": 1.5, "quartiles": [1.4, 1.6]}, "per": "env_step"}
    content = {
        "settings": {"device": "cpu", "width": "256", "batch_size": 64, "threads": "2"},
        "ratios": [{"algorithm": name, **speed} for name in ("sac", "exact-compiled")],
        "update": {"share_reached": {"sac": 0.3, "exact-compiled": 0.5}},
    }
    write_json(tmp_path / "throughput" / "cpu.json", content)
    table = tables.speeds(tmp_path)
    row = ["cpu, 256, 64, 2", "-", "1.50 [1.40, 1.60]", "-", "-", "-", "50%"]
    assert table.rows == [row]
    assert table.caption.endswith("CUDA is unmeasured")
    content["settings"]["device"] = "cuda"
    write_json(tmp_path / "fast-gpu" / "throughput-256.json", content)
    table = tables.speeds(tmp_path)
    assert table.rows == [row, ["cuda, 256, 64, 2", *row[1:]]]
    assert "unmeasured" not in table.caption


def test_added_time_is_the_inverse_of_speed(tmp_path: Path) -> None:
    ratio = {"median": 0.8, "quartiles": [0.5, 1.0]}
    row = {"algorithm": "ERA", "per": "step", "milliseconds": 1.0, "speed_over_plain": ratio}
    settings = {"env": "E", "device": "cpu", "action_dim": 6}
    over_compiled = {**row, "speed_over_exact, compiled": ratio}
    content: dict[str, Any] = {"settings": settings, "ratios": {"PPO": [row]}}
    content["ratios_of_compiled_heads"] = [over_compiled]
    (tmp_path / "overhead").mkdir()
    (tmp_path / "overhead" / "cpu.json").write_text(json.dumps(content))
    expected = ["PPO, rollout and update", "ERA", "+25% [+0%, +100%]"]
    assert expected in tables.three_domains(tmp_path).rows
    of_heads = ["compiled head alone, over that of the sum", *expected[1:]]
    assert of_heads in tables.overhead(tmp_path / "overhead" / "cpu.json").rows


def test_a_suites_margin_gives_its_own_verdicts_on_what_is_complete(tmp_path: Path) -> None:
    """Holm over the arms; better and worse by the scores, no worse by the scores with the margin."""
    arms = "\n".join(
        f"  {arm}: {{algo: sac_era, about: a}}" for arm in ("high", "even", "near", "low")
    )
    era = "  era: {algo: sac_era, nats_per_dim: -0.5, about: floor}"
    second = "  other: {env: Pendulum-v1, range: [-1600, 0]}\narms:"
    seeds = ("seeds: [0, 1]", "seeds: [0, 1, 2, 3, 4]\nmargin: 0.05")
    loaded = suite.load(tiny(tmp_path, seeds, (era, arms), ("arms:", second)))
    levels = {"sac": -600.0, "high": -300.0, "even": -600.5, "near": -601.0, "low": -900.0}
    for run in loaded.runs:
        if (run.task, run.arm, run.seed) != ("other", "low", 4):
            shift = 60.0 * (run.seed - 2) if run.arm == "near" else 0.0
            write_json(run.result(tmp_path / "r"), made_up(run, levels[run.arm] + shift))
    tasks, rows = compare.by_margin(scores.load(loaded, tmp_path / "r"))
    assert tasks == ["pendulum"]
    verdicts = {row.arm: row.verdict for row in rows}
    assert verdicts == {"high": "better", "even": "equal", "near": "undecided", "low": "worse"}
    best = next(row for row in rows if row.arm == "high")
    assert best.corrected[0] == pytest.approx(4 * 2 / 252)
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    assert "tasks that are complete in all arms (pendulum)" in text
    assert re.search(r"\| even against sac \| .* \| equal \|", text)


def test_spread_failures_coverage_and_prices_are_reported(tmp_path: Path) -> None:
    """A run fails below a score of .05; coverage at the end, prices of the last tenth of the checks."""
    loaded = suite.load(tiny(tmp_path, ("steps: 300", "exploration: true\nsteps: 300")))
    for run in loaded.runs:
        level = -1190.0 if (run.arm, run.seed) == ("era", 1) else LEVELS[run.arm]
        table = {"timesteps": [*range(30, 301, 30)], "coverage": [*range(9), 2.0 + 2.0 * run.seed]}
        price, none = [9.0] * 9 + [1.0 + run.seed], [None] * 10
        costs = (none, price) if run.arm == "sac" else (price, none)
        table |= dict(zip(("entropy_price", "ent_coef"), costs, strict=True))
        write_json(run.result(tmp_path / "r"), {**made_up(run, level), "exploration": table})
    text = written(loaded, tmp_path / "r", tmp_path / "s")
    assert re.search(r"\| pendulum, era \| 1 of 2 \| -1(18|19)\d \| -(39|40)\d \|", text)
    assert re.search(r"\| pendulum, sac \| 0 of 2 \| -80\d \| -(79|80)\d \|", text)
    assert "| pendulum, era | 2 | 3.00 [2.00, 4.00] | 1.5 | - |" in text
    assert "| pendulum, sac | 2 | 3.00 [2.00, 4.00] | - | 1.5 |" in text
    assert (tmp_path / "r" / "coverage.png").exists()
