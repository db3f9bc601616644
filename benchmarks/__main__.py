"""Run suites of measurements and report on them.

python -m benchmarks list
python -m benchmarks run pilot --workers 2
python -m benchmarks status pilot
python -m benchmarks report pilot
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import suite as suites
from benchmarks.results import RESULTS, SCRATCH
from benchmarks.runner import Estimate, LocalProcess, Runner, checkpoint_steps, duration, status
from benchmarks.suite import Suite
from era_rl.runs.command import exit_status
from era_rl.runs.folder import locked
from era_rl.runs.settings import SettingsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 1 for what is not done, 2 for what is wrong."""
    args = _parser().parse_args(argv)
    advice = "; the same command goes on"
    return exit_status("benchmarks", lambda: args.function(args), (SettingsError,), advice)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the suites")
    listing.set_defaults(function=_list)
    run = commands.add_parser("run", help="do what is missing of a suite")
    run.set_defaults(function=_run)
    run.add_argument("--workers", type=int, help="runs at a time; default: the cores there are")
    run.add_argument(
        "--time-limit", type=float, metavar="MINUTES", help="start no run that is longer"
    )
    run.add_argument("--partial", action="store_true", help="start it all the same, to go on later")
    run.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster; local: start one here")
    state = commands.add_parser("status", help="what is done, missing and failed")
    state.set_defaults(function=_status)
    about = "write report.html and report.md beside the results"
    report = commands.add_parser("report", help=about)
    report.set_defaults(function=_report)
    for command in (run, state, report):
        command.add_argument("suite", help="name of a suite, or its .yaml file")
        command.add_argument("--results", type=Path, help="default: benchmarks/results/SUITE")
        command.add_argument("--scratch", type=Path, help="default: runs/benchmarks/SUITE")
    readme = commands.add_parser("readme", help="write benchmarks/results/README.md")
    readme.set_defaults(function=_readme)
    return parser


def _folders(args: argparse.Namespace) -> tuple[Suite, Path, Path]:
    suite = suites.load(args.suite)
    return suite, args.results or RESULTS / suite.name, args.scratch or SCRATCH / suite.name


def _list(args: argparse.Namespace) -> int:
    for name in suites.names():
        suite = suites.load(name)
        done, total = suite.done(RESULTS / name)
        sys.stdout.write(f"{name}: {done} of {total} done\n")
        sys.stdout.write(f"    {suite.content['description'].strip()}\n")
    return 0


def _run(args: argparse.Namespace) -> int:
    suite, results, scratch = _folders(args)
    launch, workers = LocalProcess, os.cpu_count() or 1
    if args.ray:
        from benchmarks.cluster import connect  # Ray is loaded for those who ask for it

        launch, workers = connect(args.ray)
    seconds = None if args.time_limit is None else 60.0 * args.time_limit
    runner = Runner(suite, results, scratch, launch, args.workers or workers, seconds, args.partial)
    with locked(scratch):
        return 0 if runner.work_off() else 1


def _status(args: argparse.Namespace) -> int:
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


def _report(args: argparse.Namespace) -> int:
    from benchmarks.report import write  # matplotlib and rliable take seconds to load

    sys.stdout.write(f"{write(*_folders(args))}\n")
    return 0


def _readme(args: argparse.Namespace) -> int:
    from benchmarks import summary

    summary.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
