"""Tiny trainers, a hand-made batch and the references the trainers are compared with."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl import GRPOTrainer, RLOOTrainer

from benchmarks.llm.toy import toy_model, toy_prompts, toy_reward, toy_tokenizer
from era_llm.functional import era_logps, selected_logps, token_entropies, top_entropy_mean

PROMPT, TIME, RESPONSES = 3, 10, 8
# no response is scaled
NEVER = {"era_entropy_low": -1.0, "era_entropy_high": 99.0}


def options(output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Return arguments of a small offline configuration."""
    return {
        "output_dir": str(output_dir),
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "learning_rate": 1e-3,
        "beta": 0.0,
        "per_device_train_batch_size": RESPONSES,
        "num_generations": 4,
        "max_completion_length": 4,
        **changes,
    }


def sharp_model(seed: int = 0) -> Any:
    """Return a toy model whose token entropies differ."""
    model = toy_model(seed)
    model.model.norm.weight.data.mul_(8)
    return model


def trainer(trainer_class: Any, args: Any, model: Any = None, **kwargs: Any) -> Any:
    """Return a trainer on the toy prompts, ready for `_compute_loss`."""
    built = trainer_class(
        sharp_model() if model is None else copy.deepcopy(model),
        toy_reward,
        args=args,
        train_dataset=toy_prompts(),
        processing_class=toy_tokenizer(),
        **kwargs,
    )
    built.current_gradient_accumulation_steps = 1
    built.model.train()
    return built


def batch(seed: int = 0) -> dict[str, Tensor]:
    """Return responses of several lengths, one of them empty, with advantages of both signs."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([10, 7, 10, 4, 10, 0, 9, 10])
    completion_mask = (torch.arange(TIME) < lengths[:, None]).int()
    prompt_mask = torch.ones(RESPONSES, PROMPT, dtype=torch.int)
    prompt_mask[::3, 0] = 0
    return {
        "prompt_ids": torch.randint(2, 13, (RESPONSES, PROMPT), generator=generator),
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(2, 13, (RESPONSES, TIME), generator=generator),
        "completion_mask": completion_mask,
        "advantages": torch.tensor([0.5, 0.25, -0.35, 0.75, 0.4, 0.5, -0.55, 0.15]),
        "num_items_in_batch": completion_mask.sum(),
    }


def three_way_thresholds(model: Any, inputs: dict[str, Tensor]) -> dict[str, float]:
    """Return thresholds that sharpen some responses, flatten some and leave some."""
    with torch.no_grad():
        entropies = token_entropies(completion_logits(model, inputs))
    h_resp = top_entropy_mean(entropies, inputs["completion_mask"])
    known = h_resp[(inputs["advantages"] > 0) & ~h_resp.isnan()].sort().values
    return {
        "era_entropy_low": float(known[:2].mean()),
        "era_entropy_high": float(known[-2:].mean()),
    }


def completion_logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the logits that score the completion tokens, from the model's plain forward."""
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    return model(input_ids=ids, attention_mask=mask).logits[:, -TIME - 1 : -1]


class _FullLogits:
    """Feeds TRL's own loss with log-probabilities from full logits."""

    scale: Tensor

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor, None]:
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
        logits = logits[:, -logits_to_keep - 1 : -1] / self.temperature
        targets = input_ids[:, -logits_to_keep:]
        return self.logps(logits, targets), token_entropies(logits), None

    def logps(self, logits: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError


def paper_form(
    logits: Tensor, targets: Tensor, advantages: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the paper's own form: log softmax(s z)[y] and the advantages A / s, (responses, time)."""
    s = scale if scale.dim() > 1 else scale.unsqueeze(-1)
    return selected_logps(s.unsqueeze(-1) * logits, targets), advantages.unsqueeze(-1) / s


class PaperForm(_FullLogits):
    """log softmax(s z); the caller passes advantages A / s."""

    def logps(self, logits: Tensor, targets: Tensor) -> Tensor:
        return paper_form(logits, targets, torch.zeros(len(targets)), self.scale)[0]


class FunctionalForm(_FullLogits):
    """The straight-through form on full logits."""

    def logps(self, logits: Tensor, targets: Tensor) -> Tensor:
        return era_logps(logits, targets, self.scale)


class PaperGRPO(PaperForm, GRPOTrainer):
    pass


class PaperRLOO(PaperForm, RLOOTrainer):
    pass


class FunctionalGRPO(FunctionalForm, GRPOTrainer):
    pass


def gradients(built: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the loss's gradients by parameter name."""
    built.model.zero_grad()
    built._compute_loss(built.model, inputs).backward()
    return {n: p.grad.clone() for n, p in built.model.named_parameters() if p.grad is not None}


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Return the largest difference between two sets of gradients of the same names.

    It is a share of the largest gradient where that is above 1, as rounding is.
    """
    assert left.keys() == right.keys()
    largest = max(float(gradient.abs().max()) for gradient in left.values())
    assert largest > 1e-3
    return max(float((left[name] - right[name]).abs().max()) for name in left) / max(1.0, largest)


def papers_gradients(
    paper: Any, inputs: dict[str, Tensor], scale: Tensor, advantage_scale: bool = True
) -> dict[str, Tensor]:
    """Return the gradients of a loss in the paper's form: log softmax(s z) and A / s.

    Args:
        paper: A trainer with `PaperForm`.
        inputs: The responses, without old log-probabilities, which are then those of s z.
        scale: s of each token, (responses, time).
        advantage_scale: False for A in the place of A / s, hence s times the gradient.
    """
    paper.scale = scale
    if not advantage_scale:
        return gradients(paper, inputs)
    by_response = bool((scale == scale[:, :1]).all())
    s = scale[:, 0] if by_response else scale
    advantages = inputs["advantages"] if by_response else inputs["advantages"].unsqueeze(-1)
    return gradients(paper, {**inputs, "advantages": advantages / s})


def difference_from_paper(era: Any, paper: Any) -> float:
    """Return the largest difference of an ERA trainer's gradients from the paper's form.

    Asserts that the responses are scaled both ways, and some of them not at all.
    """
    inputs = batch()
    found = gradients(era, inputs)
    scale = inputs["era_scale"]
    assert (scale > 1).any()
    assert (scale < 1).any()
    assert (scale == 1).any()
    return largest_difference(
        found, papers_gradients(paper, batch(), scale, era.args.era_advantage_scale)
    )
