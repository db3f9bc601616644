"""Suites: declarative files in ``benchmarks/suites``, read into the runs that they stand for.

A suite has tasks x arms x seeds of training runs, each an entry of a zoo configuration with changes,
and commands, measurements by a module of their own. An arm may have a ``class``, "module:Class", in the
place of its algorithm's, with the same arguments. Or it is another suite's, to be compared with: its
runs stay that suite's, and are done once. Longer ones are looked at up to this suite's steps.
"""

import itertools
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from era_rl.runs.agent import ALGORITHMS, algorithm_class
from era_rl.runs.record import config_hash, read_record
from era_rl.runs.settings import SettingsError, check_names
from era_rl.runs.yaml_files import read_mapping
from era_rl.sb3.run_settings import check, config_path, entry_for

SUITES = Path(__file__).parent / "suites"
REFERENCES = ("baseline", "also_against")
"""Keys that name an arm with which others are compared; the second may be left out."""
KEYS = frozenset(
    [
        *("description", *REFERENCES, "tasks", "arms", "seeds", "commands", "device"),
        *("steps", "evaluate_every", "evaluation_episodes", "checkpoint_every"),
        *("gradient_conflict", "exploration", "acting_along", "task_by_task", "margin"),
    ]
)
NEEDED = frozenset(["description", "arms", "seeds", "evaluate_every", "checkpoint_every"])
NEEDED |= {"evaluation_episodes", "baseline"}
# by kind of entry: the keys that there are, and those that must be given
ENTRIES = {
    "tasks": (["env", "range", "steps", "params", "dimension"], ["env", "range"]),
    "arms": (["algo", "class", "params", "nats_per_dim", "about"], ["algo", "about"]),
    "commands": (["module", "arguments", "output", "minutes"], ["module", "output", "minutes"]),
}


AGENT = "agent"
"""In a run's folder of scratch: the folder of its :class:`era_rl.sb3.run.Run`."""
PROGRESS = ("learning_rate", "clip_range", "target_entropy", "nats_per_dim")
"""Settings that may be schedules over all steps."""
LENT = ["suite"]
"""Keys of an arm that is another suite's."""


@dataclass(frozen=True)
class TrainingRun:
    """One seed of one arm on one task.

    Attributes:
        suite: Name or file of the suite, as given.
        task: The task's name in the suite.
        arm: The arm's name in the suite.
        seed: Seed of environment and agent.
        config: All that decides what is measured, but the seed.
        checkpoint_every: Environment steps between checkpoints.
        borrowed: Whether it is listed here by another suite; the folders of the two are neighbours.
        until: Steps up to which the result is looked at, if not all.
    """

    suite: str
    task: str
    arm: str
    seed: int
    config: dict[str, Any]
    checkpoint_every: int
    borrowed: bool = False
    until: int | None = None

    @property
    def name(self) -> str:
        """The run's name, unique in the suite."""
        return f"{self.task}-{self.arm}-seed{self.seed}"

    @cached_property
    def config_hash(self) -> str:
        """Twelve hexadecimal digits that change with the configuration."""
        return config_hash(self.config)

    @property
    def steps(self) -> int:
        """Environment steps."""
        return self.config["steps"]

    def result(self, results: Path) -> Path:
        """Return the file of the result, given the folder of results of the suite that lists it."""
        return self._own(results) / f"{self.name}.json"

    def read(self, results: Path) -> dict[str, Any] | None:
        """Return the result, or None; SettingsError if it is damaged or of another config."""
        record = read_record(self.result(results), self.config)
        return record if record is None or self.until is None else cut(record, self.until)

    def is_done(self, results: Path) -> bool:
        """Return whether there is a result; SettingsError as :meth:`read`."""
        return self.read(results) is not None

    def folder(self, scratch: Path) -> Path:
        """Return the folder for checkpoints and logs; another config has another."""
        return self._own(scratch) / f"{self.name}-{self.config_hash}"

    def command(self, results: Path, scratch: Path) -> list[str]:
        """Return the command that does this run alone, and goes on with it where it was."""
        python = [sys.executable, "-m", "benchmarks.job", self.suite, self.name]
        folders = ["--results", str(self._own(results)), "--scratch", str(self._own(scratch))]
        return [*python, *folders]

    def _own(self, folder: Path) -> Path:
        """Return the folder of the run's own suite, given that of the suite that lists it."""
        return folder.parent / Path(self.suite).stem if self.borrowed else folder


