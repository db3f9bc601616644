"""Works a suite off: what is missing, on so many workers, within a time, whatever happens to it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any

from benchmarks.suite import AGENT, Run, Suite, TrainingRun
from era_rl.runs.folder import checkpoints, step_of
from era_rl.sb3.callbacks import read_table

START_SECONDS = 30.0
"""Imports and the like, added to the estimate of a run's time."""
POLL_SECONDS = 0.5


Launch = Callable[[Run, Path, Path], Any]
"""Starts a run, given the folders of results and scratch: :class:`LocalProcess` or its like."""


def start(command: Sequence[str], log: IO[str]) -> subprocess.Popen[bytes]:
    """Start a run's command as a subprocess with one thread.

    It watches its standard input (``benchmarks/__init__.py``), a pipe that closes with this process,
    however that ends.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BENCHMARKS_PARENT_PIPE": "1"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment
    )


class LocalProcess:
    """A run as a subprocess, its output in ``log.txt`` of its folder."""

    def __init__(self, run: Run, results: Path, scratch: Path) -> None:
        folder = run.folder(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log:
            self.process = start(run.command(results, scratch), log)

    def poll(self) -> int | None:
        """Return the exit status, or None while it is running."""
        exit_status = self.process.poll()
        if exit_status is not None:
            self._close()
        return exit_status

    def stop(self) -> None:
        """End it; a training run has its last checkpoint to go on from."""
        self.process.terminate()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


@dataclass
class Status:
    """Where a suite stands.

    Attributes:
        done: Runs that have their result.
        missing: Runs that do not, in the order in which they are to be done.
        failed: What runs that failed at their last try wrote, by name.
    """

    done: list[Run] = field(default_factory=list)
    missing: list[Run] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def status(suite: Suite, results_folder: Path, scratch: Path) -> Status:
    """Return where a suite stands.

    Raises:
        SettingsError: If there are results of other configurations under the names of the suite's runs.
    """
    found = Status()
    for run in suite.all:
        if run.is_done(results_folder):
            found.done.append(run)
            continue
        found.missing.append(run)
        failure = run.folder(scratch) / "failure.txt"
        if failure.exists():
            found.failed[run.name] = failure.read_text()
    return found


class Estimate:
    """How long a suite's runs take, from the measured speed of runs that are like them."""

    def __init__(self, suite: Suite, results_folder: Path) -> None:
        self.speeds: list[tuple[str, str, float]] = []
        for run in suite.runs:
            if (result := run.read(results_folder)) is not None:
                self.speeds.append((run.task, run.arm, result["steps_per_second"]))

    def seconds(self, run: Run, done_steps: int = 0) -> float | None:
        """Return the seconds a run still takes; None while nothing was measured."""
        if not isinstance(run, TrainingRun):
            return 60.0 * run.minutes
        same = [s for task, arm, s in self.speeds if (task, arm) == (run.task, run.arm)]
        alike = [s for task, arm, s in self.speeds if task == run.task or arm == run.arm]
        measured = same or alike or [s for _, _, s in self.speeds]
        if not measured:
            return None
        return START_SECONDS + (run.steps - done_steps) / median(measured)


