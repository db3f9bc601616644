"""A toy language with a verifiable reward, built in code: no download, one CPU core.

A text is a number, "=", and four digits that sum to it: "20=9263". The reward of a completion is 1
if its digits do, else 0. A number has up to 670 right completions, so a policy can be right and
diverse, or right and collapsed.
"""

import random
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from era_llm.evaluate import sample, summarise
from era_llm.functional import selected_logps

DIGITS = 4
_SPECIAL = ("<pad>", "<eos>", "=")
_NUMBERS = range(4, 33)


def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token per character."""
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *"0123456789"))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = Split(Regex("[0-9=]"), "isolated")
    tokenizer.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def toy_model(seed: int, vocabulary: int = 13) -> Qwen2ForCausalLM:
    """Return a Qwen2 of two layers of width 48 with random weights.

    The language has 13 tokens; tests and benchmarks of the head take more.
    """
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


def toy_texts(count: int, seed: int) -> list[str]:
    """Sample texts of the language: uniform digits after their sum."""
    draw = random.Random(seed)
    digits = ([draw.randrange(10) for _ in range(DIGITS)] for _ in range(count))
    return [f"{sum(chosen)}=" + "".join(map(str, chosen)) for chosen in digits]


def toy_prompts() -> Dataset:
    """Return the prompts "4=" to "32=" with the number as the answer."""
    return Dataset.from_list([{"prompt": f"{n}=", "answer": str(n)} for n in _NUMBERS])


def toy_reward(completions: list[str], answer: list[str], **_: Any) -> list[float]:
    """Return 1 for each completion of four digits that sum to its prompt's number, else 0."""
    return [float(is_correct(text, int(n))) for text, n in zip(completions, answer, strict=True)]


def is_correct(completion: str, number: int) -> bool:
    """Return whether a completion is four digits that sum to a number."""
    text = completion.strip()
    return len(text) == DIGITS and text.isdecimal() and sum(map(int, text)) == number


def pretrained_toy(seed: int, steps: int = 400, batch_size: int = 64) -> Qwen2ForCausalLM:
    """Return a toy model trained on the language by next-token prediction."""
    model, tokenizer = toy_model(seed), toy_tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = toy_texts(steps * batch_size, seed)
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(texts[start : start + batch_size], padding=True, return_tensors="pt")
        loss = -completion_logps(model, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def completion_logps(model: Any, batch: Any) -> torch.Tensor:
    """Return the log-probabilities of the four digits that end each text, (texts, 4).

    The batch has input_ids and attention_mask, padded on the left.
    """
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    logits = model(**inputs, logits_to_keep=DIGITS + 1).logits[:, :-1].float()
    return selected_logps(logits, batch["input_ids"][:, -DIGITS:])


@torch.no_grad()
def toy_perplexity(model: Any, count: int = 1000, seed: int = 10_000) -> float:
    """Return the perplexity per digit on held-out texts of the language, of a seed of their own.

    A collapsed policy is surprised by most of them.
    """
    batch = toy_tokenizer()(toy_texts(count, seed), padding=True, return_tensors="pt")
    return float(completion_logps(model.eval(), batch).mean().neg().exp())


@torch.no_grad()
def toy_samples(model: Any, per_prompt: int = 100, seed: int = 0) -> dict[str, float]:
    """Sample completions of every prompt and count the right and the different ones.

    Returns:
        "avg@n" and "pass@16" of n >= 16 samples of each of the 29 prompts, and "distinct_correct", the
        number of different right completions of a prompt, all means over prompts.
    """
    tokenizer, torch_state = toy_tokenizer(), torch.random.get_rng_state()
    torch.manual_seed(seed)
    right, prompts = [], [f"{number}=" for number in _NUMBERS]
    # a batch for each prompt
    drawn = sample(model, tokenizer, prompts, per_prompt, DIGITS, batch_size=per_prompt)
    for number, batch in zip(_NUMBERS, drawn, strict=True):
        texts = tokenizer.batch_decode(batch.ids, skip_special_tokens=True)
        right.append([text for text in texts if is_correct(text, number)])
    torch.random.set_rng_state(torch_state)
    distinct = sum(len(set(texts)) for texts in right) / len(right)
    scores = summarise([len(texts) for texts in right], per_prompt, [16])
    return {**scores, "distinct_correct": distinct}
