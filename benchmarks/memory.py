"""Peak memory of a training with a full replay buffer of a million steps, beside SB3's SAC.

Each trains in a process of its own: its buffer is filled in one piece, so that every page of it is in
memory, then it acts and updates for some steps. The peak is the process's largest resident set.
"""

import multiprocessing
import resource
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from stable_baselines3 import SAC

from benchmarks.measuring import Measurement, Out, run
from benchmarks.results import RESULTS
from era_rl.runs.settings import Setting
from era_rl.sb3 import SACERA, DeviceReplayBuffer

WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SAC": (SAC, {}),
    "SACERA": (SACERA, {"compile": False}),
    "SACERA, compiled": (SACERA, {"compile": True}),
    "SACERA, DeviceReplayBuffer": (
        SACERA,
        {"compile": False, "replay_buffer_class": DeviceReplayBuffer},
    ),
    "SACERA, compiled, DeviceReplayBuffer": (
        SACERA,
        {"compile": True, "replay_buffer_class": DeviceReplayBuffer},
    ),
}


@dataclass(frozen=True, kw_only=True)
class Memory(Measurement):
    """What is measured, and with which sizes."""

    env: Annotated[str, Setting("environment")] = "Ant-v5"
    buffer_size: Annotated[int, Setting("transitions", low=1)] = 1_000_000
    steps: Annotated[int, Setting("steps of training with the full buffer", low=1)] = 200
    out: Out = RESULTS / "throughput" / "memory" / "cpu.json"


def peak(way: str, settings: Memory) -> tuple[int, int]:
    """Return the bytes of a full buffer, and the peak of this process after a training with it."""
    torch.set_num_threads(1)
    algorithm, given = WAYS[way]
    model = algorithm(
        "MlpPolicy",
        settings.env,
        buffer_size=settings.buffer_size,
        learning_starts=0,
        device="cpu",
        seed=0,
        **given,
    )
    fill(model.replay_buffer)
    model.learn(settings.steps)
    return written(model.replay_buffer), 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def fill(buffer: Any) -> None:
    """Fill a buffer with transitions of zeros, written to its memory."""
    for array in stored(buffer):
        array[:] = 0
    buffer.full = True


def stored(buffer: Any) -> list[Any]:
    """Return the arrays or tensors that have a buffer's transitions."""
    parts = vars(buffer).get("storage", vars(buffer)).values()
    return [part for part in parts if getattr(part, "shape", ())[:1] == (buffer.buffer_size,)]


def written(buffer: Any) -> int:
    """Return how many bytes a buffer's transitions take."""
    return sum(part.nbytes for part in stored(buffer))


def measure(settings: Memory) -> dict[str, Any]:
    """Return the peak of each way, in bytes, and its ratio to SAC's."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for way in WAYS:
        with context.Pool(1) as pool:  # a process's peak does not fall
            found[way] = pool.apply(peak, (way, settings))
    of_sac = found["SAC"][1]
    return {
        way: {"buffer_bytes": buffer, "peak_bytes": most, "peak_over_sac": most / of_sac}
        for way, (buffer, most) in found.items()
    }


if __name__ == "__main__":
    sys.exit(run(Memory, measure))
