"""Run suites of measurements and report on them.

python -m benchmarks list
python -m benchmarks run pilot --workers 2
python -m benchmarks status pilot
python -m benchmarks report pilot
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from era_rl.runs.command import Parser, exit_status
from era_rl.runs.settings import SettingsError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 1 for what is not done, 2 for what is wrong."""
    args = _parser().parse_args(argv)
    advice = "; the same command goes on"
    return exit_status("benchmarks", lambda: _do(args), (SettingsError,), advice, "bench")


def _do(args: argparse.Namespace) -> int:
    from benchmarks import commands  # torch and SB3, once the arguments are read

    return getattr(commands, args.function)(args)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the suites")
    listing.set_defaults(function="list_suites")
    run = commands.add_parser("run", help="do what is missing of a suite")
    run.set_defaults(function="run_suite")
    run.add_argument("--workers", type=int, help="runs at a time; default: the cores there are")
    run.add_argument(
        "--time-limit", type=float, metavar="MINUTES", help="start no run that is longer"
    )
    run.add_argument("--partial", action="store_true", help="start it all the same, to go on later")
    run.add_argument("--ray", metavar="ADDRESS", help="run on a Ray cluster; local: start one here")
    state = commands.add_parser("status", help="what is done, missing and failed")
    state.set_defaults(function="show_status")
    about = "write report.html and report.md beside the results"
    report = commands.add_parser("report", help=about)
    report.set_defaults(function="write_report")
    for command in (run, state, report):
        command.add_argument("suite", help="name of a suite, or its .yaml file")
        command.add_argument("--results", type=Path, help="default: benchmarks/results/SUITE")
        command.add_argument("--scratch", type=Path, help="default: runs/benchmarks/SUITE")
    readme = commands.add_parser("readme", help="write benchmarks/results/README.md")
    readme.set_defaults(function="write_readme")
    return parser


if __name__ == "__main__":
    sys.exit(main())
