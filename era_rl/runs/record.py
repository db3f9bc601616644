"""The result of a run as a JSON file, with what it was measured with: versions, commit, machine."""

import hashlib
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from era_rl.runs.folder import read_json
from era_rl.runs.settings import SettingsError, differences


def config_hash(config: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits that change with a configuration."""
    text = json.dumps(config, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_record(
    path: Path, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> dict[str, Any] | None:
    """Return the record of a run, or None where there is none yet.

    Args:
        path: The file.
        config: The configuration that it must be of; compared by hash where the record has one.
        defaults: Values of settings that either does not state.

    Raises:
        SettingsError: If the file is damaged, no record, or one of another configuration.
    """
    if not path.is_file():
        return None
    try:
        record = read_json(path)
    except ValueError as error:
        raise SettingsError(f"{error}, and do the run again") from error
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise SettingsError(f"{path} is not the result of a run: remove it, and do the run again")
    changed = differences({**(defaults or {}), **record["config"]}, {**(defaults or {}), **config})
    if "config_hash" in record:
        hashes = differences(record, {"config_hash": config_hash(config)})
        changed = hashes and (changed or hashes)
    if changed:
        raise SettingsError(
            f"{path} is of other settings ({', '.join(changed)}): take another name, or remove it"
        )
    return record


def provenance(packages: Iterable[str], code: Path | None = None) -> dict[str, Any]:
    """Return the versions, the machine (without its name) and the commit of the code.

    Args:
        packages: Distributions whose versions matter; those that are not installed are left out.
        code: A folder of the repository, or None to leave the commit out.
    """
    found: dict[str, Any] = {
        "versions": {"python": platform.python_version(), **_versions(packages)},
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.system()},
    }
    if code is not None:
        changed = _git(code, "status", "--porcelain", "--untracked-files=no")
        found["git"] = {"commit": _git(code, "rev-parse", "HEAD"), "dirty": bool(changed)}
    return found


def command_line() -> str:
    """Return the command that started this process, for a shell, the interpreter called python."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def rounded(value: float) -> float | None:
    """Return a number of six significant digits, as results in a repository are kept; None for NaN."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def peak_memory_mib() -> float | None:
    """Return the peak memory of this process; getrusage's would include that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024


def _versions(packages: Iterable[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git(folder: Path, *arguments: str) -> str:
    """Return git's answer, "" where there is no repository or no git."""
    try:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=folder)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip()


def _cpu() -> str:
    """Return the processor's model name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
