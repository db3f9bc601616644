"""How long imports and commands take to start, each in a process of its own, all in turn.

Process time (user and system) beside wall time: the first does not change when others use the machine.
Bytecode and files are warm: a round that is not counted goes first.
"""

import os
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any

from benchmarks.measuring import Measurement, Out, counted, run
from benchmarks.results import RESULTS
from era_rl.runs.settings import Setting

HOST = "import stable_baselines3"
STARTS = {
    "import era_rl": ["-c", "import era_rl"],
    HOST: ["-c", HOST],
    "from era_rl import SACERA": ["-c", "from era_rl import SACERA"],
    "era-zoo --help": ["-m", "era_rl.zoo.cli", "--help"],
    "era-zoo train --help": ["-m", "era_rl.zoo.cli", "train", "--help"],
    "era-demo --help": ["-m", "era_rl.demo", "--help"],
    "python -m era_rl.torchrl.train sac --help": ["-m", "era_rl.torchrl.train", "sac", "--help"],
    "era-vision --help": ["-m", "era_vision.cli", "--help"],
    "era-llm --help": ["-m", "era_llm.cli", "--help"],
    "python -m benchmarks --help": ["-m", "benchmarks", "--help"],
}
"""Arguments of Python by what they stand for."""


@dataclass(frozen=True, kw_only=True)
class Startup(Measurement):
    """How often each is started."""

    rounds: Annotated[int, Setting("starts of each", low=2)] = 9
    out: Out = RESULTS / "first-hour" / "startup.json"


def start(arguments: list[str]) -> tuple[float, float]:
    """Start Python and return its process time and its wall time, in seconds."""
    began = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    pid = os.posix_spawn(
        sys.executable, [sys.executable, *arguments], os.environ, file_actions=quiet
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"python {' '.join(arguments)} failed")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def measure(settings: Startup) -> dict[str, Any]:
    """Return medians and all times of each, and of SACERA's import over Stable-Baselines3's."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in STARTS}
    for _ in counted(settings.rounds + 1, "round"):
        for name, arguments in STARTS.items():
            times[name].append(start(arguments))
    rows = {}
    for name, found in times.items():
        process, wall = zip(*found[1:], strict=True)
        rows[name] = {
            "process_seconds_median": statistics.median(process),
            "wall_seconds_median": statistics.median(wall),
            "process_seconds": process,
            "wall_seconds": wall,
        }
    pairs = zip(times["from era_rl import SACERA"][1:], times[HOST][1:], strict=True)
    ratio = statistics.median(ours[0] / host[0] for ours, host in pairs)
    return {"sacera_over_stable_baselines3": ratio, "starts": rows}


if __name__ == "__main__":
    sys.exit(run(Startup, measure))