@dataclass
class Runner:
    """Does the missing runs of a suite.

    Attributes:
        suite: The suite.
        results: Folder of its results.
        scratch: Folder of its checkpoints and logs.
        launch: Starts a run.
        workers: Runs at a time.
        time_limit: Seconds after which nothing runs any more, or None.
        partial: Whether to start runs that cannot finish in the time; they go on another time.
    """

    suite: Suite
    results: Path
    scratch: Path
    launch: Launch = LocalProcess
    workers: int = 1
    time_limit: float | None = None
    partial: bool = False

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.running: dict[str, tuple[Run, Any]] = {}
        self.finished: list[str] = []
        self.failures: list[str] = []
        self.estimate = Estimate(self.suite, self.results)
        self._shown: tuple[int, ...] = ()
        self._shown_at = 0.0

    def work_off(self) -> bool:
        """Do what is missing, as far as the time allows, and return whether all is done."""
        state = status(self.suite, self.results, self.scratch)
        self.waiting, self.total = state.missing, len(state.missing)
        if not self.waiting:
            self._say(f"{self.suite.name}: nothing is missing, {len(state.done)} done\n")
            return True
        with self._stopping_what_runs():
            while True:
                self._reap()
                self._start()
                self._show()
                if not self.running or self._time_left() <= 0.0:
                    break
                time.sleep(POLL_SECONDS)
        self._summarise()
        return len(self.finished) == self.total

    def _start(self) -> None:
        for run in list(self.waiting):
            if len(self.running) >= self.workers:
                return
            if not self._may_run_beside_others(run):
                continue
            seconds = self.estimate.seconds(run, checkpoint_steps(run, self.scratch))
            if self.partial or (seconds or 0.0) <= self._time_left():
                self.waiting.remove(run)
                (run.folder(self.scratch) / "failure.txt").unlink(missing_ok=True)
                self.running[run.name] = run, self.launch(run, self.results, self.scratch)

    def _may_run_beside_others(self, run: Run) -> bool:
        """Return whether a run may start now: what measures time has the machine for itself."""
        together = [run, *(other for other, _ in self.running.values())]
        return len(together) == 1 or all(isinstance(r, TrainingRun) for r in together)

    def _reap(self) -> None:
        for name, (run, execution) in list(self.running.items()):
            exit_status = execution.poll()
            if exit_status is None:
                continue
            del self.running[name]
            if exit_status == 0 and run.is_done(self.results):
                self.finished.append(name)
                self.estimate = Estimate(self.suite, self.results)
                continue
            folder = run.folder(self.scratch)
            tail = "\n".join((folder / "log.txt").read_text().splitlines()[-40:])
            (folder / "failure.txt").write_text(f"exit status {exit_status}\n{tail}\n")
            self.failures.append(name)
            self._say(f"\n{name} failed: exit status {exit_status}\n{tail}\n")

    def _time_left(self) -> float:
        spent = time.monotonic() - self.started
        return float("inf") if self.time_limit is None else self.time_limit - spent

    @contextmanager
    def _stopping_what_runs(self) -> Iterator[None]:
        try:
            yield
        finally:
            for _, execution in self.running.values():
                execution.stop()

    def _show(self) -> None:
        """Write a line on where the suite stands: when it changes, and every minute."""
        counts = len(self.finished), len(self.running), len(self.failures)
        if counts != self._shown or time.monotonic() - self._shown_at > 60.0:
            self._shown, self._shown_at = counts, time.monotonic()
            done, running, failed = counts
            self._say(
                f"{done}/{self.total} done, {running} running{self._progress()}, {failed} failed, "
                f"{self._eta()}\n"
            )

    def _progress(self) -> str:
        shares = [
            f"{name} {progress_steps(run, self.scratch) / run.steps:.0%}"
            if isinstance(run, TrainingRun)
            else name
            for name, (run, _) in self.running.items()
        ]
        return f" ({', '.join(shares)})" if shares else ""

    def _eta(self) -> str:
        remaining = [
            *((r, checkpoint_steps(r, self.scratch)) for r in self.waiting),
            *((r, progress_steps(r, self.scratch)) for r, _ in self.running.values()),
        ]
        seconds = [self.estimate.seconds(run, steps) for run, steps in remaining]
        if None in seconds:
            return "ETA unknown until a run is done"
        return f"ETA {duration(sum(s for s in seconds if s is not None) / self.workers)}"

    def _summarise(self) -> None:
        for name in self.running:
            self._say(f"{name} stopped at the time limit; the next call goes on with it\n")
        if self.waiting:
            self._say(f"{len(self.waiting)} runs not started: they would not finish in the time\n")
        spent = duration(time.monotonic() - self.started)
        self._say(
            f"{len(self.finished)}/{self.total} done in {spent}"
            f"{', failed: ' + ', '.join(self.failures) if self.failures else ''}\n"
        )

    def _say(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def checkpoint_steps(run: Run, scratch: Path) -> int:
    """Return the steps of the checkpoint that a run would go on from."""
    return max(map(step_of, checkpoints(run.folder(scratch) / AGENT)), default=0)


def progress_steps(run: Run, scratch: Path) -> int:
    """Return the steps of a run that is running here, as far as it has written them."""
    trace = run.folder(scratch) / "trace.csv"
    traced = read_table(trace).get("timesteps", ())
    return int(max([*traced[-1:], checkpoint_steps(run, scratch)]))


def duration(seconds: float) -> str:
    """Return a duration in words, such as "2 h 05 min"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {int(seconds):02} s"
