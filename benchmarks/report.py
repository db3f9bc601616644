"""The report of a suite: its verdict, what was run, what came out over seeds, and what is missing."""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import behaviour, compare, figures, metrics, scores, tables
from benchmarks.compare import Comparison
from benchmarks.document import Block, Picture, Section, Table, Text, markdown, page
from benchmarks.runner import Status, duration, status
from benchmarks.scores import Findings, Measure
from benchmarks.suite import Suite

INTERVALS = (
    "IQM over seeds with 95% bootstrap intervals (rliable's, stratified), which are too narrow: with "
    "five seeds they miss one time in ten, with three one in four"
)


def write(suite: Suite, results_folder: Path, scratch: Path) -> Path:
    """Write report.html, report.md and figures into the suite's folder of results; return the page.

    Raises:
        SettingsError: If there are results of other configurations under the names of the suite's runs.
    """
    state = status(suite, results_folder, scratch)
    findings = scores.load(suite, results_folder)
    title = f"Benchmark suite {suite.name}"
    results_folder.mkdir(parents=True, exist_ok=True)
    sections = [_verdict(findings, results_folder), _overview(findings, state)]
    sections += _commands(suite, results_folder)
    if findings.grid:
        sections += _measured(findings, results_folder)
    sections.append(_not_done(state))
    (results_folder / "report.md").write_text(markdown(title, sections))
    path = results_folder / "report.html"
    path.write_text(page(title, sections, results_folder))
    return path


def _measured(findings: Findings, folder: Path) -> list[Section]:
    """Return the sections on training runs, in the order of reading."""
    norm = "norm of the actor's gradient"

    def picture(
        title: str, draw: Callable[[Findings, Path], None], name: str, text: str
    ) -> Section:
        draw(findings, folder / name)
        return Section(title, [Picture(name, text)])

    return [
        _returns(findings),
        picture(
            "Learning curves",
            figures.learning_curves,
            "curves.png",
            f"Evaluation return: {INTERVALS}; dashed: a single seed, which compares with nothing; "
            "grey: what is had without an action and with random ones",
        ),
        behaviour.seeds(findings),
        behaviour.exploration(findings, folder),
        behaviour.entropy(findings, folder),
        behaviour.each_dimension(findings, folder),
        behaviour.acting(findings),
        behaviour.conflict(findings, folder),
        behaviour.dimensions(findings, folder),
        behaviour.floors(findings, folder),
        behaviour.deviation(findings, folder),
        picture(
            "Gradients",
            partial(figures.means, column="gradient_norm", ylabel=norm, log=True),
            "gradient_norm.png",
            "Norm of the actor's last gradient, averaged over seeds; PPO's and A2C's after clipping",
        ),
        _speed(findings),
        _provenance(findings),
    ]


def _verdict(findings: Findings, folder: Path) -> Section:
    """Return what the suite says, at the correction for all comparisons that are published."""
    section = Section("Verdict")
    if not findings.grid:
        return section
    _, published = compare.published(folder.parent, findings)
    rows = [row for row in published if row.suite == findings.suite.name]
    told = [
        f"{row.arm} is {row.verdict} than {row.baseline} ({row.task})" for row in rows if row.told
    ]
    if rows:
        section.blocks.append(Text(f"{'; '.join(told) or 'No arm can be told from its baseline'}."))
    else:
        text = (
            f"Nothing is compared: that needs {compare.SEEDS} seeds of two arms, one of them ERA's."
        )
        section.blocks.append(Text(text))
    if idle_on := [task for task in findings.tasks if not findings.learned(task)]:
        text = (
            f"Not learned at the end: {', '.join(idle_on)}. No arm's IQM is above the better of no "
            f"action and random actions by {scores.LEARNED:.0%} of the way to score 1."
        )
        section.blocks.append(Text(text, notice=True))
    if "margin" in findings.suite.content:
        section.blocks.append(_rule_table(findings))
    if rows:
        section.blocks.append(_verdict_table(rows))
    return section


def _rule_table(findings: Findings) -> Table:
    tasks, rows = compare.by_margin(findings)
    cells = [
        [
            f"{row.arm} against {findings.baseline}",
            str(row.improvement),
            *map(metrics.number, row.corrected),
            row.verdict,
        ]
        for row in rows
    ]
    caption = (
        "By the rule in the suite's description, over the tasks that are complete in all arms "
        f"({', '.join(tasks) or 'none yet'}): exact Mann-Whitney tests, corrected by Holm's method for "
        f"these {len(rows)} comparisons alone, of the scores and with "
        f"{findings.suite.content['margin']:g} added to the arm's and taken away"
    )
    header = ["arms", "P(better)", "corrected p", "with the margin", "less the margin", "verdict"]
    return Table(header, cells, caption)


