"""Figures of a suite's results, as PNG files."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks import metrics
from benchmarks.metrics import Array, Interval

Runs = list[dict[str, Any]]
Grid = Mapping[tuple[str, str], Runs]
"""Results by task and arm."""
LOWEST = -10.0
"""Nats per dimension below which no entropy is drawn: saturated policies of SAC have hundreds less."""
COLUMNS = 3
"""Panels in a row."""
COLORS = [*mpl.colormaps["tab10"].colors, *mpl.colormaps["Dark2"].colors]  # type: ignore[attr-defined]


def learning_curves(grid: Grid, path: Path) -> None:
    """Draw evaluation returns: the IQM over seeds with its interval, a panel a task.

    A single seed is dashed.
    """

    def draw(axis: Axes, runs: Runs, color: Any, label: str) -> None:
        steps, returns = evaluations(runs)
        value, low, high = metrics.curve(returns[:, None, :])
        style = "-" if len(runs) > 1 else "--"
        axis.plot(steps, value, style, color=color, label=label)
        axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)

    _panels(grid, draw, "evaluation return", path)


def entropies(grid: Grid, path: Path) -> None:
    """Draw entropy per dimension on visited states: mean over seeds, lowest state, and floor.

    What is below ``LOWEST`` is cut off.
    """

    def draw(axis: Axes, runs: Runs, color: Any, label: str) -> None:
        dim = runs[0]["action_dim"]
        steps, mean = traces(runs, "entropy_mean")
        lowest, floor = traces(runs, "entropy_min")[1], traces(runs, "floor")[1]
        axis.plot(steps, mean.mean(0) / dim, color=color, label=label)
        axis.plot(steps, lowest.min(0) / dim, color=color, linewidth=0.8, linestyle=":")
        axis.plot(steps, floor[0] / dim, color=color, linewidth=0.8, linestyle="--")
        if axis.dataLim.y0 < LOWEST:
            axis.set_ylim(LOWEST, axis.dataLim.y1 + 0.5)

    _panels(grid, draw, "entropy, nats per dimension", path)


def log_stds(grid: Grid, path: Path) -> None:
    """Draw the mean log std on visited states, averaged over seeds."""
    _panels(grid, _mean_of("log_std_mean"), "mean log std", path)


def gradient_norms(grid: Grid, path: Path) -> None:
    """Draw the norm of the actor's gradient, averaged over seeds."""
    _panels(grid, _mean_of("gradient_norm"), "norm of the actor's gradient", path, log=True)


