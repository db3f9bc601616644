"""Train on completions that depend on the prompt alone, so that any split of the work agrees.

Run by python, or by accelerate with two processes, as two_process_run.py OUTPUT BATCH; writes the
logs and the final weights of the main process to OUTPUT.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from llm_helpers import options, trainer

from benchmarks.llm.toy import pretrained_toy, toy_reward
from era_llm.trl import GRPOERAConfig, GRPOERATrainer

GENERATIONS, PROMPTS = 4, 2


class FixedCompletions(GRPOERATrainer):
    """The i-th sample of a prompt is the same digits in every run."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        local = len(prompt_ids)
        first = self.accelerator.process_index * local
        completions = []
        for index, prompt in enumerate(prompt_ids):
            draw = torch.Generator().manual_seed(sum(prompt) * 31 + (first + index) % GENERATIONS)
            completions.append(torch.randint(3, 13, (4,), generator=draw).tolist())
        return completions, None


def some_reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Reward small first digits, so that every group has a spread."""
    right = toy_reward(completions, answer)
    return [float(int(text[0]) < 5) + r for text, r in zip(completions, right, strict=True)]


def main(output: Path, batch_size: int) -> None:
    args = GRPOERAConfig(
        **options(
            output.parent / "run",
            max_steps=3,
            per_device_train_batch_size=batch_size,
            num_generations=GENERATIONS,
            shuffle_dataset=False,
        ),
        era_entropy_low=2.2,
        era_entropy_high=2.29,
    )
    built = trainer(FixedCompletions, args, pretrained_toy(0, steps=60))
    built.reward_funcs = [some_reward]
    built.train()
    if built.accelerator.is_main_process:
        model = built.accelerator.unwrap_model(built.model)
        weights = {name: value.tolist() for name, value in model.named_parameters()}
        world = built.accelerator.num_processes
        log = {"world": world, "logs": built.state.log_history, "weights": weights}
        output.write_text(json.dumps(log))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
