"""What the runs of a suite came to: returns and scores by task and arm, beside doing nothing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import idle, metrics
from benchmarks.metrics import Array
from benchmarks.suite import REFERENCES, Suite

Runs = list[dict[str, Any]]
Grid = Mapping[tuple[str, str], Runs]
"""Results by task and arm."""
Measure = Callable[[Mapping[str, Any]], float]
LEARNED = 0.05
"""IQM of scores that some arm must reach before a task counts as learned at all."""


class Task(NamedTuple):
    """A task of a suite.

    Attributes:
        env: The environment's id.
        idle: Mean returns without an action ("zero") and with random ones; {} if not measured.
        low: Return that scores 0: the better of the two, or the suite's where they are not measured.
        high: Return that scores 1.
        dimension: Action dimensions, where the suite compares over them.
    """

    env: str
    idle: dict[str, float]
    low: float
    high: float
    dimension: int | None


@dataclass(frozen=True)
class Findings:
    """A suite's results; arms go by their :func:`label`, in the suite's order.

    Attributes:
        suite: The suite.
        tasks: Its tasks by name.
        arms: Its arms' entries.
        baseline: The arm that others are compared with.
        also_against: A second one, or "".
        grid: Results by task and arm, of the pairs that have any.
    """

    suite: Suite
    tasks: dict[str, Task] = field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    baseline: str = ""
    also_against: str = ""
    grid: Grid = field(default_factory=dict)

    def of(self, measured: Callable[[dict[str, Any]], bool]) -> "Findings":
        """Return the findings of the pairs whose runs all have been measured so."""
        grid = {pair: runs for pair, runs in self.grid.items() if all(map(measured, runs))}
        return replace(self, grid=grid)

    def returns(self, task: str, arm: str, measure: Measure = metrics.final_return) -> Array:
        """Return a figure of each run's evaluations, (seeds, 1)."""
        runs = self.grid.get((task, arm), [])
        return np.array([measure(run["evaluation"]) for run in runs], dtype=float).reshape(-1, 1)

    def scores(self, task: str, arm: str) -> Array:
        """Return final scores, (seeds, 1): 0 at the task's ``low`` and 1 at its ``high``."""
        low, high = self.tasks[task].low, self.tasks[task].high
        return (self.returns(task, arm) - low) / (high - low)

    def matrix(self, arm: str) -> Array:
        """Return final scores, (seeds, tasks), of the seeds that an arm has on all tasks."""
        seeds = [[run["seed"] for run in self.grid.get((task, arm), [])] for task in self.tasks]
        shared = sorted(set.intersection(*map(set, seeds)))
        columns = [
            self.scores(task, arm)[[found.index(seed) for seed in shared], 0]
            for task, found in zip(self.tasks, seeds, strict=True)
        ]
        return np.array(columns).T.reshape(len(shared), len(self.tasks))

    def learned(self, task: str) -> bool:
        """Return whether some arm's IQM is above doing nothing by a twentieth of the way to score 1.

        True where no run is done, which says nothing.
        """
        found = [self.scores(task, arm) for arm in self.arms if (task, arm) in self.grid]
        return not found or any(metrics.iqm(scores) >= LEARNED for scores in found)

    def pairs(self) -> Iterator[tuple[str, str, str, Array, Array]]:
        """Yield task ("all" for all), arm, what it is compared with, and the scores of the two.

        Two arms that are another suite's are compared there.
        """
        own = {label(run.arm, self.suite) for run in self.suite.runs if not run.borrowed}
        references = [arm for arm in (self.baseline, self.also_against) if arm]
        for index, reference in enumerate(references):
            for arm in self.arms:
                if arm not in references[: index + 1] and {arm, reference} & own:
                    if len(self.tasks) > 1:
                        yield "all", arm, reference, self.matrix(arm), self.matrix(reference)
                    for task in self.tasks:
                        ours, theirs = self.scores(task, arm), self.scores(task, reference)
                        yield task, arm, reference, ours, theirs


def load(suite: Suite, folder: Path) -> Findings:
    """Return what there is of a suite's results in a folder.

    Raises:
        SettingsError: If there are results of other configurations under the names of the suite's runs.
    """
    if not suite.runs:
        return Findings(suite)
    grid: dict[tuple[str, str], Runs] = {}
    for run in suite.runs:
        if (result := run.read(folder)) is not None:
            grid.setdefault((run.task, label(run.arm, suite)), []).append(result)
    arms = {label(name, suite): entry for name, entry in suite.content["arms"].items()}
    tasks = {name: _task(suite, name) for name in suite.content["tasks"]}
    order = {(task, arm): grid[task, arm] for task in tasks for arm in arms if (task, arm) in grid}
    references = [suite.content[key] for key in REFERENCES if key in suite.content]
    return Findings(suite, tasks, arms, *(label(arm, suite) for arm in references), grid=order)


def label(arm: str, suite: Suite) -> str:
    """Return an arm's name with the sign of its floor: "exact-1.0" at -1 nat is "exact(-1.0)"."""
    nats = suite.content["arms"][arm].get("nats_per_dim")
    if nats is None:
        return arm
    return arm.replace(f"-{abs(nats)}", f"({nats})").replace(f"+{abs(nats)}", f"(+{nats})")


def _task(suite: Suite, name: str) -> Task:
    entry = suite.content["tasks"][name]
    config = next(run.config for run in suite.runs if run.task == name)
    measured = idle.measured().get(
        idle.key(config["env"], config["settings"].get("env_kwargs", {})), {}
    )
    low, high = suite.score_range(name)
    return Task(
        config["env"], measured, max(measured.values(), default=low), high, entry.get("dimension")
    )


def evaluations(runs: Runs) -> tuple[Array, Array]:
    """Return the steps of the evaluations that all runs have, and mean returns (seeds, steps)."""
    found = [
        dict(zip(run["evaluation"]["timesteps"], run["evaluation"]["returns"], strict=True))
        for run in runs
    ]
    steps = sorted(set.intersection(*map(set, found)))
    return np.array(steps), np.array([[np.mean(each[step]) for step in steps] for each in found])


def traces(runs: Runs, column: str, table: str = "trace") -> tuple[Array, Array]:
    """Return steps and a column of the traces, (seeds, steps), with NaN for None.

    Resumed runs check at other steps, so all are read at the steps of the first.
    """
    steps = np.array(runs[0][table]["timesteps"], dtype=float)
    rows = [
        np.interp(steps, run[table]["timesteps"], np.array(run[table][column], dtype=float))
        for run in runs
    ]
    return steps, np.array(rows)


def of_dimensions(runs: Runs, column: str) -> tuple[Array, Array]:
    """Return steps and a figure of each dimension of the traces, (dimensions, seeds, steps)."""
    found = [traces(runs, f"{column}_{i}") for i in range(runs[0]["action_dim"])]
    return found[0][0], np.array([values for _, values in found])


def lowest_of_states(runs: Runs, column: str) -> Array:
    """Return the lowest "std" or "entropy" of any state, dimension and seed, (steps,)."""
    if column == "std":
        return np.exp(traces(runs, "log_std_min")[1].min(0))
    return of_dimensions(runs, "lowest")[1].min((0, 1))


def unique(values: Iterator[str] | Sequence[str]) -> list[str]:
    """Return values in the order of their first appearance."""
    return list(dict.fromkeys(values))
