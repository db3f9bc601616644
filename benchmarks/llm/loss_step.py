"""Time and peak memory of the loss step at a vocabulary of 32k, forward and backward of the head.

    python -m benchmarks.llm.loss_step

Four ways to get the log-probabilities of B x T = 1024 tokens from hidden states: TRL's fused head;
the same with ERA, half of the responses scaled; full logits; and full logits with the scaled rows
written into a copy, the usual way to modify logits. Repetitions are interleaved, so that drift of
the machine falls on all alike, and timed in CPU seconds of one thread, so that other processes do
not count; memory is the peak of the process above its level before the step,
each way in a process of its own.
"""

import argparse
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from era_llm.functional import selected_logps
from era_llm.fused_head import ERAHead
from era_llm.loss_call import LossCall
from era_llm.options import ERAOptions
from era_llm.toy_runs import read, versions, write_json

RESULTS = Path("benchmarks/results/llm/loss_step.json")
BATCH, TIME, HIDDEN, VOCABULARY = 8, 128, 512, 32_000
CHUNK = 32_768
Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def stock(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """TRL's fused head."""
    rows = hidden.reshape(-1, HIDDEN)
    return ChunkedLogProbFunction.apply(
        rows, weight, None, targets.flatten(), 1.0, CHUNK, None, 1.0, ("entropy",)
    )[0]


def era(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """TRL's fused head with ERA."""
    mask = torch.ones(BATCH, TIME, dtype=torch.int)
    call = LossCall(ERAOptions(), True, mask, mask, torch.ones(BATCH), scale=scale)
    head = ERAHead(call, TIME + 1, entropy_gradient=False)
    logp = head.apply(
        hidden.reshape(-1, HIDDEN), weight, None, targets.flatten(), 1.0, CHUNK, None, 1.0,
        ("entropy",),
    )[0]  # fmt: skip
    assert logp is not None
    return logp


def full(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Full logits, unmodified."""
    return selected_logps(hidden @ weight.T, targets)


def copied(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Full logits, the scaled rows written into a copy."""
    logits = hidden @ weight.T
    modified = logits.clone()
    rows = scale[:, 0] != 1
    modified[rows] = logits[rows] * scale[rows].unsqueeze(-1)
    return selected_logps(modified, targets)


WAYS: dict[str, Step] = {"stock": stock, "era": era, "full_logits": full, "logits_copy": copied}


def step(way: str) -> float:
    """Run one forward and backward and return its CPU seconds.

    Args:
        way: A key of WAYS.
    """
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(BATCH, TIME, HIDDEN, generator=generator, requires_grad=True)
    weight = (torch.randn(VOCABULARY, HIDDEN, generator=generator) / 20).requires_grad_()
    targets = torch.randint(VOCABULARY, (BATCH, TIME), generator=generator)
    scale = torch.tensor([2.0, 1.0, 0.5, 1.0] * (BATCH // 4))[:, None].expand(BATCH, TIME)
    started = time.process_time()
    WAYS[way](hidden, weight, targets, scale).sum().backward()
    return time.process_time() - started


def peak(way: str) -> float:
    """Return the MiB by which one step raises the peak memory of a fresh process.

    Args:
        way: A key of WAYS.
    """
    command = [sys.executable, "-m", "benchmarks.llm.loss_step", "--memory-of", way]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(way: str) -> float:
    """Run one step in this process and return the rise of its peak memory in MiB."""
    torch.set_num_threads(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(way)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Measure, and write the figures and their settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory-of", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        sys.stdout.write(str(measure_memory(options.memory_of)))
        return
    result = read(options.output) if options.output.exists() else timings(options.repeats)
    write_json(options.output, result)
    for way in WAYS:
        if way not in result["peak_mib"]:
            result["peak_mib"][way] = round(peak(way))
            write_json(options.output, result)
    sys.stdout.write(options.output.read_text())


def timings(repeats: int) -> dict[str, Any]:
    """Time every way in turn and return the figures and their settings.

    Args:
        repeats: Steps of each way after one to warm up.
    """
    torch.set_num_threads(1)
    for way in WAYS:
        step(way)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            seconds[way].append(round(step(way), 3))
    shape = {"batch": BATCH, "time": TIME, "hidden": HIDDEN, "vocabulary": VOCABULARY}
    return {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "machine": {"processor": platform.machine(), "threads": 1, "dtype": "float32"},
        "versions": versions(),
        "shape": shape,
        "logits_mib": BATCH * TIME * VOCABULARY * 4 / 2**20,
        "cpu_seconds": seconds,
        "median_cpu_seconds": {way: median(found) for way, found in seconds.items()},
        "peak_mib": {},
    }


if __name__ == "__main__":
    main()
