"""Pack what a GPU machine without network needs, and measure there.

python -m benchmarks.gpu pack --out .gpu                  # where there is a network
python -m benchmarks.gpu run --wheels .gpu --out results  # there, in a copy of this repository

``run`` installs the wheels beside what the machine has, runs the tests marked gpu and the suite, and
after each puts what there is into --out, whether or not the time sufficed: summary.json, and
results.tar.gz with logs and results, which a later call on another machine takes as --earlier.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu.pack import PackError, pack
from era_rl.runs.command import Parser, exit_status
from era_rl.runs.folder import in_one_piece, write_json

ROOT = Path(__file__).parents[2]
GPU_TESTS = (
    *("tests/sb3/test_sb3_buffers.py", "tests/sb3/test_sb3_binding.py"),
    *("tests/torchrl/test_torchrl_trainer.py", "tests/vision/test_head.py"),
)
"""Where tests are marked gpu; looking for them in all files takes minutes."""
TEST_SECONDS = 180.0
"""Most that the tests may take of the time."""
WORKERS = 6
"""Training runs at once: each has one thread, and the GPU has room."""
KEPT = ("log.txt", "failure.txt", "trace.csv", "evaluations.npz")
"""Files of unfinished runs that are kept."""
GRACE_SECONDS = 30.0
"""For the suite's imports, and to end what it runs, before it is killed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 1 for what failed, 2 for what is wrong."""
    parser = Parser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    packing = commands.add_parser("pack", help="download wheels")
    packing.set_defaults(function=_pack)
    packing.add_argument("--out", type=Path, required=True, help="folder for the wheels")
    packing.add_argument("--python", default="3.12", help="version on the GPU machine")
    packing.add_argument("--max-mb", type=float, default=60.0, help="most that all wheels may take")
    running = commands.add_parser("run", help="install the wheels, test and measure")
    running.set_defaults(function=_run)
    running.add_argument("--wheels", type=Path, required=True, help="folder that pack has filled")
    running.add_argument("--out", type=Path, required=True, help="folder for results and logs")
    running.add_argument("--budget-minutes", type=float, default=9.5, help="for all together")
    running.add_argument("--suite", default="fast-gpu", help="name of a suite, or its .yaml file")
    running.add_argument("--site", type=Path, help="where to install; default: a temporary folder")
    running.add_argument("--earlier", type=Path, help="results.tar.gz of a call to go on from")
    args = parser.parse_args(argv)
    return exit_status("benchmarks.gpu", lambda: args.function(args), (PackError,))


def _pack(args: argparse.Namespace) -> int:
    size = pack(args.out, args.python, args.max_mb, ROOT / "constraints.txt")
    sys.stdout.write(f"{args.out}: {size:.1f} MB\n")
    return 0


def _run(args: argparse.Namespace) -> int:
    deadline = time.monotonic() + 60.0 * args.budget_minutes
    wheels = sorted(str(path) for path in args.wheels.glob("*.whl"))
    if not wheels:
        raise PackError(f"--wheels {args.wheels} has no wheels: run `pack --out` first")
    if args.earlier is not None:
        if not args.earlier.is_file():
            raise PackError(f"--earlier {args.earlier} is not a file")
        with tarfile.open(args.earlier) as archive:
            archive.extractall(ROOT, filter="data")
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="era-gpu-", ignore_cleanup_errors=True) as scratch:
        site, logs = args.site or Path(scratch) / "site", Path(scratch) / "logs"
        logs.mkdir()
        summary = _steps(args, wheels, site, logs, deadline)
    sys.stdout.write(json.dumps(summary) + "\n")
    return int(any(step["exit_status"] != 0 for step in summary.values()))


def _steps(
    args: argparse.Namespace, wheels: Sequence[str], site: Path, logs: Path, deadline: float
) -> dict[str, dict[str, float | int]]:
    """Install, test and measure, and write down after each how it ended."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    install += ["--no-compile", "--upgrade", f"--target={site}", *wheels]
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", *GPU_TESTS]
    tests += ["--continue-on-collection-errors", "--timeout=90"]
    suite = [sys.executable, "-m", "benchmarks", "run", args.suite, "--partial"]
    suite += ["--workers", str(WORKERS)]
    summary: dict[str, dict[str, float | int]] = {}
    for name, command in (("install", install), ("tests", tests), ("suite", suite)):
        left = deadline - time.monotonic()
        if name == "suite":
            command = [*command, f"--time-limit={max(left - GRACE_SECONDS, 1.0) / 60.0:.2f}"]
        seconds = min(left, TEST_SECONDS) if name == "tests" else left
        status = _step(command, site, logs / f"{name}.log", seconds)
        summary[name] = {"exit_status": status, "seconds_left": round(deadline - time.monotonic())}
        write_json(args.out / "summary.json", summary)
        _gather(args.out / "results.tar.gz", Path(args.suite).stem, logs)
        if name == "install" and status != 0:
            break
    return summary


def _gather(archive: Path, suite: str, logs: Path) -> None:
    """Write logs, results, and what unfinished runs have measured into one file."""
    results, scratch = ROOT / "benchmarks" / "results" / suite, ROOT / "runs" / "benchmarks" / suite
    found = {path: str(path.relative_to(ROOT)) for path in results.rglob("*") if path.is_file()}
    unfinished = [path for path in scratch.rglob("*") if path.name in KEPT]
    found |= {path: str(path.relative_to(ROOT)) for path in unfinished}
    found |= {path: f"runs/gpu/{path.name}" for path in logs.iterdir()}
    with in_one_piece(archive) as part, tarfile.open(part, "w:gz") as tar:
        for path, name in sorted(found.items()):
            tar.add(path, name)


def _step(command: Sequence[str], site: Path, log: Path, seconds: float) -> int:
    """Run a command with the installed packages, and return its exit status, 124 after the time."""
    # what was installed goes before what the machine has, this repository before both
    path = os.pathsep.join([str(ROOT), str(site), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    with log.open("w") as file:
        try:
            return subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=max(seconds, 1.0),
            ).returncode
        except subprocess.TimeoutExpired:
            return 124


if __name__ == "__main__":
    sys.exit(main())
