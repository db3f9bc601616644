"""Which arms can be told apart: exact tests of ERA's beside baselines, corrected for their number."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import metrics, scores
from benchmarks import suite as suites
from benchmarks.metrics import LEVEL, Array, Improvement
from benchmarks.scores import Findings

SEEDS = 5
"""Seeds with which two arms are compared; with 4 against 4 no p-value is below 0.029."""
BETTER, WORSE, EQUAL = "better", "worse", "cannot be told"


class Comparison(NamedTuple):
    """An arm beside its suite's baseline, on one task or over all.

    Attributes:
        suite: Name of the suite.
        arm: The arm's label.
        baseline: The baseline's label.
        task: The task, or "all".
        ours: The arm's final returns, (seeds, 1); over all tasks its scores, (seeds, tasks).
        theirs: The baseline's.
        idle: Means without an action and with random ones, by way; {} if not measured, or of all tasks.
        improvement: Probability that the arm is better, and its p-value.
        corrected: The p-value corrected for all comparisons, by Holm's method.
    """

    suite: str
    arm: str
    baseline: str
    task: str
    ours: Array
    theirs: Array
    idle: dict[str, float]
    improvement: Improvement
    corrected: float = 1.0

    @property
    def told(self) -> bool:
        """Whether the arms can be told apart."""
        return self.corrected <= LEVEL

    @property
    def verdict(self) -> str:
        """What can be said at a chance of at most ``LEVEL`` of one false verdict among all."""
        if not self.told:
            return EQUAL
        return BETTER if self.improvement.probability > 0.5 else WORSE


def comparisons(found: Iterable[Findings]) -> list[Comparison]:
    """Return all comparisons of an arm with a baseline of which one is ERA's, where there are SEEDS."""
    rows = [
        _compared(findings, task, arm, reference)
        for findings in found
        for task, arm, reference, ours, theirs in findings.pairs()
        if min(len(ours), len(theirs)) >= SEEDS
        and any("_era" in findings.arms[name]["algo"] for name in (arm, reference))
    ]
    corrected = metrics.holm([row.improvement.p_value for row in rows])
    return [row._replace(corrected=p) for row, p in zip(rows, corrected, strict=True)]


class Ruled(NamedTuple):
    """An arm beside its baseline by the rule of a suite that has a margin.

    Attributes:
        arm: The arm's label.
        improvement: Probability that the arm is better, and its p-value.
        corrected: Corrected p-values of the scores as they are, with the margin, and less the margin.
        verdict: What can be said.
    """

    arm: str
    improvement: Improvement
    corrected: tuple[float, ...]
    verdict: str


def by_margin(findings: Findings) -> tuple[list[str], list[Ruled]]:
    """Return the tasks that are complete in all arms, and each arm beside the baseline over these.

    "better" and "worse" are verdicts on the scores; else an arm is "no worse" if it is better with the
    suite's margin added to its scores, "no better" if it is worse less the margin, "equal" if both, and
    "undecided". Each of the three tests is corrected by Holm's method for the number of arms.
    """
    margin, seeds = (findings.suite.content[key] for key in ("margin", "seeds"))
    measured = {
        task: {arm: findings.scores(task, arm) for arm in findings.arms} for task in findings.tasks
    }
    complete = {
        task: by_arm
        for task, by_arm in measured.items()
        if all(len(each) == len(seeds) for each in by_arm.values())
    }
    if not complete:
        return [], []
    of = {arm: np.hstack([by_arm[arm] for by_arm in complete.values()]) for arm in findings.arms}
    baseline = of.pop(findings.baseline)
    tests = [
        [metrics.improvement(each + shift, baseline) for each in of.values()]
        for shift in (0.0, margin, -margin)
    ]
    corrected = [metrics.holm([test.p_value for test in column]) for column in tests]
    rows = []
    for arm, found, p in zip(
        of, zip(*tests, strict=True), zip(*corrected, strict=True), strict=True
    ):
        rows.append(Ruled(arm, found[0], p, _verdict(found, p)))
    return list(complete), rows


def _verdict(tests: tuple[Improvement, ...], corrected: tuple[float, ...]) -> str:
    signs = [
        (p <= LEVEL) * (1 if test.probability > 0.5 else -1)
        for test, p in zip(tests, corrected, strict=True)
    ]
    if signs[0]:
        return BETTER if signs[0] > 0 else WORSE
    no_worse, no_better = signs[1] > 0, signs[2] < 0
    if no_worse and no_better:
        return "equal"
    return "no worse" if no_worse else "no better" if no_better else "undecided"


def published(
    results: Path, also: Findings | None = None
) -> tuple[list[Findings], list[Comparison]]:
    """Return what all suites came to and their comparisons, with a suite's that is none of the named.

    Raises:
        SettingsError: If there are results of other configurations under the names of a suite's runs.
    """
    loaded = [suites.load(name) for name in suites.names()]
    found = [
        also
        if also is not None and also.suite.name == suite.name
        else scores.load(suite, results / suite.name)
        for suite in loaded
    ]
    if also is not None and also not in found:
        found.append(also)
    return found, comparisons(found)


def _compared(findings: Findings, task: str, arm: str, baseline: str) -> Comparison:
    figure = findings.matrix if task == "all" else partial(findings.returns, task)
    ours, theirs = figure(arm), figure(baseline)
    return Comparison(
        findings.suite.name,
        arm,
        baseline,
        task,
        ours,
        theirs,
        {} if task == "all" else findings.tasks[task].idle,
        metrics.improvement(ours, theirs),
    )
