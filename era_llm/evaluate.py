"""pass@k and avg@k, and sampling a model to measure them."""

from collections.abc import Callable, Iterator
from math import comb
from typing import Any

import torch

Reward = Callable[..., list[float]]

_PLAIN_SAMPLING = {
    "do_sample": True,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
}
"""From softmax(z / temperature) itself: what is not said here is the model's generation_config's."""


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


def summarise(right: list[int], samples: int, ks: list[int]) -> dict[str, float]:
    """Return avg@n and pass@k, mean over prompts.

    Args:
        right: Right samples of each prompt.
        samples: Samples of each prompt.
        ks: Values of k.
    """
    scores = {f"avg@{samples}": sum(right) / (samples * len(right))}
    for k in ks:
        scores[f"pass@{k}"] = sum(pass_at_k(samples, count, k) for count in right) / len(right)
    return scores


def evaluate(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], reward: Reward, samples: int,
    ks: list[int], **sampling: Any,
) -> dict[str, float]:  # fmt: skip
    """Sample every prompt and return avg@samples and pass@k; a reward above 0 counts as right.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        rows: Rows with "prompt" and "answer".
        reward: A reward function of TRL's form.
        samples: Samples of each prompt.
        ks: Values of k, each at most samples.
        **sampling: Arguments of `sample`.

    Raises:
        ValueError: If there are no rows, or a k lies outside [1, samples].
    """
    if not rows:
        raise ValueError("rows must hold at least one prompt, got none")
    for k in ks:  # refused before the sampling, not after it
        pass_at_k(samples, 0, k)
    right = []
    for row in rows:
        batches = sample(model, tokenizer, row["prompt"], samples, **sampling)
        texts = [text for tokens, prompt in batches for text in _decode(tokenizer, tokens, prompt)]
        rewards = reward(texts, answer=[row["answer"]] * samples)
        right.append(sum(value > 0 for value in rewards))
    return summarise(right, samples, ks)


def prompt_text(tokenizer: Any, prompt: Any) -> str:
    """Return a prompt as text for `sample`; a conversation goes through the chat template.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Text, or a list of messages.
    """
    if isinstance(prompt, str):
        return prompt
    text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    # Tokenizing adds the start token that some templates write out too.
    return text.removeprefix(tokenizer.bos_token or "")


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompt: str,
    samples: int,
    max_new_tokens: int = 1024,
    temperature: float = 1.0,
    batch_size: int = 16,
) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield batches of sampled sequences of one prompt and the length of the prompt.

    Sampled from softmax(z / temperature), whatever the model's generation_config cuts off or penalises.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        prompt: Text.
        samples: Number of sequences in all.
        max_new_tokens: Most tokens of a completion.
        temperature: Sampling temperature.
        batch_size: Most sequences at once.

    Yields:
        Token ids, (batch, time), and the number of prompt tokens.
    """
    inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
    for start in range(0, samples, batch_size):
        tokens = model.eval().generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            **_PLAIN_SAMPLING,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            num_return_sequences=min(batch_size, samples - start),
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=end_tokens(model, tokenizer),
        )
        yield tokens, inputs["input_ids"].size(1)


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Return the tokens that end a completion: the tokenizer's and those the model declares.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
    """
    declared = model.generation_config.eos_token_id
    declared = declared if isinstance(declared, list) else [declared]
    return [token for token in {tokenizer.eos_token_id, *declared} if token is not None]


def _decode(tokenizer: Any, tokens: torch.Tensor, prompt: int) -> list[str]:
    return tokenizer.batch_decode(tokens[:, prompt:], skip_special_tokens=True)
