"""The report of a suite: what was run, what came out with intervals over seeds, and what is missing."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import figures, metrics, results, tables
from benchmarks.acting import SAMPLES, WAYS
from benchmarks.document import Block, Picture, Section, Table, Text, markdown, page
from benchmarks.figures import Grid, Runs, unique
from benchmarks.metrics import Array, Interval
from benchmarks.runner import Status, duration, status
from benchmarks.suite import Suite
from era_rl.sb3.gradient_conflict import CONFLICT_COLUMNS, plot_gradient_conflict

Measure = Callable[[Mapping[str, Any]], float]
INTERVALS = (
    "IQM over seeds with 95% stratified bootstrap intervals (rliable), which are too narrow for fewer "
    "than five seeds"
)


def write(suite: Suite, results_folder: Path, scratch: Path) -> Path:
    """Write report.html, report.md and figures into the suite's folder of results; return the page.

    Raises:
        SuiteError: If there are results of other configurations under the names of the suite's runs.
    """
    state = status(suite, results_folder, scratch)
    grid = read_grid(suite, results_folder)
    title = f"Benchmark suite {suite.name}"
    results_folder.mkdir(parents=True, exist_ok=True)
    sections = [_overview(suite, state), *_commands(suite, results_folder)]
    if grid:
        sections += _measured(suite, grid, results_folder)
    sections.append(_not_done(state))
    (results_folder / "report.md").write_text(markdown(title, sections))
    path = results_folder / "report.html"
    path.write_text(page(title, sections))
    return path


def _measured(suite: Suite, grid: Grid, folder: Path) -> list[Section]:
    """Return the sections on training runs, in the order of reading."""
    return [
        _scores(suite, grid),
        _picture(
            "Learning curves",
            grid,
            figures.learning_curves,
            folder / "curves.png",
            f"Evaluation return: {INTERVALS}; dashed: a single seed, which compares with nothing",
        ),
        _entropy(grid, folder),
        _acting(grid),
        _conflict(grid, folder),
        _dimensions(suite, grid, folder),
        _floors(suite, grid, folder),
        _picture(
            "Standard deviation",
            grid,
            figures.log_stds,
            folder / "log_std.png",
            "Mean log std on visited states, before squashing or truncation, averaged over seeds",
        ),
        _picture(
            "Gradients",
            grid,
            figures.gradient_norms,
            folder / "gradient_norm.png",
            "Norm of the actor's last gradient, averaged over seeds; PPO's and A2C's after clipping",
        ),
        _speed(grid),
        _provenance(grid),
    ]


def read_grid(suite: Suite, results_folder: Path) -> Grid:
    """Return the results there are, by task and arm, in the suite's order."""
    grid: dict[tuple[str, str], Runs] = {}
    for run in suite.runs:
        if (result := results.read(run, results_folder)) is not None:
            grid.setdefault((run.task, run.arm), []).append(result)
    order = [(run.task, run.arm) for run in suite.runs]
    return {key: grid[key] for key in unique(order) if key in grid}  # type: ignore[misc]


def final_returns(runs: Runs) -> Array:
    """Return the final returns of runs, (seeds, 1)."""
    return _by_seed(runs, metrics.final_return)


def _by_seed(runs: Runs, measure: Measure) -> Array:
    """Return a figure of each run's evaluations, (seeds, 1)."""
    return np.array([measure(run["evaluation"]) for run in runs], dtype=float).reshape(-1, 1)


def score_matrix(suite: Suite, grid: Grid, arm: str) -> Array:
    """Return final scores (seeds, tasks) of the seeds that an arm has on all tasks of the suite."""
    by_task = [
        {run["seed"]: metrics.final_return(run["evaluation"]) for run in grid.get((task, arm), [])}
        for task in suite.content["tasks"]
    ]
    seeds = sorted(set.intersection(*(set(found) for found in by_task)))
    columns = [
        metrics.normalised(np.array([found[seed] for seed in seeds]), *suite.score_range(task))
        for task, found in zip(suite.content["tasks"], by_task, strict=True)
    ]
    return np.array(columns).T.reshape(len(seeds), len(by_task))


