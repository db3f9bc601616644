"""The commands on suites: each takes the arguments of ``python -m benchmarks``, returns its status."""

import os
import re
import sys
from argparse import Namespace
from pathlib import Path

from benchmarks import suite as suites
from benchmarks.results import RESULTS, SCRATCH
from benchmarks.runner import Estimate, LocalProcess, Runner, checkpoint_steps, duration, status
from benchmarks.suite import Suite
from era_rl.runs.folder import locked
from era_rl.runs.settings import SettingsError


def _folders(args: Namespace) -> tuple[Suite, Path, Path]:
    suite = suites.load(args.suite)
    _check_checkout()
    return suite, args.results or RESULTS / suite.name, args.scratch or SCRATCH / suite.name


def _check_checkout() -> None:
    """Raise SettingsError where results would be looked for, and written, in another place."""
    if not RESULTS.is_dir():
        raise SettingsError(
            f"there is no {RESULTS} here: benchmarks run in the root of a checkout, such as "
            f"{Path(__file__).parents[1]}"
        )


def list_suites(args: Namespace) -> int:
    """Print the suites, how much of each is done, and the first sentence of what it asks."""
    _check_checkout()
    for name in suites.names():
        suite = suites.load(name)
        done, total = suite.done(RESULTS / name)
        sys.stdout.write(f"{name}: {done} of {total} done\n")
        question = re.split(r"(?<=[.?]) (?=[A-Z])", suite.content["description"].strip())[0]
        sys.stdout.write(f"    {question}\n")
    return 0


def run_suite(args: Namespace) -> int:
    """Do what is missing of a suite; 1 for what is then left."""
    if args.workers is not None and args.workers < 1:
        raise SettingsError(f"--workers={args.workers} must be at least 1")
    suite, results, scratch = _folders(args)
    launch, workers = LocalProcess, os.cpu_count() or 1
    if args.ray:
        from benchmarks.cluster import connect  # Ray is loaded for those who ask for it

        launch, workers = connect(args.ray)
    seconds = None if args.time_limit is None else 60.0 * args.time_limit
    runner = Runner(suite, results, scratch, launch, args.workers or workers, seconds, args.partial)
    with locked(scratch):
        return 0 if runner.work_off() else 1


def show_status(args: Namespace) -> int:
    """Print what is done, missing and failed of a suite; 1 for what is missing."""
    suite, results, scratch = _folders(args)
    state, estimate = status(suite, results, scratch), Estimate(suite, results)
    seconds = 0.0
    for run in state.missing:
        steps = checkpoint_steps(run, scratch)
        at = f", checkpoint at step {steps}" if steps else ""
        failure = ", failed at its last try" if run.name in state.failed else ""
        sys.stdout.write(f"missing: {run.name}{at}{failure}\n")
        seconds += estimate.seconds(run, steps) or float("nan")
    for name, text in state.failed.items():
        sys.stdout.write(f"\n{name} failed:\n{text}")
    left = "" if seconds != seconds else f", {duration(seconds)} of one core left"
    sys.stdout.write(f"{suite.name}: {len(state.done)}/{len(suite.all)} done{left}\n")
    return 0 if not state.missing else 1


def write_report(args: Namespace) -> int:
    """Write a suite's report beside its results."""
    from benchmarks.report import write  # matplotlib and rliable take seconds to load

    sys.stdout.write(f"{write(*_folders(args))}\n")
    return 0


def write_readme(args: Namespace) -> int:
    """Write benchmarks/results/README.md."""
    from benchmarks import summary

    summary.write()
    return 0
