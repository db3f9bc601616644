"""Figures of a suite's results, as PNG files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks import metrics
from benchmarks.metrics import Improvement, Interval
from benchmarks.scores import (
    Findings,
    Runs,
    evaluations,
    lowest_of_states,
    of_dimensions,
    traces,
    unique,
)

Draw = Callable[[Axes, Runs, Any, str], None]
LOWEST = -10.0
"""Nats per dimension below which no entropy is drawn: saturated policies of SAC have hundreds less."""
COLUMNS = 3
"""Panels in a row."""
TOGETHER = 3
"""Most arms in a panel; of more, each has a panel of its own, with the baseline in grey."""
COLORS = [*mpl.colormaps["tab10"].colors, *mpl.colormaps["Dark2"].colors]  # type: ignore[attr-defined]
BASELINE = "0.45"
IDLE = {"zero": ("no action", ":"), "random": ("random actions", "-.")}
"""Name and line style of what is had for nothing."""


def learning_curves(findings: Findings, path: Path) -> None:
    """Draw evaluation returns: the IQM over seeds with its interval, and what is had for nothing.

    A single seed is dashed.
    """

    def draw(axis: Axes, runs: Runs, color: Any, label: str) -> None:
        steps, returns = evaluations(runs)
        value, low, high = metrics.curve(returns[:, None, :])
        axis.plot(steps, value, "-" if len(runs) > 1 else "--", color=color, label=label)
        axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)

    _panels(findings, draw, "evaluation return", path, idle=True)


def entropies(findings: Findings, path: Path) -> None:
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

    _panels(findings, draw, "entropy, nats per dimension", path)


def means(
    findings: Findings,
    path: Path,
    *,
    column: str,
    ylabel: str,
    log: bool = False,
    table: str = "trace",
) -> None:
    """Draw a column of the traces, or of another table, averaged over seeds."""

    def draw(axis: Axes, runs: Runs, color: Any, label: str) -> None:
        steps, values = traces(runs, column, table)
        axis.plot(steps, values.mean(0), color=color, label=label)

    _panels(findings, draw, ylabel, path, log=log)


def dimensions(findings: Findings, path: Path, *, column: str, ylabel: str) -> None:
    """Draw "std" or "entropy" of the dimensions: mean, lowest to highest, and the lowest of any state.

    Mean and band are means over seeds, the lowest state is any seed's.
    """

    def draw(axis: Axes, runs: Runs, color: Any, label: str) -> None:
        steps, each = of_dimensions(runs, column)
        axis.plot(steps, each.mean((0, 1)), color=color, label=label)
        low, high = each.min(0).mean(0), each.max(0).mean(0)
        axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(steps, lowest_of_states(runs, column), color=color, linewidth=0.8, linestyle=":")

    _panels(findings, draw, ylabel, path, log=column == "std")


def gains(by_arm: Mapping[str, Mapping[int, Improvement]], path: Path) -> None:
    """Draw the probability of being better than the baseline against the action dimensions."""
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axis = figure.subplots()
    for color, (arm, found) in zip(COLORS, by_arm.items(), strict=False):
        probabilities = [improvement.probability for improvement in found.values()]
        axis.plot(list(found), probabilities, marker="o", color=color, label=arm)
    axis.axhline(0.5, color="0.6", linewidth=0.8)
    axis.set(xlabel="action dimensions", ylabel="P(better than the baseline)", xscale="log")
    axis.set(ylim=(-0.02, 1.02))
    ticks = sorted({dim for found in by_arm.values() for dim in found})
    axis.set_xticks(ticks, map(str, ticks))
    axis.set_xticks([], minor=True)
    axis.legend()
    figure.savefig(path, dpi=110)


def floors(
    heights: Mapping[str, float], scores: Mapping[str, Mapping[str, Interval]], path: Path
) -> None:
    """Draw the IQM, by task and arm, against the arm's floor in nats per dimension.

    Arms without a floor are bands.
    """
    figure, axes = _axes(len(scores), COLUMNS)
    for axis, (task, by_arm) in zip(axes, scores.items(), strict=True):
        for color, (arm, interval) in zip(COLORS, by_arm.items(), strict=False):
            if arm in heights:
                error = [[interval.value - interval.low], [interval.high - interval.value]]
                axis.errorbar(heights[arm], interval.value, error, fmt="o", color=color, capsize=3)
            else:
                axis.axhspan(interval.low, interval.high, color="0.9", linewidth=0)
                axis.axhline(interval.value, color="0.6", linewidth=0.8)
        axis.set_xticks(sorted(heights.values()))
        axis.set_xlim(min(heights.values()) - 0.2, max(heights.values()) + 0.2)
        axis.set(title=task, xlabel="floor, nats per dimension", ylabel="score")
    figure.savefig(path, dpi=110)


def _panels(
    findings: Findings,
    draw: Draw,
    ylabel: str,
    path: Path,
    *,
    log: bool = False,
    idle: bool = False,
) -> None:
    """Draw a panel for every task, or for every task and arm where they are many, the legend below."""
    grid, baseline = findings.grid, findings.baseline
    tasks, arms = unique(task for task, _ in grid), unique(arm for _, arm in grid)
    others = [arm for arm in arms if arm != baseline]
    apart = len(arms) > TOGETHER
    panels = [
        (task, shown)
        for task in tasks
        for shown in ([[baseline, a] for a in others] if apart else [arms])
    ]
    columns = len(others) if apart else 2 if len(panels) == 4 else COLUMNS
    figure, axes = _axes(len(panels), columns, sharey="row" if apart else "none")
    colors = dict(zip(others, COLORS, strict=False)) | {baseline: BASELINE}
    for index, (axis, (task, shown)) in enumerate(zip(axes, panels, strict=True)):
        for arm in shown:
            if runs := grid.get((task, arm)):
                draw(axis, runs, colors[arm], arm)
        for way, value in findings.tasks[task].idle.items() if idle else ():
            name, style = IDLE[way]
            axis.axhline(value, color="0.6", linewidth=0.8, linestyle=style, label=name)
        title = f"{task}, {shown[1]}" if apart else task
        _finish(axis, title if findings.learned(task) else f"{title}: not learned", log=log)
        if index % columns == 0:
            axis.set_ylabel(ylabel)
    _legend(figure, [*arms, *(name for name, _ in IDLE.values())])
    figure.savefig(path, dpi=110)


def _finish(axis: Axes, title: str, *, log: bool) -> None:
    if title.endswith("not learned"):
        axis.set_facecolor("0.93")
    axis.set(title=title, xlabel="environment steps", yscale="log" if log else "linear")
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(color="0.9")


def _axes(panels: int, columns: int, sharey: Any = "none") -> tuple[Figure, list[Axes]]:
    """Return a figure and so many axes, at most ``columns`` in a row."""
    columns = min(panels, columns)
    rows = -(-panels // columns)
    width = 4.6 if columns <= COLUMNS else 3.0
    figure = Figure(figsize=(width * columns, 3.4 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=sharey).flatten())
    for axis in axes[panels:]:
        axis.remove()
    return figure, axes[:panels]


def _legend(figure: Figure, labels: Sequence[str]) -> None:
    """Put one legend for all panels below them, in the order of the labels."""
    handles = {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    order = [label for label in labels if label in handles]
    found = [handles[label] for label in order]
    longest = 0.7 + 0.09 * max(map(len, order), default=0)  # inches of a line and its label
    columns = max(1, min(len(order), 4, int(figure.get_figwidth() / longest)))
    figure.legend(found, order, loc="outside lower center", ncols=columns)
