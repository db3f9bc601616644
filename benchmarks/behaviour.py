"""Sections of a report on what policies did: entropy, actions, gradients, scores by floor and size."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import exploration as exploring
from benchmarks import figures, metrics, scores
from benchmarks.acting import SAMPLES, WAYS
from benchmarks.document import Picture, Section, Table
from benchmarks.metrics import Improvement
from benchmarks.scores import Findings, Runs
from era_rl.sb3.gradient_conflict import CONFLICT_COLUMNS, plot_gradient_conflict

EACH = {"entropy": ("entropy, nats", "Entropy"), "std": ("std", "Std before truncation")}
"""Figures of a dimension by column: axis and name."""


def by_pair(findings: Findings) -> Iterator[tuple[str, Runs]]:
    """Yield "task, arm" and its runs."""
    for (task, arm), runs in findings.grid.items():
        yield f"{task}, {arm}", runs


def entropy(findings: Findings, folder: Path) -> Section:
    """Return the policies' own entropy on visited states beside their floors."""
    figures.entropies(findings, folder / "entropy.png")
    rows = []
    for pair, runs in by_pair(findings):
        dim = runs[0]["action_dim"]
        floors = [floor for floor in runs[0]["trace"]["floor"] if floor is not None]
        last = np.mean([run["trace"]["entropy_mean"][-1] for run in runs]) / dim
        lowest = min(min(run["trace"]["entropy_min"]) for run in runs) / dim
        held, shown = "-", "none"
        if floors:
            held = f"{min(min(run['trace']['margin_min']) for run in runs) / dim:+.4f}"
            ends = dict.fromkeys(f"{floor / dim:.3f}" for floor in (floors[0], floors[-1]))
            shown = " to ".join(ends)
        rows.append([pair, str(len(runs)), shown, f"{last:.3f}", f"{lowest:.3f}", held])
    header = ["task, arm", "seeds", "floor", "mean at the end", "lowest of all states", "margin"]
    picture = (
        "The policy's own entropy on all visited states, per action dimension: mean (solid), lowest "
        f"state of any seed (dotted), floor (dashed); cut off below {figures.LOWEST:g}"
    )
    caption = (
        "Nats per dimension, of actions in [-1, 1] or of discrete ones. The margin is the lowest "
        "entropy of any visited state minus the floor in force there: a floor that holds has none "
        "below zero (but rounding). PPO's and A2C's own policies are unbounded normals, whose entropy "
        "is that before clipping; DQN's is that of acting at random in a share of the steps"
    )
    return Section(
        "Entropy and floor", [Picture("entropy.png", picture), Table(header, rows, caption)]
    )


def each_dimension(findings: Findings, folder: Path) -> Section:
    """Return entropy and std of the single dimensions, of runs whose traces have them."""
    section = Section("Single dimensions")
    measured = findings.of(lambda run: "std_0" in run["trace"])
    if not measured.grid:
        return section
    for column, (ylabel, what) in EACH.items():
        figures.dimensions(measured, folder / f"each_{column}.png", column=column, ylabel=ylabel)
        text = (
            f"{what} of the single dimensions on visited states: mean, lowest to highest dimension "
            "(band, both averaged over seeds), and the lowest of any state and seed (dotted)"
        )
        section.blocks.append(Picture(f"each_{column}.png", text))
    rows = [[pair, *_ends_of_dimensions(runs)] for pair, runs in by_pair(measured)]
    header = ["task, arm", "entropy, lowest and highest dimension", "lowest of all states"]
    header += ["std, lowest and highest dimension", "lowest of all states"]
    caption = "At the end, averaged over seeds; the lowest are those of the whole training"
    section.blocks.append(Table(header, rows, caption))
    return section


def _ends_of_dimensions(runs: Runs) -> Iterator[str]:
    for column in EACH:
        last = scores.of_dimensions(runs, column)[1][:, :, -1]
        yield f"{last.min(0).mean():.3f} to {last.max(0).mean():.3f}"
        yield f"{scores.lowest_of_states(runs, column).min():.3f}"