def gains(by_arm: Mapping[str, Mapping[int, Interval]], path: Path) -> None:
    """Draw the probability of improvement on the baseline against the number of action dimensions."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axis = figure.subplots()
    for color, (arm, by_dimension) in zip(COLORS, by_arm.items(), strict=False):
        dims = list(by_dimension)
        values = [by_dimension[dim].value for dim in dims]
        lows, highs = [by_dimension[d].low for d in dims], [by_dimension[d].high for d in dims]
        axis.plot(dims, values, marker="o", color=color, label=arm)
        axis.fill_between(dims, lows, highs, color=color, alpha=0.2, linewidth=0)
    axis.axhline(0.5, color="0.6", linewidth=0.8)
    axis.set(xlabel="action dimensions", ylabel="P(better than the baseline)", xscale="log")
    axis.set(ylim=(-0.02, 1.02))
    ticks = sorted({dim for by_dimension in by_arm.values() for dim in by_dimension})
    axis.set_xticks(ticks, map(str, ticks))
    axis.set_xticks([], minor=True)
    axis.legend()
    figure.savefig(path, dpi=110)


def floors(
    heights: Mapping[str, float], scores: Mapping[str, Mapping[str, Interval]], path: Path
) -> None:
    """Draw scores against the height of the floor: points with intervals, and a band for the others.

    Args:
        heights: Nats per dimension, by arm.
        scores: IQM by task and arm; arms without a height are drawn as bands.
        path: The file.
    """

    def draw(axis: Axes, by_arm: Mapping[str, Interval]) -> None:
        for color, (arm, interval) in zip(COLORS, by_arm.items(), strict=False):
            if arm in heights:
                error = [[interval.value - interval.low], [interval.high - interval.value]]
                axis.errorbar(heights[arm], interval.value, error, fmt="o", color=color, capsize=3)
            else:
                axis.axhspan(interval.low, interval.high, color="0.9", linewidth=0)
                axis.axhline(interval.value, color="0.6", linewidth=0.8)
        axis.set_xticks(sorted(heights.values()))
        axis.set_xlim(min(heights.values()) - 0.2, max(heights.values()) + 0.2)

    figure, axes = _grid_of(scores)
    for axis, (task, by_arm) in zip(axes, scores.items(), strict=True):
        draw(axis, by_arm)
        axis.set(title=task, xlabel="floor, nats per dimension", ylabel="score")
    figure.savefig(path, dpi=110)


def evaluations(runs: Runs) -> tuple[Array, Array]:
    """Return the steps of the evaluations that all runs have, and mean returns (seeds, steps)."""
    shared = set.intersection(*(set(run["evaluation"]["timesteps"]) for run in runs))
    steps = np.array(sorted(shared))
    rows = []
    for run in runs:
        by_step = dict(
            zip(run["evaluation"]["timesteps"], run["evaluation"]["returns"], strict=True)
        )
        rows.append([np.mean(by_step[step]) for step in steps])
    return steps, np.array(rows)


def traces(runs: Runs, column: str) -> tuple[Array, Array]:
    """Return steps and a column of the traces, (seeds, steps), with NaN for None.

    Resumed runs check at other steps, so all are read at the steps of the first.
    """
    steps = np.array(runs[0]["trace"]["timesteps"], dtype=float)
    rows = [
        np.interp(steps, run["trace"]["timesteps"], np.array(run["trace"][column], dtype=float))
        for run in runs
    ]
    return steps, np.array(rows)


def _mean_of(column: str) -> Callable[[Axes, Runs, Any, str], None]:
    def draw(axis: Axes, runs: Runs, color: Any, label: str) -> None:
        steps, values = traces(runs, column)
        axis.plot(steps, values.mean(0), color=color, label=label)

    return draw


def _panels(
    grid: Grid,
    draw: Callable[[Axes, Runs, Any, str], None],
    ylabel: str,
    path: Path,
    *,
    log: bool = False,
) -> None:
    """Draw a panel for every task with a line for every arm, the legend below."""
    tasks, arms = unique(task for task, _ in grid), unique(arm for _, arm in grid)
    figure, axes = _grid_of(tasks)
    for index, (axis, task) in enumerate(zip(axes, tasks, strict=True)):
        for number, arm in enumerate(arms):
            if runs := grid.get((task, arm)):
                draw(axis, runs, COLORS[number % len(COLORS)], arm)
        axis.set(title=task, xlabel="environment steps", yscale="log" if log else "linear")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(color="0.9")
        if index % COLUMNS == 0:
            axis.set_ylabel(ylabel)
    _legend(figure, arms)
    figure.savefig(path, dpi=110)


def _grid_of(panels: Collection[str]) -> tuple[Figure, list[Axes]]:
    """Return a figure and an axis for every panel, so many a row."""
    columns = min(len(panels), COLUMNS)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.4 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure, axes[: len(panels)]


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    """Put one legend for all panels below them, in the order of the labels."""
    handles = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [label for label in labels if label in handles]
    columns = min(len(order), 4)
    figure.legend(
        [handles[label] for label in order], order, loc="outside lower center", ncols=columns
    )


def unique(values: Any) -> Sequence[str]:
    """Return values in the order of their first appearance."""
    return list(dict.fromkeys(values))