def _verdict_table(rows: list[Comparison]) -> Table:
    cells = [
        [f"{row.arm} against {row.baseline}, {row.task}", str(row.improvement), row.verdict]
        for row in rows
    ]
    # corrected p-values change with every other suite's runs: they stand in one place
    caption = (
        "P: the probability that a run of the arm ends above one of the baseline; p: exact "
        "Mann-Whitney test; the verdict is after the correction for all comparisons of "
        "[Results](../README.md), where corrected p-values are"
    )
    return Table(["arms, task", "P(better)", "verdict"], cells, caption)


def _overview(findings: Findings, state: Status) -> Section:
    suite = findings.suite
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
        blocks.append(_counts(findings, state))
    return Section("What was run", blocks)


def _counts(findings: Findings, state: Status) -> Table:
    suite = findings.suite
    done = Counter(
        (run.task, scores.label(run.arm, suite)) for run in suite.runs if run in state.done
    )
    seeds = len(suite.content["seeds"])
    rows = [
        [arm, *(f"{done[task, arm]}/{seeds}" for task in findings.tasks), entry["about"]]
        for arm, entry in findings.arms.items()
    ]
    steps = ", ".join(
        f"{task} {entry.get('steps', suite.content['steps']):,}"
        for task, entry in suite.content["tasks"].items()
    )
    return Table(["arm", *findings.tasks, "what"], rows, f"Seeds done. Steps: {steps}")


def _returns(findings: Findings) -> Section:
    arms = scores.unique(arm for _, arm in findings.grid)
    ranges = "; ".join(
        f"{name} {task.low:.4g} to {task.high:g}" for name, task in findings.tasks.items()
    )
    final = f"Final return (evaluations in the last tenth of the steps): {INTERVALS}"
    mean = "Mean return of all evaluations, which is higher the sooner a run learned"
    over_all = (
        "Scores over all tasks, of the seeds that an arm has on each of them; score 0 to 1 is a "
        f"return of: {ranges}, where 0 is the better of no action and random actions if they were "
        "measured. The optimality gap is the mean shortfall from 1; p is exact, and not corrected "
        "for the number of comparisons"
    )
    header = ["arm", "seeds", *metrics.AGGREGATES, f"P(better than {findings.baseline})"]
    return Section(
        "Returns",
        [
            _iqms(findings, metrics.final_return, final),
            _iqms(findings, metrics.mean_return, mean),
            Table(header, [_aggregate_row(findings, arm) for arm in arms], over_all),
        ],
    )


def _iqms(findings: Findings, measure: Measure, caption: str) -> Table:
    """Return the IQM of a figure of the evaluations by arm and task, below what is had for nothing."""
    rows = [
        [name, *(metrics.number(t.idle.get(way, math.nan)) for t in findings.tasks.values())]
        for way, (name, _) in figures.IDLE.items()
    ]
    for arm in scores.unique(arm for _, arm in findings.grid):
        found = (findings.returns(task, arm, measure) for task in findings.tasks)
        cells = (str(metrics.interval(each)) if len(each) else "-" for each in found)
        rows.append([arm, *cells])
    return Table(["arm", *findings.tasks], rows, caption)


def _aggregate_row(findings: Findings, arm: str) -> list[str]:
    ours, theirs = findings.matrix(arm), findings.matrix(findings.baseline)
    if len(ours) == 0:
        return [arm, "0", *["-"] * (len(metrics.AGGREGATES) + 1)]
    better = "-"
    if arm != findings.baseline and min(len(ours), len(theirs)) >= 2:
        better = str(metrics.improvement(ours, theirs))
    return [arm, str(len(ours)), *map(str, metrics.aggregates(ours).values()), better]


def _speed(findings: Findings) -> Section:
    rows = []
    for pair, runs in behaviour.by_pair(findings):
        speed, seconds = (
            float(np.median([run[key] for run in runs]))
            for key in ("steps_per_second", "wall_seconds")
        )
        memory = [run["peak_memory_mib"] for run in runs if run["peak_memory_mib"] is not None]
        peak = f"{max(memory):.0f}" if memory else "-"
        rows.append([pair, metrics.number(speed), duration(seconds), peak])
    caption = (
        "Medians over seeds, evaluations included. The runs shared the machine with others, so these "
        "are for planning; speed is compared by benchmarks.throughput, interleaved"
    )
    header = ["task, arm", "steps/s", "time of a run", "peak memory, MiB"]
    return Section("Speed", [Table(header, rows, caption)])


def _provenance(findings: Findings) -> Section:
    runs = [run for found in findings.grid.values() for run in found]
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
            line = " ".join(["python", "-m", command.module, *map(str, command.arguments)])
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
