"""Files of runs: results, written in one piece and never mixed across configurations, and folders."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.suite import SuiteError, TrainingRun
from era_rl.runs.folder import read_json

RESULTS = Path("benchmarks/results")
SCRATCH = Path("runs/benchmarks")
PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "mujoco")
PACKAGES += ("dm_control", "numpy")


def read(run: TrainingRun, results: Path) -> dict[str, Any] | None:
    """Return the result of a run, or None where it is missing.

    Raises:
        SuiteError: If there is a result of another configuration under the run's name, or none that
            can be read.
    """
    path = run.result(results)
    if not path.is_file():
        return None
    try:
        result = read_json(path)
    except ValueError as error:
        raise SuiteError(f"{error}, and do the run again") from error
    if not isinstance(result, dict) or not {"config", "config_hash"} <= result.keys():
        raise SuiteError(f"{path} is not the result of a run: remove it, and do the run again")
    if result["config_hash"] != run.config_hash:
        changed = sorted(k for k, v in run.config.items() if result["config"].get(k) != v)
        raise SuiteError(
            f"{path} has config {result['config_hash']}, the suite now says {run.config_hash} "
            f"(changed: {', '.join(changed)}): rename the arm or the suite, or remove the old results"
        )
    return result


def circumstances() -> dict[str, Any]:
    """Return versions, git commit and machine, without its name."""
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "git": {"commit": _git("rev-parse", "HEAD"), "dirty": bool(_git("status", "--porcelain"))},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
    }


def peak_memory_mib() -> float | None:
    """Return the peak memory of this process; getrusage's would include that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    """Return git's answer about the tracked code, "" where there is no repository or no git."""
    tracked = ["--untracked-files=no"] if "status" in arguments else []
    command = ["git", *arguments, *tracked]
    root = Path(__file__).parents[1]
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=root).stdout.strip()
    except FileNotFoundError:
        return ""


def _cpu() -> str:
    """Return the processor's model name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
