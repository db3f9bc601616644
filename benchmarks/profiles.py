"""Where the time of a class goes: operations and Python functions of a block of training.

Each name is profiled alone, after a block to warm up: by torch's profiler, whose self times are those
of operations and of compiled kernels, and by cProfile, whose own times are those of Python functions
in CPU time, with what it adds to each call. Both stand in milliseconds a step, beside the CPU time of
a block without a profiler.
"""

import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.family import HOSTS, Blocks, models
from benchmarks.measuring import Out, run
from benchmarks.results import RESULTS
from benchmarks.torchrl.speed import Speed, updates
from era_rl.runs.settings import Setting, SettingsError

ROWS = 15
TORCHRL = "TorchRL, "


@dataclass(frozen=True, kw_only=True)
class Profile(Blocks):
    """What is profiled, and with which sizes."""

    what: Annotated[
        tuple[str, ...],
        Setting("names of benchmarks.family's, compiled or not, or of torchrl.speed's"),
    ] = (
        "SACERA, compiled",
        "CrossQERA, compiled",
        "XQCERA, compiled",
        "PPOERA",
        "A2CERA",
        "A2CERA, compiled",
        "TorchRL, ERA",
        "TorchRL, stock",
    )
    steps: Annotated[int, Setting("steps off-policy, or updates", low=1)] = 100
    out: Out = RESULTS / "throughput" / "profiles" / "cpu-threads1.json"


def block(name: str, settings: Profile) -> tuple[Callable[[], Any], int]:
    """Return a call that trains for a block, and its number of steps."""
    if name.startswith(TORCHRL):
        calls = updates(Speed(steps=settings.steps, width=settings.width))
        if (key := (name.removeprefix(TORCHRL), "step")) in calls:
            return calls[key], settings.steps
    for family in HOSTS:
        built = models(family, settings, {}) if name.startswith(family) else {}
        if name in built:
            on_policy = hasattr(built[name], "rollout_buffer")
            steps = settings.rollout if on_policy else settings.steps
            return partial(built[name].learn, steps, reset_num_timesteps=False), steps
    raise SettingsError(
        f"what={name!r} must be one of {', '.join(HOSTS)}, with ', compiled' or without, their hosts, "
        "'TorchRL, ERA' or 'TorchRL, stock'"
    )


def operations(call: Callable[[], Any], steps: int) -> list[dict[str, Any]]:
    """Return torch's operations by the time in themselves."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    found = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    return [
        {
            "name": row.key,
            "calls": row.count / steps,
            "milliseconds": row.self_cpu_time_total / 1e3 / steps,
        }
        for row in found[:ROWS]
    ]


def functions(call: Callable[[], Any], steps: int) -> list[dict[str, Any]]:
    """Return Python's functions by the time in themselves."""
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(call)
    rows: Any = pstats.Stats(profiler)
    found = sorted(rows.stats.items(), key=lambda item: -item[1][2])
    return [
        {
            "name": f"{Path(file).stem}.{function}",
            "calls": calls / steps,
            "milliseconds": 1e3 * own / steps,
            "with_callees": 1e3 * whole / steps,
        }
        for (file, _, function), (_, calls, own, whole, _) in found[:ROWS]
    ]


def measure(settings: Profile) -> dict[str, Any]:
    """Return for each name the time of a step, its operations and its functions."""
    settings.take_cores()
    found = {}
    for name in settings.what:
        call, steps = block(name, settings)
        call()
        start = time.process_time()
        call()
        found[name] = {
            "milliseconds": 1e3 * (time.process_time() - start) / steps,
            "operations": operations(call, steps),
            "functions": functions(call, steps),
        }
    return {"torch_threads": torch.get_num_threads(), "profiles": found}


if __name__ == "__main__":
    sys.exit(run(Profile, measure))
