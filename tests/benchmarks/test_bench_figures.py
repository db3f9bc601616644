"""What figures draw is what they say: the values of their lines, bands and points."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench_tiny import made_up, tiny
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import figures, idle, metrics, scores, suite
from benchmarks.metrics import Interval
from benchmarks.scores import Findings
from era_rl.runs.folder import write_json

IDLE = {"zero": -1200.0, "random": -1300.0}
ERA = "era: {algo: sac_era, nats_per_dim: -0.5, about: floor}"
LEVELS = {"sac": -800.0, "era": -400.0}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Return the figures that are saved, as they are."""
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    monkeypatch.setattr(metrics, "REPETITIONS", 50)
    monkeypatch.setattr(idle, "measured", lambda: {"Pendulum-v1": IDLE})
    return found


def findings(
    folder: Path, *changes: tuple[str, str], levels: Any = LEVELS, trace: Any = ()
) -> Findings:
    """Return what the tiny suite came to, with columns of the trace by seed."""
    loaded = suite.load(tiny(folder, *changes))
    for run in loaded.runs:
        result = made_up(run, levels.get(run.arm, -100.0))
        result["trace"] |= {name: by_seed[run.seed] for name, by_seed in dict(trace).items()}
        write_json(run.result(folder / "r"), {**result, "action_dim": 2})
    return scores.load(loaded, folder / "r")


def lines(axis: Axes, label: str) -> list[np.ndarray]:
    """Return the heights of the labelled line of an axis and of the two lines after it."""
    (index,) = (i for i, line in enumerate(axis.lines) if line.get_label() == label)
    return [np.asarray(line.get_ydata(), dtype=float) for line in axis.lines[index : index + 3]]