def deviation(findings: Findings, folder: Path) -> Section:
    """Return the mean log std of bounded actions; discrete ones have none."""
    section = Section("Standard deviation")
    runs = (run for found in findings.grid.values() for run in found)
    if any(value is not None for run in runs for value in run["trace"]["log_std_mean"]):
        path = folder / "log_std.png"
        figures.means(findings, path, column="log_std_mean", ylabel="mean log std")
        text = "Mean log std on visited states, before squashing or truncation, averaged over seeds"
        section.blocks.append(Picture("log_std.png", text))
    return section


def seeds(findings: Findings) -> Section:
    """Return how the single runs end: lowest, highest, and how many have learned nothing."""
    rows = []
    for (task, arm), runs in findings.grid.items():
        returns, failed = findings.returns(task, arm), findings.scores(task, arm) < scores.LEARNED
        ends = (metrics.number(float(end)) for end in (returns.min(), returns.max()))
        rows.append([f"{task}, {arm}", f"{failed.sum()} of {len(runs)}", *ends])
    caption = (
        "Final returns. A run failed that ends below a score of "
        f"{scores.LEARNED:g}: that is what is had for nothing, and so much of the way to score 1"
    )
    header = ["task, arm", "failed", "lowest seed", "highest seed"]
    return Section("Spread of the seeds", [Table(header, rows, caption)])


def exploration(findings: Findings, folder: Path) -> Section:
    """Return the coverage of states and the price of noise, of runs that measured them."""
    section = Section("Exploration and the price of noise")
    measured = findings.of(lambda run: "exploration" in run)
    if not measured.grid:
        return section
    picture = (
        f"Coverage of all states so far: mean ln(1 + distance to the {exploring.NEIGHBOUR}rd nearest) "
        f"of {exploring.STATES:,} of them, in stds under random actions; mean over seeds"
    )
    draw = partial(figures.means, table="exploration", column="coverage", ylabel="coverage")
    draw(measured, folder / "coverage.png")
    section.blocks.append(Picture("coverage.png", picture))
    rows = [[pair, str(len(runs)), *_explored(runs)] for pair, runs in by_pair(measured)]
    header = ["task, arm", "seeds", "coverage", "price, return per nat", "coefficient"]
    caption = (
        "Coverage at the end: mean [lowest, highest seed]. Price of a nat of floor and coefficient of "
        "the entropy: means over the last tenth of the checks and over seeds"
    )
    section.blocks.append(Table(header, rows, caption))
    return section


