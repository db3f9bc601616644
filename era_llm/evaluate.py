"""pass@k and avg@k, and sampling a model to measure them."""

import asyncio
import inspect
from collections.abc import Collection, Iterator, Sequence
from math import comb
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerState

from era_llm.data import Reward

_RUNNER = asyncio.Runner()
"""One for all rewards that are coroutines: their clients keep to an event loop."""
_PLAIN_SAMPLING: dict[str, Any] = {
    "do_sample": True,
    **dict.fromkeys(("top_p", "typical_p", "repetition_penalty"), 1.0),
    **dict.fromkeys(("min_p", "epsilon_cutoff", "eta_cutoff"), 0.0),
    **dict.fromkeys(("top_k", "no_repeat_ngram_size"), 0),
}
"""From softmax(z / temperature) itself: what is not said here is the model's generation_config's."""


class Samples(NamedTuple):
    """A batch of sampled completions.

    Attributes:
        rows: Index of the prompt of each.
        prompt_ids: Prompts, padded on the left, (batch, prompt time).
        prompt_mask: 1 at their tokens.
        ids: Completions, padded on the right, (batch, time).
        mask: 1 at their tokens, the end token included.
    """

    rows: list[int]
    prompt_ids: Tensor
    prompt_mask: Tensor
    ids: Tensor
    mask: Tensor


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the chance that one of k samples is right, 1 - C(n - c, k) / C(n, k).

    Unbiased for k of n samples without replacement (Chen et al., arXiv 2107.03374).

    Args:
        samples: n, the samples drawn.
        right: c, those that were right.
        k: At most n.

    Raises:
        ValueError: If k lies outside [1, n] or c outside [0, n].
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k must lie in [1, {samples}], got {k}")
    if not 0 <= right <= samples:
        raise ValueError(f"right must lie in [0, {samples}], got {right}")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def summarise(right: list[int], samples: int, ks: Sequence[int]) -> dict[str, float]:
    """Return avg@n and pass@k, mean over prompts."""
    passed = {f"pass@{k}": fmean(pass_at_k(samples, count, k) for count in right) for k in ks}
    return {f"avg@{samples}": fmean(right) / samples, **passed}


def evaluate(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], rewards: Sequence[Reward],
    samples: int, ks: Sequence[int], weights: Sequence[float] | None = None, **sampling: Any,
) -> dict[str, float]:  # fmt: skip
    """Sample every prompt and return avg@samples and pass@k; a total reward above 0 counts as right.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        rows: Rows with "prompt" and the columns that the rewards take.
        rewards: Reward functions of TRL's form.
        samples: Samples of each prompt.
        ks: Values of k, each at most samples.
        weights: Weight of each reward; 1 if None.
        **sampling: Arguments of `sample`.

    Raises:
        ValueError: If there are no rows, or a k lies outside [1, samples].
    """
    if not rows:
        raise ValueError("rows must hold at least one prompt, got none")
    for k in ks:  # refused before the sampling, not after it
        pass_at_k(samples, 0, k)
    prompts = [row["prompt"] for row in rows]
    drawn = sample(model, tokenizer, prompts, samples, **sampling)
    totals = [total_reward(tokenizer, rows, batch, rewards, weights) for batch in drawn]
    right = (torch.cat(totals).view(len(rows), samples) > 0).sum(-1)
    return summarise(right.tolist(), samples, ks)


def total_reward(
    tokenizer: Any, rows: list[dict[str, Any]], batch: Samples, rewards: Sequence[Reward],
    weights: Sequence[float] | None = None,
) -> Tensor:  # fmt: skip
    """Return the weighted sum of the rewards of completions, (batch,), as TRL gives and adds them.

    A reward of None or NaN adds nothing; rewards may be coroutines.
    """
    texts = tokenizer.batch_decode(batch.ids, skip_special_tokens=True)
    given = [rows[index] for index in batch.rows]
    completions: list[Any] = texts  # of a data set that has conversations, all prompts are some
    if not isinstance(given[0]["prompt"], str):
        completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {name: [row[name] for row in given] for name in given[0] if name != "prompt"}
    ids = [row[kept.bool()].tolist() for row, kept in zip(batch.ids, batch.mask, strict=True)]
    columns |= {"prompts": [row["prompt"] for row in given], "completion_ids": ids}
    columns |= dict.fromkeys(("log_extra", "log_metric"), lambda *_, **__: None)
    columns |= {"completions": completions, "trainer_state": TrainerState()}
    scored = [torch.zeros(len(given)), *(_scores(reward, columns) for reward in rewards)]
    weighed = torch.stack(scored) * torch.tensor([1.0, *(weights or [1.0] * len(rewards))])[:, None]
    return weighed.nansum(0)


def _scores(reward: Reward, columns: dict[str, Any]) -> Tensor:
    """Return a reward of each completion, (batch,), NaN for None."""
    values, count = reward(**columns), len(columns["completions"])
    if inspect.iscoroutine(values):
        values = _RUNNER.run(values)
    if not isinstance(values, Collection) or len(values) != count:
        name = getattr(reward, "__name__", reward)
        raise ValueError(f"reward {name} must return {count} rewards, not {values!r:.60}")
    return torch.tensor([torch.nan if value is None else value for value in values]).float()


def prompt_tokens(tokenizer: Any, prompt: Any) -> Tensor:
    """Return the tokens of a text or conversation, (time,), as TRL's trainers make them.

    To a conversation none are added, since the chat template writes special tokens out.
    """
    is_text = isinstance(prompt, str)
    if not is_text:
        prompt = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    return torch.tensor(tokenizer(prompt, add_special_tokens=is_text)["input_ids"])


@torch.no_grad()
def sample(
    model: Any, tokenizer: Any, prompts: Sequence[Any], samples: int, max_new_tokens: int = 1024,
    temperature: float = 1.0, batch_size: int = 16,
) -> Iterator[Samples]:  # fmt: skip
    """Yield batches of completions, of as many prompts at once as fit.

    Each prompt, text or conversation, gets `samples` completions of at most max_new_tokens tokens,
    sampled from softmax(z / temperature), whatever the model's generation_config cuts off or penalises.
    """
    order = [index for index in range(len(prompts)) for _ in range(samples)]
    tokenized = [prompt_tokens(tokenizer, prompt) for prompt in prompts]
    ends = end_tokens(model, tokenizer)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        given = [tokenized[index] for index in rows]
        prompt_ids = pad_sequence(given, True, tokenizer.pad_token_id, "left").to(model.device)
        prompt_mask = pad_sequence([torch.ones_like(ids) for ids in given], True, 0, "left")
        prompt_mask = prompt_mask.to(model.device)
        tokens = model.eval().generate(
            input_ids=prompt_ids,
            attention_mask=prompt_mask,
            **_PLAIN_SAMPLING,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
        )
        ids = tokens[:, prompt_ids.size(1) :]
        yield Samples(rows, prompt_ids, prompt_mask, ids, until_end(ids, ends))


def until_end(ids: Tensor, ends: Sequence[int]) -> Tensor:
    """Return 1 at the tokens of completions up to the first end token, (batch, time)."""
    is_end = torch.isin(ids, ids.new_tensor(ends)).int()
    return (is_end.cumsum(-1) == is_end).int()


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a completion: the tokenizer's and those the model declares."""
    declared = model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return [token for token in {tokenizer.eos_token_id, *declared} if token is not None]
