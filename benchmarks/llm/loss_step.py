"""Time and peak memory of the loss step at a vocabulary of 32k, and of a whole training step.

    python -m benchmarks.llm.loss_step

The head, 1024 tokens, forward and backward: TRL's fused head; the same with ERA, half of the responses
scaled, a quarter up and a quarter down, or all of them up ("sharpened"), as long as entropies are not
far too high, or none ("unscaled": TRL's values to the last bit, its tiles folded in blocks that fit a
cache); both with an entropy bonus; full logits; and full logits with the scaled rows written into
a copy, the usual way to modify logits. The whole step: loss and backward of TRL's trainer, on a model
of eight layers, without and with ERA.

Time is in CPU seconds of one thread, in which other processes do not count. The ways take turns, and
ratios are taken within a turn, so that drift of the machine falls on all alike. Memory is the peak of a
fresh process above its level before the step (Linux).
"""

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import torch
import trl.trainer.utils as trl_utils
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from benchmarks.llm.toy import toy_prompts, toy_reward, toy_tokenizer
from benchmarks.measuring import Measurement, Out, run
from benchmarks.results import RESULTS
from era_llm.functional import selected_logps
from era_llm.fused_head import ScaledHead
from era_llm.loss_call import LossCall
from era_llm.options import ERAOptions
from era_llm.trl import GRPOERAConfig, GRPOERATrainer
from era_rl.runs.record import peak_memory_mib
from era_rl.runs.settings import Setting

BATCH, TIME, HIDDEN, VOCABULARY, LAYERS = 8, 128, 512, 32_000, 8


def stock(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, bonus: float = 0
) -> Tensor:
    """TRL's fused head."""
    logp, entropy, *_ = ChunkedLogProbFunction.apply(*_head_arguments(hidden, weight, targets))
    return logp.sum() + bonus * entropy.sum() if bonus else logp.sum()


def era(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, bonus: float = 0) -> Tensor:
    """TRL's fused head with ERA."""
    mask = torch.ones(targets.shape, dtype=torch.int)
    inputs = {"completion_mask": mask, "advantages": torch.ones(len(targets)), "era_scale": scale}
    head = ScaledHead(LossCall(ERAOptions(), True, inputs, 0.45), TIME + 1)
    logp, entropy, *_ = head.apply(*_head_arguments(hidden, weight, targets))
    assert logp is not None
    assert entropy is not None
    return logp.sum() + bonus * entropy.sum() if bonus else logp.sum()