def test_entropies_are_mean_lowest_of_any_seed_and_floor_per_dimension(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    """Solid mean_seeds H / D, dotted min_seeds min_s H / D, dashed H0 / D."""
    trace = {
        "entropy_mean": [[4.0] * 10, [2.0] * 10],
        "entropy_min": [[-1.0, 3.0] * 5, [1.0, -2.0] * 5],
        "floor": [[-3.0] * 10] * 2,
    }
    figures.entropies(findings(tmp_path, trace=trace), tmp_path / "x.png")
    (axis,) = drawn[0].axes
    mean, lowest, floor = lines(axis, "era")
    assert mean.tolist() == [1.5] * 10
    assert lowest.tolist() == [-0.5, -1.0] * 5
    assert floor.tolist() == [-1.5] * 10
    assert axis.get_ylim()[0] > figures.LOWEST


def test_entropies_far_below_are_cut_off(tmp_path: Path, drawn: list[Figure]) -> None:
    trace = {"entropy_min": [[-900.0] * 10] * 2}
    figures.entropies(findings(tmp_path, trace=trace), tmp_path / "x.png")
    assert drawn[0].axes[0].get_ylim()[0] == figures.LOWEST


def test_dimensions_are_their_mean_their_range_and_the_lowest_of_any_state(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    """Line: mean over dimensions and seeds. Band: mean over seeds of the least and the greatest."""
    trace = {f"std_{i}": [[1.0 + i] * 10, [2.0 + 3.0 * i] * 10] for i in range(2)}
    trace["log_std_min"] = [[-1.0] * 10, [-2.0, 0.0] * 5]
    found = findings(tmp_path, trace=trace)
    figures.dimensions(found, tmp_path / "x.png", column="std", ylabel="std")
    (axis,) = drawn[0].axes
    mean, lowest = lines(axis, "era")[:2]
    assert mean.tolist() == [2.5] * 10
    np.testing.assert_allclose(lowest, np.exp([-2.0, -1.0] * 5))
    corners = axis.collections[-1].get_paths()[0].vertices[:, 1]
    assert (corners.min(), corners.max()) == (1.5, 3.5)


def test_learning_curves_are_iqms_beside_what_is_had_for_nothing(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    found = findings(tmp_path)
    figures.learning_curves(found, tmp_path / "x.png")
    (axis,) = drawn[0].axes
    returns = scores.evaluations(found.grid["pendulum", "era"])[1]
    np.testing.assert_allclose(lines(axis, "era")[0], returns.mean(0))  # of two seeds
    assert [lines(axis, name)[0][0] for name in ("no action", "random actions")] == list(
        IDLE.values()
    )
    assert axis.get_title() == "pendulum"
    assert {line.get_linestyle() for line in axis.lines[:2]} == {"-"}


@pytest.mark.parametrize("about", ["era", "an-arm-of-a-longer-name"])
def test_a_legend_is_not_wider_than_its_figure(
    tmp_path: Path, drawn: list[Figure], about: str
) -> None:
    """0 <= left, right <= width, of one panel with four lines."""
    figures.learning_curves(findings(tmp_path, (ERA, ERA.replace("era:", f"{about}:"))), tmp_path)
    drawn[0].draw_without_rendering()
    box = drawn[0].legends[0].get_window_extent()
    assert box.x0 >= 0.0
    assert box.x1 <= drawn[0].bbox.x1


def test_a_single_seed_is_dashed_and_has_no_band(tmp_path: Path, drawn: list[Figure]) -> None:
    figures.learning_curves(findings(tmp_path, ("[0, 1]", "[0]")), tmp_path / "x.png")
    assert {line.get_linestyle() for line in drawn[0].axes[0].lines[:2]} == {"--"}


def test_what_learned_nothing_is_marked(tmp_path: Path, drawn: list[Figure]) -> None:
    """Learned: some arm's IQM >= low + 0.05 (high - low), low the better of nothing and random."""
    for level, learned in ((-1200.0 + 0.04 * 1200.0, False), (-1200.0 + 0.06 * 1200.0, True)):
        found = findings(tmp_path, levels={"sac": -1500.0, "era": level})
        assert found.learned("pendulum") is learned
        figures.learning_curves(found, tmp_path / "x.png")
        assert ("not learned" in drawn[-1].axes[0].get_title()) is not learned
    assert replace(found, grid={}).learned("pendulum")  # nothing is said of what was not run


def test_more_than_three_arms_have_a_panel_each_beside_the_baseline(
    tmp_path: Path, drawn: list[Figure]
) -> None:
    others = [f"n{i}: {{algo: sac_era, nats_per_dim: -{i}.0, about: x}}" for i in (1, 2)]
    found = findings(tmp_path, (ERA, "\n  ".join([ERA, *others])))
    figures.means(found, tmp_path / "x.png", column="log_std_mean", ylabel="mean log std")
    shown = [[line.get_label() for line in axis.lines] for axis in drawn[0].axes]
    assert shown == [["sac", "era"], ["sac", "n1"], ["sac", "n2"]]
    for axis, arm in zip(drawn[0].axes, ("era", "n1", "n2"), strict=True):
        assert axis.get_title() == f"pendulum, {arm}"
        expected = np.mean([run["trace"]["log_std_mean"] for run in found.grid["pendulum", arm]], 0)
        np.testing.assert_allclose(lines(axis, arm)[0], expected)
    assert drawn[0].axes[0].get_ylim() == drawn[0].axes[2].get_ylim()


def test_floors_are_points_with_intervals_and_bands(tmp_path: Path, drawn: list[Figure]) -> None:
    by_arm = {"sac": Interval(0.5, 0.4, 0.7), "era": Interval(0.6, 0.5, 0.9)}
    figures.floors({"era": -0.5}, {"task": by_arm}, tmp_path / "x.png")
    (axis,) = drawn[0].axes
    ((_, caps, (bar,)),) = axis.containers
    assert bar.get_segments()[0].tolist() == [[-0.5, 0.5], [-0.5, 0.9]]
    assert len(caps) == 2
    assert [np.asarray(x.get_ydata())[0] for x in axis.lines if x not in caps] == [0.5, 0.6]
    assert axis.patches[0].get_window_extent().y0 == pytest.approx(
        axis.transData.transform((0.0, 0.4))[1]
    )


@pytest.mark.parametrize(
    ("arm", "nats", "label"),
    [
        ("exact-1.0", "-1.0", "exact(-1.0)"),
        ("exact+0.3", "0.3", "exact(+0.3)"),
        ("exact-0.0", "0.0", "exact(0.0)"),
        ("eq11-0.5-tanh", "-0.5", "eq11(-0.5)-tanh"),
        ("era", "-0.5", "era"),
    ],
)
def test_arms_keep_the_sign_of_their_floor(tmp_path: Path, arm: str, nats: str, label: str) -> None:
    entry = f"{arm}: {{algo: sac_era, nats_per_dim: {nats}, about: floor}}"
    assert scores.label(arm, suite.load(tiny(tmp_path, (ERA, entry)))) == label
