"""Time and peak memory of the loss step at a vocabulary of 32k, forward and backward of the head.

    python -m benchmarks.llm.loss_step

Four ways to get the log-probabilities of tokens from hidden states: TRL's fused head; the same with
ERA, half of the responses scaled; full logits; and full logits with the scaled rows written into a
copy, the usual way to modify logits. There are 1024 tokens. Time is in CPU seconds of one thread, in
which other processes do not count. The ways take turns, and the ratios to stock are taken within a
turn, so that drift of the machine falls on all alike. Memory is the peak of a fresh process above
its level before the step (Linux).
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import trl.trainer.utils as trl_utils
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from era_llm.functional import selected_logps
from era_llm.fused_head import ERAHead
from era_llm.loss_call import LossCall
from era_llm.options import ERAOptions
from era_llm.toy_runs import versions
from era_rl.runs.folder import write_json

RESULTS = Path("benchmarks/results/llm/loss_step.json")
BATCH, TIME, HIDDEN, VOCABULARY = 8, 128, 512, 32_000
Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def stock(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """TRL's fused head."""
    return ChunkedLogProbFunction.apply(*_head_arguments(hidden, weight, targets))[0]


def era(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """TRL's fused head with ERA."""
    mask = torch.ones(targets.shape, dtype=torch.int)
    call = LossCall(ERAOptions(), True, mask, mask, torch.ones(len(targets)), scale=scale)
    head = ERAHead(call, TIME + 1, entropy_gradient=False)
    logp = head.apply(*_head_arguments(hidden, weight, targets))[0]
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
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
    before = _peak_mib()
    step(way)
    return _peak_mib() - before


def _peak_mib() -> float:
    """Return the peak memory of this process; getrusage would include that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    """Measure, and write the figures and their settings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-of", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        sys.stdout.write(str(measure_memory(options.memory_of)))
        return
    memory = {
        "logits_mib": BATCH * TIME * VOCABULARY * 4 / 2**20,
        "peak_mib": {way: round(peak(way)) for way in WAYS},
    }
    write_json(options.output, {**timings(options.repeats), **memory})
    sys.stdout.write(options.output.read_text())


def timings(repeats: int) -> dict[str, Any]:
    """Time every way in turn and return the figures and their settings.

    Args:
        repeats: Steps of each way after one to warm up.
    """
    torch.set_num_threads(1)
    for way in WAYS:
        step(way)
    turns = [{way: step(way) for way in WAYS} for _ in range(repeats)]
    ratios = {way: [turn[way] / turn["stock"] for turn in turns] for way in WAYS}
    return {
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "machine": {"processor": platform.machine(), "threads": 1, "dtype": "float32"},
        "versions": versions(),
        "shape": {"tokens": BATCH * TIME, "hidden": HIDDEN, "vocabulary": VOCABULARY},
        "cpu_seconds": {way: [round(turn[way], 3) for turn in turns] for way in WAYS},
        "ratio_to_stock": {way: [round(r, 3) for r in found] for way, found in ratios.items()},
        "median_ratio_to_stock": {way: round(median(r), 3) for way, r in ratios.items()},
    }


def _head_arguments(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Any, ...]:
    """Return what TRL's fused forward gives its kernel."""
    chunk = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    rows, labels = hidden.reshape(-1, HIDDEN), targets.flatten()
    return rows, weight, None, labels, 1.0, chunk, None, 1.0, ("entropy",)


if __name__ == "__main__":
    main()