def _overview(suite: Suite, state: Status) -> Section:
    done, total = len(state.done), len(suite.all)
    blocks: list[Block] = [Text(suite.content["description"].strip())]
    if done < total:
        blocks.append(
            Text(
                f"INCOMPLETE: {done} of {total} runs are done, {len(state.failed)} failed when last "
                "tried. Figures are of what there is; what is missing stands at the end.",
                notice=True,
            )
        )
    blocks.append(Text(f"python -m benchmarks run {suite.name}", code=True))
    if suite.runs:
        blocks.append(_counts(suite, state))
    return Section("What was run", blocks)


def _counts(suite: Suite, state: Status) -> Table:
    done = Counter((run.task, run.arm) for run in suite.runs if run in state.done)
    seeds = len(suite.content["seeds"])
    rows = [
        [arm, *(f"{done[task, arm]}/{seeds}" for task in suite.content["tasks"]), entry["about"]]
        for arm, entry in suite.content["arms"].items()
    ]
    steps = ", ".join(
        f"{task} {entry.get('steps', suite.content['steps']):,}"
        for task, entry in suite.content["tasks"].items()
    )
    return Table(["arm", *suite.content["tasks"], "what"], rows, f"Seeds done. Steps: {steps}")


def _scores(suite: Suite, grid: Grid) -> Section:
    tasks = list(suite.content["tasks"])
    arms = [arm for arm in suite.content["arms"] if any((task, arm) in grid for task in tasks)]
    ranges = "; ".join("{} {:g} to {:g}".format(t, *suite.score_range(t)) for t in tasks)
    blocks: list[Block] = [
        _returns(
            grid,
            (arms, tasks),
            metrics.final_return,
            f"Final return (evaluations in the last tenth of the steps): {INTERVALS}",
        ),
        _returns(
            grid,
            (arms, tasks),
            metrics.mean_return,
            "Mean return of all evaluations, which is higher the sooner a run learned",
        ),
        Table(
            ["arm", "seeds", *metrics.AGGREGATES, f"P(better than {suite.content['baseline']})"],
            [_aggregate_row(suite, grid, arm) for arm in arms],
            "Scores over all tasks, of the seeds that an arm has on each of them; score 0 to 1 is a "
            f"return of: {ranges}. The optimality gap is the mean shortfall from 1",
        ),
    ]
    return Section("Returns", blocks)


def _returns(
    grid: Grid, names: tuple[list[str], list[str]], measure: Measure, caption: str
) -> Table:
    """Return the IQM of a figure of the evaluations for every arm and task."""
    arms, tasks = names
    rows = [[arm, *(_iqm(grid.get((task, arm), []), measure) for task in tasks)] for arm in arms]
    return Table(["arm", *tasks], rows, caption)


def _iqm(runs: Runs, measure: Measure) -> str:
    return str(metrics.aggregates(_by_seed(runs, measure))["IQM"]) if runs else "-"


def _aggregate_row(suite: Suite, grid: Grid, arm: str) -> list[str]:
    scores = score_matrix(suite, grid, arm)
    baseline = score_matrix(suite, grid, suite.content["baseline"])
    if len(scores) == 0:
        return [arm, "0", *["-"] * (len(metrics.AGGREGATES) + 1)]
    better = "-"
    if arm != suite.content["baseline"] and min(len(scores), len(baseline)) >= 2:
        better = str(metrics.improvement(scores, baseline))
    return [arm, str(len(scores)), *map(str, metrics.aggregates(scores).values()), better]


def _picture(
    title: str, grid: Grid, draw: Callable[[Grid, Path], None], path: Path, caption: str
) -> Section:
    """Draw a figure and return the section that shows it."""
    draw(grid, path)
    return Section(title, [Picture(path.name, caption)])


def _entropy(grid: Grid, folder: Path) -> Section:
    figures.entropies(grid, folder / "entropy.png")
    rows = []
    for (task, arm), runs in grid.items():
        dim = runs[0]["action_dim"]
        floor = runs[0]["trace"]["floor"][-1]
        last = np.mean([run["trace"]["entropy_mean"][-1] for run in runs]) / dim
        lowest = min(min(run["trace"]["entropy_min"]) for run in runs) / dim
        held = "-" if floor is None else f"{lowest - floor / dim:+.4f}"
        shown = "none" if floor is None else f"{floor / dim:.3f}"
        rows.append([f"{task}, {arm}", str(len(runs)), shown, f"{last:.3f}", f"{lowest:.3f}", held])
    header = ["task, arm", "seeds", "floor", "mean at the end", "lowest of all states", "margin"]
    return Section(
        "Entropy and floor",
        [
            Picture(
                "entropy.png",
                "The policy's own entropy on all visited states, per action dimension: mean (solid), "
                f"lowest state of any seed (dotted), floor (dashed); cut off below {figures.LOWEST:g}",
            ),
            Table(
                header,
                rows,
                "Nats per dimension, of actions in [-1, 1]. The margin is the lowest entropy of any "
                "visited state minus the floor: a floor that holds has none below zero (but rounding). "
                "PPO's and A2C's own policies are unbounded normals, whose entropy is that before "
                "clipping",
            ),
        ],
    )


