"""Time of SACERA's training alone on the machine, and with busy processes beside it.

Each training runs in a process of its own, with a number of threads (0: what the commands choose for
networks of that size) and a waiting policy of OpenMP: "active" is its default, by which threads spin.
All take turns, quiet and beside as many processes that compute without end as are asked for.
One that is not over ``limit`` seconds after its start is ended, counts as that and has no process time.
Process time, of all threads, is beside the wall time: spinning shows in it, and of one thread it is the
time on a quiet core.
"""

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

from benchmarks.measuring import Measurement, Out, counted, run
from benchmarks.results import RESULTS
from era_rl.runs.command import PASSIVE
from era_rl.runs.settings import Setting

WORKER = """
import sys, time
import torch
from era_rl.devices import set_threads
from era_rl.sb3 import SACERA
env, width, threads, steps = sys.argv[1], *map(int, sys.argv[2:])
set_threads(threads, 256 * width * width)
model = SACERA("MlpPolicy", env, policy_kwargs={"net_arch": [width, width]}, learning_starts=0,
               buffer_size=10_000, seed=0, device="cpu", compile=False)
sys.stdout.write("started\\n")
sys.stdout.flush()
model.learn(30)
wall, process = time.perf_counter(), time.process_time()
model.learn(steps, reset_num_timesteps=False)
sys.stdout.write(f"{time.perf_counter() - wall} {time.process_time() - process}")
"""
BUSY = "while True: pass"


@dataclass(frozen=True, kw_only=True)
class Load(Measurement):
    """What is trained, and beside what."""

    env: Annotated[str, Setting("environment")] = "HalfCheetah-v5"
    widths: Annotated[tuple[int, ...], Setting("units of each of two hidden layers", low=1)] = (
        256,
    )
    threads: Annotated[tuple[int, ...], Setting("threads of torch", low=0)] = (0, 2)
    busy: Annotated[int, Setting("processes beside", low=1)] = 2
    steps: Annotated[int, Setting("steps of a training", low=1)] = 300
    rounds: Annotated[int, Setting("trainings of each kind", low=1)] = 3
    limit: Annotated[float, Setting("longest training, in seconds", low=1.0)] = 120.0
    out: Out = RESULTS / "first-hour" / "load.json"


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Have so many processes compute in the block."""
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(settings: Load, width: int, threads: int, policy: str) -> tuple[float, float | None]:
    """Return the wall time and the process time of a training, the second None if it was ended."""
    environment = {**os.environ, **({PASSIVE[0]: PASSIVE[1]} if policy == "passive" else {})}
    environment.pop("OMP_NUM_THREADS", None)
    words = [settings.env, width, threads, settings.steps]
    command = [sys.executable, "-c", WORKER, *map(str, words)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it has started
        try:
            answer = process.communicate(timeout=settings.limit)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            return settings.limit, None
    wall, spent = map(float, answer.split())
    return wall, spent


def measure(settings: Load) -> dict[str, Any]:
    """Return the times of every kind of training, quiet and under load, and their ratio."""
    kinds = list(product(settings.widths, settings.threads, ("active", "passive")))
    times: dict[Any, list[list[tuple[float, float | None]]]] = {kind: [[], []] for kind in kinds}
    for _ in counted(settings.rounds, "round"):
        for kind in kinds:
            times[kind][0].append(seconds(settings, *kind))
        with busy(settings.busy):
            for kind in kinds:
                times[kind][1].append(seconds(settings, *kind))
    return {"trainings": [_row(kind, *found) for kind, found in times.items()]}


def _row(
    kind: Any, quiet: list[tuple[float, float | None]], loaded: list[tuple[float, float | None]]
) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(("width", "threads", "waiting"), kind, strict=True))
    for name, times in (("quiet", quiet), ("loaded", loaded)):
        wall, process = zip(*times, strict=True)
        row[f"{name}_wall_seconds"], row[f"{name}_process_seconds"] = wall, process
    ratio = statistics.median(row["loaded_wall_seconds"])
    return {**row, "loaded_over_quiet": ratio / statistics.median(row["quiet_wall_seconds"])}


if __name__ == "__main__":
    sys.exit(run(Load, measure))