def sharpened(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """TRL's fused head with ERA, half of the responses sharpened and none flattened."""
    return era(hidden, weight, targets, torch.where(scale == 1, 1.0, 2.0))


def unscaled(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """TRL's fused head with ERA, no response scaled."""
    return era(hidden, weight, targets, torch.ones_like(scale))


def full(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Full logits, unmodified."""
    return selected_logps(hidden @ weight.T, targets).sum()


def copied(hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
    """Full logits, the scaled rows written into a copy."""
    logits = hidden @ weight.T
    modified = logits.clone()
    rows = scale[:, 0] != 1
    modified[rows] = logits[rows] * scale[rows].unsqueeze(-1)
    return selected_logps(modified, targets).sum()


HEADS = {
    "stock": stock,
    "era": era,
    "era_sharpened": sharpened,
    "era_unscaled": unscaled,
    "stock_bonus": partial(stock, bonus=0.01),
    "era_bonus": partial(era, bonus=0.01),
    "full_logits": full,
    "logits_copy": copied,
}
STEPS = {"stock_whole_step": GRPOTrainer, "era_whole_step": GRPOERATrainer}
WAYS = (*HEADS, *STEPS)
BASES = {"era_bonus": "stock_bonus", "era_whole_step": "stock_whole_step"}
"""What a way is compared with, where it is not "stock"."""


def seconds(way: str) -> float:
    """Run one forward and backward of one of WAYS and return its CPU seconds."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(3, VOCABULARY, (BATCH, TIME), generator=generator)
    scale = torch.tensor([2.0, 1.0, 0.5, 1.0] * (BATCH // 4))[:, None].expand(BATCH, TIME)
    if way in STEPS:
        return _whole_step(way, targets, scale)
    hidden = torch.randn(BATCH, TIME, HIDDEN, generator=generator, requires_grad=True)
    weight = (torch.randn(VOCABULARY, HIDDEN, generator=generator) / 20).requires_grad_()
    started = time.process_time()
    HEADS[way](hidden, weight, targets, scale).backward()
    return time.process_time() - started


def _whole_step(way: str, targets: Tensor, scale: Tensor) -> float:
    """Run the loss of a trainer and its backward, the scales given."""
    trainer, ones = _trainer(way), torch.ones(BATCH, TIME, dtype=torch.int)
    inputs = {
        "prompt_ids": targets[:, :1],
        "prompt_mask": ones[:, :1],
        "completion_ids": targets,
        "completion_mask": ones,
        "advantages": torch.tensor([1.0, -1.0] * (BATCH // 2)),
        "num_items_in_batch": ones.sum(),
        "era_scale": scale,
    }
    trainer.model.zero_grad()
    started = time.process_time()
    trainer._compute_loss(trainer.model, inputs).backward()
    return time.process_time() - started


@cache
def _trainer(way: str) -> Any:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2 * TIME,
    )
    with TemporaryDirectory() as folder:
        settings: Any = {"output_dir": folder, "report_to": "none", "bf16": False, "use_cpu": True}
        kind = STEPS[way]
        args = (GRPOERAConfig if kind is GRPOERATrainer else GRPOConfig)(**settings)
        built = kind(
            Qwen2ForCausalLM(config),
            toy_reward,
            args,
            train_dataset=toy_prompts(),
            processing_class=toy_tokenizer(),
        )
    built.current_gradient_accumulation_steps = 1
    built.model.train()
    return built


def peak(way: str) -> float:
    """Return the MiB by which a step of one of HEADS raises the peak memory of a fresh process."""
    code = f"from benchmarks.llm.loss_step import raised_memory; print(raised_memory({way!r}))"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def raised_memory(way: str) -> float:
    """Run one step in this process and return the rise of its peak memory in MiB."""
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
    before = peak_memory_mib() or 0.0
    seconds(way)
    return (peak_memory_mib() or 0.0) - before


@dataclass(frozen=True, kw_only=True)
class LossStep(Measurement):
    """How often it is measured."""

    repeats: Annotated[int, Setting("steps of each way, after one to warm up", low=1)] = 7
    out: Out = RESULTS / "llm" / "loss_step.json"


def measure(settings: LossStep) -> dict[str, Any]:
    """Return the times of every way, in turn, their ratios, and the heads' memory."""
    torch.set_num_threads(1)
    for way in WAYS:
        seconds(way)
    turns = [{way: seconds(way) for way in WAYS} for _ in range(settings.repeats)]
    ratios = {way: [turn[way] / turn[BASES.get(way, "stock")] for turn in turns] for way in WAYS}
    sizes = {"tokens": BATCH * TIME, "hidden": HIDDEN, "vocabulary": VOCABULARY, "layers": LAYERS}
    return {
        "shape": sizes,
        "cpu_seconds": {way: [round(turn[way], 3) for turn in turns] for way in WAYS},
        "ratio_to_stock": {way: [round(r, 3) for r in found] for way, found in ratios.items()},
        "median_ratio_to_stock": {way: round(median(r), 3) for way, r in ratios.items()},
        "logits_mib": BATCH * TIME * VOCABULARY * 4 / 2**20,
        "peak_mib": {way: round(peak(way)) for way in HEADS},
    }


def _head_arguments(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Any, ...]:
    """Return what TRL's fused forward gives its kernel."""
    chunk = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    rows, labels = hidden.reshape(-1, HIDDEN), targets.flatten()
    return rows, weight, None, labels, 1.0, chunk, None, 1.0, ("entropy",)


if __name__ == "__main__":
    sys.exit(run(LossStep, measure))