@dataclass(frozen=True)
class CommandRun:
    """A measurement by a module, done when the file that it writes last is there.

    Attributes:
        name: Name in the suite.
        module: Module to run.
        output: The file, relative to the working directory.
        minutes: How long it takes, as estimated by the suite's author.
        arguments: Its arguments.
    """

    name: str
    module: str
    output: str
    minutes: float
    arguments: Sequence[Any] = ()

    def result(self, results: Path) -> Path:
        """Return the file that is there when the measurement is done."""
        return Path(self.output)

    def is_done(self, results: Path) -> bool:
        """Return whether the file is there."""
        return self.result(results).exists()

    def folder(self, scratch: Path) -> Path:
        """Return the folder for logs."""
        return scratch / self.name

    def command(self, results: Path, scratch: Path) -> list[str]:
        """Return the command."""
        return [sys.executable, "-m", self.module, *map(str, self.arguments)]


Run = TrainingRun | CommandRun


@dataclass(frozen=True)
class Suite:
    """What a suite's file says.

    Attributes:
        name: Name of the suite.
        content: The file's content.
        runs: Training runs, seed by seed, so that an unfinished suite is balanced; of one task after
            the other where it says ``task_by_task``.
        commands: Measurements by modules.
    """

    name: str
    content: dict[str, Any]
    runs: list[TrainingRun] = field(default_factory=list)
    commands: list[CommandRun] = field(default_factory=list)

    @property
    def all(self) -> list[Run]:
        """All there is to do."""
        return [*self.commands, *self.runs]

    def done(self, results: Path) -> tuple[int, int]:
        """Return how many of the runs that are not another suite's are done, and how many there are."""
        own = [run for run in self.all if isinstance(run, CommandRun) or not run.borrowed]
        return sum(run.result(results).exists() for run in own), len(own)

    def run(self, name: str) -> TrainingRun:
        """Return a training run by name."""
        names = {run.name: run for run in self.runs}
        check_names("run", [name], names)
        return names[name]

    def score_range(self, task: str) -> tuple[float, float]:
        """Return the returns of a task that score 0 and 1."""
        low, high = self.content["tasks"][task]["range"]
        return float(low), float(high)


def names() -> list[str]:
    """Return the names of the suites there are."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load(suite: str) -> Suite:
    """Return a suite by its name, or by the path of its file.

    Raises:
        SettingsError: For an unknown name, key, algorithm or setting, or a value that does not fit.
    """
    path = Path(suite)
    if path.suffix != ".yaml":
        check_names("suite", [suite], names())
        path = SUITES / f"{suite}.yaml"
    content = read_mapping(path)
    _check_entry(str(path), content, KEYS, NEEDED if "tasks" in content else {"description"})
    for kind, (keys, needed) in ENTRIES.items():
        entries = content.get(kind, {})
        if not isinstance(entries, dict):
            raise SettingsError(
                f"{path}: {kind} must map names to settings, not be {entries!r:.60}"
            )
        for name, entry in entries.items():
            lent = kind == "arms" and isinstance(entry, dict) and "suite" in entry
            allowed = (LENT, LENT) if lent else (keys, needed)
            _check_entry(f"{path}: {kind}: {name}", entry, *allowed)
    commands = [CommandRun(name, **entry) for name, entry in content.get("commands", {}).items()]
    runs = _training_runs(suite, content, _lenders(path, content))
    return Suite(path.stem, content, runs, commands)


def _check_entry(where: str, entry: Any, known: Collection[str], needed: Collection[str]) -> None:
    """Raise SettingsError unless an entry of a suite has the keys it needs, and no unknown ones."""
    if not isinstance(entry, dict):
        raise SettingsError(f"{where} must map keys to values, not be {entry!r:.60}")
    check_names(f"{where}: key", entry, known)
    if missing := sorted(set(needed) - entry.keys()):
        raise SettingsError(f"{where}: {', '.join(missing)} must be given")


def _lenders(path: Path, content: dict[str, Any]) -> dict[str, Suite]:
    """Return the suites of the arms that are another's, by arm, and take over what they say of them."""
    lenders = {}
    for arm, entry in content.get("arms", {}).items():
        if "suite" in entry:
            if Path(entry["suite"]).stem == path.stem:
                raise SettingsError(f"{path}: arms: {arm}: suite must be another one")
            lenders[arm] = load(entry["suite"])
            check_names(f"{path}: arm of {entry['suite']}", [arm], lenders[arm].content["arms"])
            content["arms"][arm] = {**lenders[arm].content["arms"][arm], **entry}
    return lenders