def _acting(grid: Grid) -> Section:
    """Return the final policies' returns by mode, mean and samples, of runs that have them."""
    rows = []
    for (task, arm), runs in grid.items():
        measured = [run["acting"] for run in runs if "acting" in run]
        if measured:
            by_way = (np.array([[np.mean(returns[way])] for returns in measured]) for way in WAYS)
            cells = (str(metrics.aggregates(returns)["IQM"]) for returns in by_way)
            rows.append([f"{task}, {arm}", str(len(measured)), *cells])
    section = Section("Acting by mode, mean and samples")
    if rows:
        caption = (
            "Return of the final policy by what it acts with, from the same starts of episodes: IQM "
            f"over seeds. The mean is that of {SAMPLES} sampled actions, as executed"
        )
        section.blocks.append(Table(["task, arm", "seeds", *WAYS], rows, caption))
    return section


def _conflict(grid: Grid, folder: Path) -> Section:
    curves = {
        f"{task}, {run['arm']}, seed {run['seed']}": _rows(run["gradient_conflict"])
        for (task, _), runs in grid.items()
        for run in runs
        if "gradient_conflict" in run
    }
    section = Section("Gradient of the return against that of an entropy bonus")
    if curves:
        plot_gradient_conflict(curves, folder / "gradient_conflict.png")
        caption = "Cosine between the two gradients, and their norms"
        section.blocks.append(Picture("gradient_conflict.png", caption))
        section.blocks.append(_conflict_table(grid))
    return section


def _conflict_table(grid: Grid) -> Table:
    rows = []
    for (task, arm), runs in grid.items():
        cells = []
        for column in ("cosine_params", "cosine_actor"):
            values = [np.array(run["gradient_conflict"][column], dtype=float) for run in runs]
            means = [float(np.nanmean(v)) for v in values if np.isfinite(v).any()]
            shares = [float(np.mean(v[np.isfinite(v)] < 0)) for v in values if np.isfinite(v).any()]
            spread = f"[{min(means):.3f}, {max(means):.3f}]" if means else ""
            cells += [f"{np.mean(means):.3f} {spread}" if means else "-"]
            cells += [f"{np.mean(shares):.0%}" if shares else "-"]
        rows.append([f"{task}, {arm}", str(len(runs)), *cells])
    header = ["task, arm", "seeds", "cosine at (loc, log_std)", "below 0"]
    header += ["cosine at the weights", "below 0"]
    return Table(header, rows, "Mean over training, with the lowest and the highest seed")


def _rows(table: dict[str, list[float | None]]) -> list[list[float]]:
    columns = [np.array(table[name], dtype=float) for name in CONFLICT_COLUMNS]
    return np.stack(columns, axis=1).tolist()


def _dimensions(suite: Suite, grid: Grid, folder: Path) -> Section:
    """Return the gain of each arm over the baseline against the number of action dimensions."""
    baseline = suite.content["baseline"]
    gains: dict[str, dict[int, Interval]] = {}
    differences: dict[str, dict[int, str]] = {}
    for task, entry in suite.content["tasks"].items():
        for arm in suite.content["arms"]:
            pair = [_column(suite, task, grid.get((task, a), [])) for a in (arm, baseline)]
            if "dimension" in entry and arm != baseline and min(map(len, pair)) >= 2:
                dim = entry["dimension"]
                gains.setdefault(arm, {})[dim] = metrics.improvement(pair[0], pair[1])
                scores = [str(metrics.aggregates(p)["IQM"]) for p in pair]
                differences.setdefault(arm, {})[dim] = " against ".join(scores)
    section = Section("Gain against the number of action dimensions")
    if gains:
        figures.gains(gains, folder / "dimensions.png")
        section.blocks.append(
            Picture("dimensions.png", f"P(a run's score is above that of a run of {baseline})")
        )
        rows = [
            [f"{arm}, D = {dim}", str(interval), differences[arm][dim]]
            for arm, by_dimension in gains.items()
            for dim, interval in by_dimension.items()
        ]
        section.blocks.append(Table(["arm", f"P(better than {baseline})", "IQM of scores"], rows))
    return section