def _explored(runs: Runs) -> Iterator[str]:
    ends = scores.traces(runs, "coverage", "exploration")[1][:, -1]
    low, high = (metrics.number(float(end)) for end in (ends.min(), ends.max()))
    yield f"{metrics.number(float(ends.mean()))} [{low}, {high}]"
    for column in exploring.LOGGED:
        values = scores.traces(runs, column, "exploration")[1]
        late = values[:, -max(values.shape[1] // 10, 1) :]
        known = late[np.isfinite(late)]
        yield f"{known.mean():.3g}" if known.size else "-"


def acting(findings: Findings) -> Section:
    """Return the final policies' returns by mode, mean and samples, of runs that have them."""
    rows = []
    for pair, runs in by_pair(findings):
        measured = [run["acting"] for run in runs if "acting" in run]
        if measured:
            rows.append([pair, str(len(measured)), *(_by_way(measured, way) for way in WAYS)])
    caption = (
        "Return of the final policy by what it acts with, from the same starts of episodes: IQM "
        f"over seeds. The mean is that of {SAMPLES} sampled actions, as executed"
    )
    along = [
        [pair, str(len(runs)), *(_along(runs, way) for way in WAYS)]
        for pair, runs in by_pair(findings)
        if all("acting_along" in run for run in runs)
    ]
    header = ["task, arm", "seeds", *WAYS]
    section = Section("Acting by mode, mean and samples")
    if rows:
        section.blocks.append(Table(header, rows, caption))
    if along:
        text = "The same of all evaluations in training, averaged"
        section.blocks.append(Table(header, along, text))
    return section


def _along(runs: Runs, way: str) -> str:
    """Return the IQM over runs of the mean return in training by a way of acting."""
    returns = scores.traces(runs, way, "acting_along")[1].mean(axis=1, keepdims=True)
    return str(metrics.interval(returns)) if np.isfinite(returns).all() else "-"


def _by_way(measured: list[dict[str, list[float]]], way: str) -> str:
    """Return the IQM of the runs' mean returns by a way of acting; discrete actions have no mean."""
    returns = [[np.mean(found[way])] for found in measured if way in found]
    return str(metrics.interval(np.array(returns, dtype=float))) if returns else "-"


def conflict(findings: Findings, folder: Path) -> Section:
    """Return the angle between the gradients of the return and of an entropy bonus, if measured."""
    curves = {
        f"{task}, {arm}, seed {run['seed']}": np.array(
            [run["gradient_conflict"][name] for name in CONFLICT_COLUMNS], dtype=float
        ).T.tolist()
        for (task, arm), runs in findings.grid.items()
        for run in runs
        if "gradient_conflict" in run
    }
    section = Section("Gradient of the return against that of an entropy bonus")
    if curves:
        plot_gradient_conflict(curves, folder / "gradient_conflict.png")
        caption = "Cosine between the two gradients, and their norms"
        section.blocks.append(Picture("gradient_conflict.png", caption))
        section.blocks.append(_conflict_table(findings))
    return section


def _conflict_table(findings: Findings) -> Table:
    rows = []
    for pair, runs in by_pair(findings):
        cells = []
        for column in ("cosine_params", "cosine_actor"):
            values = [np.array(run["gradient_conflict"][column], dtype=float) for run in runs]
            finite = [v[np.isfinite(v)] for v in values if np.isfinite(v).any()]
            means = [float(v.mean()) for v in finite]
            spread = f"[{min(means):.3f}, {max(means):.3f}]" if means else ""
            cells += [f"{np.mean(means):.3f} {spread}" if means else "-"]
            cells += [f"{np.mean([np.mean(v < 0) for v in finite]):.0%}" if means else "-"]
        rows.append([pair, str(len(runs)), *cells])
    header = ["task, arm", "seeds", "cosine at (loc, log_std)", "below 0"]
    header += ["cosine at the weights", "below 0"]
    return Table(header, rows, "Mean over training, with the lowest and the highest seed")


def dimensions(findings: Findings, folder: Path) -> Section:
    """Return the gain of each arm over the baseline against the number of action dimensions."""
    gains: dict[str, dict[int, Improvement]] = {}
    rows = []
    for task, arm, reference, ours, theirs in findings.pairs():
        dim = None if task == "all" else findings.tasks[task].dimension
        if dim is not None and reference == findings.baseline and min(len(ours), len(theirs)) >= 2:
            improvement = metrics.improvement(ours, theirs)
            gains.setdefault(arm, {})[dim] = improvement
            iqms = f"{metrics.interval(ours)} against {metrics.interval(theirs)}"
            rows.append([f"{arm}, D = {dim}", str(improvement), iqms])
    section = Section("Gain against the number of action dimensions")
    if gains:
        figures.gains(gains, folder / "dimensions.png")
        caption = f"P(a run's score is above that of a run of {findings.baseline})"
        header = ["arm", f"P(better than {findings.baseline})", "IQM of scores"]
        section.blocks += [Picture("dimensions.png", caption), Table(header, rows)]
    return section


def floors(findings: Findings, folder: Path) -> Section:
    """Return the scores of the arms that differ in the height of an exact floor, and the baseline's."""
    section = Section("Score against the floor")
    heights = {
        arm: runs[0]["config"]["nats_per_dim"]
        for (_, arm), runs in findings.grid.items()
        if _exact(runs)
    }
    if len(heights) >= 2:
        arms = [arm for arm in findings.arms if arm in heights or arm == findings.baseline]
        measured = {
            task: {arm: findings.scores(task, arm) for arm in arms} for task in findings.tasks
        }
        if len(findings.tasks) > 1:
            measured["all tasks"] = {arm: findings.matrix(arm) for arm in arms}
        by_task = {
            task: {arm: metrics.interval(s) for arm, s in by_arm.items() if len(s)}
            for task, by_arm in measured.items()
        }
        figures.floors(heights, by_task, folder / "floor.png")
        caption = "IQM of scores by the exact floor's height, with intervals; band: without a floor"
        section.blocks.append(Picture("floor.png", caption))
    return section


def _exact(runs: Runs) -> bool:
    """Return whether runs have an exact floor of a stated height and nothing else about entropy."""
    config = runs[0]["config"]
    plain = not {"floor", "slack", "deterministic_action"} & config["settings"].keys()
    return config["algo"].endswith("_era") and config["nats_per_dim"] is not None and plain