def _training_runs(
    suite: str, content: dict[str, Any], lenders: dict[str, Suite]
) -> list[TrainingRun]:
    tasks, arms = content.get("tasks", {}), content.get("arms", {})
    if tasks:
        for key in content.keys() & set(REFERENCES):
            check_names(key, [content[key]], arms)
    lent = {
        (run.task, arm, run.seed): replace(run, borrowed=True)
        for arm, lender in lenders.items()
        for run in lender.runs
        if run.arm == arm
    }
    configs = {(t, a): _config(content, tasks[t], arms[a]) for t in tasks for a in arms}
    runs = []
    seeds: list[int] = content.get("seeds", [])
    in_turn: list[list[str]] = [[t] for t in tasks] if content.get("task_by_task") else [[*tasks]]
    for together, seed in itertools.product(in_turn, seeds):
        for task, arm in itertools.product(together, arms):
            config = configs[task, arm]
            run = TrainingRun(suite, task, arm, seed, config, int(content["checkpoint_every"]))
            if arm in lenders:
                run = _checked(lent.get((task, arm, seed)), run)
            runs.append(run)
    if doubled := [name for name, count in Counter(run.name for run in runs).items() if count > 1]:
        raise SettingsError(f"{suite}: seeds, tasks and arms must not give {doubled[0]} twice")
    return runs


def _checked(lent: TrainingRun | None, wanted: TrainingRun) -> TrainingRun:
    """Return another suite's run; SettingsError unless it is, or begins as, what this one would run."""
    if lent is not None and lent.config == wanted.config:
        return lent
    begins = lent is not None and lent.config == {**wanted.config, "steps": lent.steps}
    if lent is None or not begins or lent.steps < wanted.steps or _ends_somewhere(lent.config):
        raise SettingsError(
            f"{wanted.suite}: {wanted.name} must be a run of the arm's suite too, with the same steps "
            "and settings, or with more steps if no schedule runs over them"
        )
    return replace(lent, until=wanted.steps)


def _ends_somewhere(config: dict[str, Any]) -> bool:
    """Return whether a setting is a schedule, which other steps would change from the start."""
    values = [config["nats_per_dim"], *(config["settings"].get(name) for name in PROGRESS)]
    return not all(value is None or isinstance(value, float | int) for value in values)


def cut(record: dict[str, Any], until: int) -> dict[str, Any]:
    """Return the record of a run after so many steps, without what was measured at its end."""
    kept = {name: value for name, value in record.items() if name != "acting"}
    tables = {"evaluation", "trace", "gradient_conflict", "exploration", "acting_along"}
    for table in tables & record.keys():
        early = sum(step <= until for step in record[table]["timesteps"])
        kept[table] = {name: column[:early] for name, column in record[table].items()}
    return kept


def _config(content: dict[str, Any], task: dict[str, Any], arm: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of an arm on a task: the zoo's entry with the suite's changes."""
    check_names("algo", [arm["algo"]], ALGORITHMS)
    algo = arm.get("class", arm["algo"])
    settings = entry_for(task["env"], config_path(arm["algo"]))
    if "steps" not in {**content, **task}:
        raise SettingsError(f"steps must be given, for the suite or for the task of {task['env']}")
    steps = int({**content, **task}["steps"])
    for changes in (task.get("params", {}), arm.get("params", {}), {"n_timesteps": steps}):
        settings = _changed(settings, changes)
    check(settings, algorithm_class(algo))
    # in no config of before there were these
    newer = {name: True for name in ("exploration", "acting_along") if content.get(name)}
    return {
        **newer,
        "algo": algo,
        "env": task["env"],
        "steps": settings.pop("n_timesteps"),
        "settings": settings,
        "nats_per_dim": arm.get("nats_per_dim"),
        "evaluate_every": int(content["evaluate_every"]),
        "evaluation_episodes": int(content["evaluation_episodes"]),
        "device": content.get("device", "cpu"),
        "gradient_conflict": content.get("gradient_conflict", False),
    }


def _changed(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return settings with others put in; mappings are merged, and null takes a setting out."""
    result = dict(settings)
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(name), dict):
            result[name] = _changed(result[name], value)
        elif value is None:
            result.pop(name, None)
        else:
            result[name] = value
    return result
