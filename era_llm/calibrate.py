"""Thresholds for ERA from the response entropies of the initial model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import log
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import add_fused_lm_head

from era_llm.data import Reward
from era_llm.evaluate import Samples, sample, total_reward
from era_llm.functional import Tokens, top_entropy_mean

_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def calibrate(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], rewards: Sequence[Reward] = (),
    samples: int = 8, ratio: float = 0.2, tokens: Tokens = "top", temperature: float = 1.0,
    weights: Sequence[float] | None = None, **sampling: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measure H_resp of an initial model and suggest thresholds.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        rows: Rows with "prompt" and the columns that the rewards take.
        rewards: As in `evaluate`, to count what ERA would scale; without them every response counts
            as one of a positive advantage.
        samples: Responses to each prompt.
        ratio: era_top_ratio.
        tokens: era_tokens.
        temperature: Temperature of the training run; entropies are those under it.
        weights: Weight of each reward; 1 if None.
        **sampling: Further arguments of `era_llm.evaluate.sample`.

    Returns:
        What `suggest` returns, and the mean "reward" where there are rewards.

    Raises:
        ValueError: If there is nothing to sample.
    """
    if not rows or samples < 1:
        raise ValueError(
            f"rows and samples must be at least 1, got {len(rows)} rows, samples={samples}"
        )
    prompts = [row["prompt"] for row in rows]
    drawn = sample(model, tokenizer, prompts, samples, temperature=temperature, **sampling)
    found, totals = [], []
    with scoring(model, temperature):
        for batch in drawn:
            found.append(response_entropies(model, batch, ratio, tokens).cpu())
            totals.append(total_reward(tokenizer, rows, batch, rewards, weights))
    total = torch.cat(totals).view(len(rows), samples)
    positive = (total > total.mean(-1, keepdim=True)) if rewards else torch.ones_like(total).bool()
    highest = log(model.get_output_embeddings().weight.size(0))
    result = suggest(torch.cat(found), positive.flatten(), highest)
    return {**result, "reward": round(float(total.mean()), 4)} if rewards else result


def suggest(h_resp: Tensor, positive: Tensor, highest: float) -> dict[str, Any]:
    """Return quantiles of H_resp, thresholds and how many responses those would scale.

    A heuristic: the low threshold is the 10% quantile, so that a tenth of the initial responses, and
    more as entropy falls, are sharpened; the high one is twice the 99% quantile, which stops only a
    blow-up that the initial model is far from, but at most half-way from there to what can be reached.

    Returns:
        "responses", "positive", "sharpened" and "flattened" (numbers of responses), "quantiles",
        "era_entropy_low" and "era_entropy_high" (nats).
    """
    known = ~h_resp.isnan()
    values, positive = h_resp[known].double(), positive[known]
    quantiles = values.quantile(values.new_tensor(_QUANTILES)).tolist()
    found = dict(zip(_QUANTILES, quantiles, strict=True))
    low, high = found[0.1], min(2 * found[0.99], (found[0.99] + highest) / 2)
    return {
        "responses": len(values),
        "positive": int(positive.sum()),
        "sharpened": int((positive & (values < low)).sum()),
        "flattened": int((positive & (values > high)).sum()),
        "quantiles": {str(level): round(value, 4) for level, value in found.items()},
        "era_entropy_low": round(low, 4),
        "era_entropy_high": round(high, 4),
    }


@contextmanager
def scoring(model: Any, temperature: float) -> Iterator[None]:
    """Let a model score tokens by TRL's fused head, which never holds the logits."""
    own = vars(model).get("forward")
    add_fused_lm_head(model, temperature, outputs=("entropy",))
    try:
        yield
    finally:
        del model.forward
        if own is not None:
            model.forward = own


@torch.no_grad()
def response_entropies(model: Any, batch: Samples, ratio: float, tokens: Tokens) -> Tensor:
    """Return H_resp of sampled completions, (batch,)."""
    ids = torch.cat([batch.prompt_ids, batch.ids], 1)
    seen = torch.cat([batch.prompt_mask, batch.mask], 1)
    labels = torch.cat([torch.full_like(batch.prompt_ids, -100), batch.ids], 1)
    labels = labels.masked_fill(seen == 0, -100)
    scored = model(input_ids=ids, attention_mask=seen, labels=labels, fused_lm_head=True)
    return top_entropy_mean(scored.entropy[:, -batch.ids.size(1) :], batch.mask, ratio, tokens)
