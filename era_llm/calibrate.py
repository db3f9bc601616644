"""Thresholds for ERA from the response entropies of the initial model."""

from typing import Any

import torch
from torch import Tensor

from era_llm.evaluate import end_tokens, sample
from era_llm.functional import Tokens, token_entropies, top_entropy_mean

_QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def calibrate(
    model: Any, tokenizer: Any, prompts: list[str], samples: int = 8, ratio: float = 0.2,
    tokens: Tokens = "top", temperature: float = 1.0, **sampling: Any,
) -> dict[str, Any]:  # fmt: skip
    """Measure H_resp of an initial model and suggest thresholds.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompts: Texts.
        samples: Responses to each prompt.
        ratio: era_top_ratio.
        tokens: era_tokens.
        temperature: Temperature of the training run; entropies are those under it.
        **sampling: Further arguments of `era_llm.evaluate.sample`.

    Returns:
        "responses", "quantiles" of H_resp in nats, and the suggested "era_entropy_low" and
        "era_entropy_high".

    Raises:
        ValueError: If there is nothing to sample.
    """
    if not prompts or samples < 1:
        raise ValueError(
            f"prompts and samples must be at least 1, got {len(prompts)} prompts, samples={samples}"
        )
    values = torch.cat(
        [
            response_entropies(model, ids, length, tokenizer, ratio, tokens, temperature)
            for prompt in prompts
            for ids, length in sample(
                model, tokenizer, prompt, samples, temperature=temperature, **sampling
            )
        ]
    )
    return {"responses": len(values), **suggest(values)}


def suggest(h_resp: Tensor) -> dict[str, Any]:
    """Return quantiles of H_resp and thresholds: the 10% quantile and twice the 99% quantile.

    A heuristic. At the low one a tenth of the initial responses, and more as entropy falls, are
    sharpened; the high one stops only a blow-up that the initial model is far from.

    Args:
        h_resp: Response entropies in nats, (responses,).
    """
    values = h_resp.cpu().double()
    levels = values.new_tensor(_QUANTILES)
    found = dict(zip(_QUANTILES, values.quantile(levels).tolist(), strict=True))
    return {
        "quantiles": {str(level): round(value, 4) for level, value in found.items()},
        "era_entropy_low": round(found[0.1], 4),
        "era_entropy_high": round(2 * found[0.99], 4),
    }


@torch.no_grad()
def response_entropies(
    model: Any, ids: Tensor, prompt: int, tokenizer: Any, ratio: float, tokens: Tokens,
    temperature: float,
) -> Tensor:  # fmt: skip
    """Return H_resp of sampled sequences, (sequences,).

    Args:
        model: A causal language model.
        ids: Token ids, (sequences, time), padded on the right.
        prompt: Number of prompt tokens.
        tokenizer: Its tokenizer, for the end token; those of the model's generation_config end too.
        ratio: Share of the tokens that count.
        tokens: Which of them, see `era_llm.functional.select_tokens`.
        temperature: Temperature of the distribution.
    """
    completion = ids[:, prompt:]
    is_end = torch.isin(completion, completion.new_tensor(end_tokens(model, tokenizer)))
    ended = is_end.cumsum(-1)
    mask = (ended == 0) | ((ended == 1) & is_end)
    logits = model(input_ids=ids).logits[:, prompt - 1 : -1]
    entropies = token_entropies(logits.float() / temperature)
    return top_entropy_mean(entropies, mask, ratio, tokens)