def _floors(suite: Suite, grid: Grid, folder: Path) -> Section:
    """Return the scores of the arms that differ in the height of an exact floor, and the baseline's."""
    section = Section("Score against the floor")
    heights = {
        arm: runs[0]["config"]["nats_per_dim"] for (_, arm), runs in grid.items() if _exact(runs)
    }
    arms = [
        arm for arm in suite.content["arms"] if arm in heights or arm == suite.content["baseline"]
    ]
    if len(heights) >= 2:
        tasks = list(suite.content["tasks"])
        scores = {
            task: {arm: _column(suite, task, grid.get((task, arm), [])) for arm in arms}
            for task in tasks
        }
        if len(tasks) > 1:
            scores["all tasks"] = {arm: score_matrix(suite, grid, arm) for arm in arms}
        by_task = {
            task: {arm: metrics.aggregates(s)["IQM"] for arm, s in by_arm.items() if len(s)}
            for task, by_arm in scores.items()
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


def _column(suite: Suite, task: str, runs: Runs) -> Array:
    return metrics.normalised(final_returns(runs), *suite.score_range(task))


def _speed(grid: Grid) -> Section:
    rows = []
    for (task, arm), runs in grid.items():
        speed, seconds = (
            np.median([run[key] for run in runs]) for key in ("steps_per_second", "wall_seconds")
        )
        memory = [run["peak_memory_mib"] for run in runs if run["peak_memory_mib"] is not None]
        peak = f"{max(memory):.0f}" if memory else "-"
        rows.append(
            [f"{task}, {arm}", metrics.number(float(speed)), duration(float(seconds)), peak]
        )
    caption = (
        "Medians over seeds, evaluations included. The runs shared the machine with others, so these "
        "are for planning; speed is compared by benchmarks.throughput, interleaved"
    )
    header = ["task, arm", "steps/s", "time of a run", "peak memory, MiB"]
    return Section("Speed", [Table(header, rows, caption)])


def _provenance(grid: Grid) -> Section:
    runs = [run for found in grid.values() for run in found]
    commits = Counter(run["git"]["commit"][:10] or "unknown" for run in runs)
    machines = Counter(
        f"{run['machine']['cpu']}, {run['machine']['cores']} cores, {run['config']['device']}"
        for run in runs
    )
    versions = Counter(
        ", ".join(f"{name} {number}" for name, number in run["versions"].items()) for run in runs
    )
    rows = [
        [what, name, str(count)]
        for what, counter in (("commit", commits), ("machine", machines), ("versions", versions))
        for name, count in counter.items()
    ]
    changed = sum(run["git"]["dirty"] for run in runs)
    resumed = sum(bool(run["resumed_at"]) for run in runs)
    return Section(
        "Where it was run",
        [
            Table(["what", "", "runs"], rows),
            Text(
                f"{resumed} of {len(runs)} runs were interrupted and went on from a checkpoint; "
                f"{changed} ran from a checkout with changes to tracked files. Command, "
                "configuration and raw curves of each run are in its JSON file beside this report."
            ),
        ],
    )


def _commands(suite: Suite, results_folder: Path) -> list[Section]:
    sections = []
    for command in suite.commands:
        path = command.result(results_folder)
        if path.exists():
            line = f"python -m {command.module} {' '.join(command.arguments)}".strip()
            blocks = tables.blocks(command.module, path)
            sections.append(Section(command.name, [*blocks, Text(line, code=True)]))
    return sections


def _not_done(state: Status) -> Section:
    section = Section("Not done")
    missing = [run.name for run in state.missing if run.name not in state.failed]
    if missing:
        section.blocks.append(Text(f"{len(missing)} runs are missing: {', '.join(missing)}."))
    for name, text in state.failed.items():
        section.blocks += [Text(f"{name} failed:"), Text(text.strip(), code=True)]
    return section
