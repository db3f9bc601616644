"""Rewards, pass@k and calibration."""

from itertools import combinations
from typing import Any

import pytest
import torch

from era_llm.calibrate import calibrate, response_entropies, suggest
from era_llm.evaluate import evaluate, pass_at_k, prompt_text, sample, summarise
from era_llm.functional import Tokens, token_entropies, top_entropy_mean
from era_llm.rewards import final_answer, is_right, math_reward
from era_llm.toy import toy_perplexity, toy_reward, toy_texts, toy_tokenizer


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (r"so the sum is \boxed{34}.", "34", True),
        (r"first \boxed{1}, then \boxed{2}", "2", True),
        (r"first \boxed{1}, then \boxed{2}", "1", False),
        (r"\boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{\dfrac{3}{4}}", "3/4", True),
        (r"\boxed{1,234}", "1234", True),
        (r"\boxed{x^{2}+1}", "x^{2} + 1", True),
        (r"\boxed{12\text{ cm}}", "12cm", True),
        ("Answer: 7.", "7", True),
        ("I think.\nAnswer: $-3$", "-3", True),
        ("**Answer**: 7\nAnswer: 8", "8", True),
        ("the answer is 7", "7", False),
        (r"\boxed{34", "34", False),
        (r"\boxed{(1,2)}", "(2,1)", False),
        (r"\boxed{34}", r"The sum is \boxed{34}", True),
        (r"\boxed{1/0}", "0", False),
        (r"\boxed{1e3}", "1000", True),
        (r"\boxed{-.5E-1}", "-1/20", True),
        (r"\boxed{1e9999999999}", "7", False),
        (r"\boxed{1e9_9_9_9_9_9_9}", "7", False),
        ("\n" * 40_000, "7", False),
    ],
)
def test_the_final_answer_decides(completion: str, answer: str, expected: bool) -> None:
    assert is_right(completion, answer) is expected
    conversation = [{"role": "assistant", "content": completion}]
    reward = 1.0 if expected else -1.0
    assert math_reward([completion, conversation], [answer, answer]) == [reward, reward]


def test_nested_braces_are_kept_whole() -> None:
    assert final_answer(r"\boxed{\sqrt{\frac{a}{b}}} \boxed") == r"\sqrt{\frac{a}{b}}"


@pytest.mark.parametrize("right", range(7))
@pytest.mark.parametrize("k", range(1, 7))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(right: int, k: int) -> None:
    outcomes = [index < right for index in range(6)]
    subsets = list(combinations(outcomes, k))
    assert pass_at_k(6, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_refuses_impossible_counts() -> None:
    with pytest.raises(ValueError, match=r"k must lie in \[1, 4\], got 5"):
        pass_at_k(4, 1, 5)
    with pytest.raises(ValueError, match=r"right must lie in \[0, 4\], got 5"):
        pass_at_k(4, 5, 1)


def test_what_cannot_be_measured_is_refused_before_the_sampling() -> None:
    """Nothing is sampled: there is no model."""
    rows = [{"prompt": "20=", "answer": "20"}]
    with pytest.raises(ValueError, match=r"k must lie in \[1, 8\], got 16"):
        evaluate(None, None, rows, toy_reward, samples=8, ks=[1, 8, 16])
    with pytest.raises(ValueError, match="rows must hold at least one prompt, got none"):
        evaluate(None, None, [], toy_reward, samples=8, ks=[1])
    with pytest.raises(ValueError, match="got 0 prompts, samples=8"):
        calibrate(None, None, [])


def test_summary_averages_over_prompts() -> None:
    assert summarise([0, 4, 1], 4, [1, 4]) == pytest.approx(
        {"avg@4": 5 / 12, "pass@1": 5 / 12, "pass@4": 2 / 3}
    )


def test_a_conversation_becomes_text_without_a_second_start_token() -> None:
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}={% endif %}"
    )
    messages = [{"role": "user", "content": "20"}]
    assert prompt_text(tokenizer, "20=") == prompt_text(tokenizer, messages) == "20="
    tokenizer.bos_token = "<pad>"
    assert prompt_text(tokenizer, messages) == "20="


def test_the_toy_language_is_sums_and_its_reward_checks_them() -> None:
    texts = toy_texts(200, seed=1)
    numbers, digits = zip(*(text.split("=") for text in texts), strict=True)
    assert toy_reward(list(digits), list(numbers)) == [1.0] * 200
    assert toy_reward(["1111", "111", "111x", "9999"], ["5", "3", "3", "36"]) == [0, 0, 0, 1]
    assert toy_tokenizer().batch_decode(toy_tokenizer()(texts[:3])["input_ids"]) == texts[:3]


def test_the_toy_model_learns_digits_then_sums(toy: Any) -> None:
    assert toy_perplexity(toy) < 9.5


def test_samples_are_from_the_models_own_distribution(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As TRL samples: whatever the model's generation_config says."""

    def sampled() -> torch.Tensor:
        torch.manual_seed(0)
        return next(sample(toy, toy_tokenizer(), "20=", 16, max_new_tokens=6))[0]

    expected = sampled()
    cuts = {"top_p": 0.1, "top_k": 2, "min_p": 0.5, "repetition_penalty": 3.0, "typical_p": 0.1}
    cuts |= {"epsilon_cutoff": 0.3, "eta_cutoff": 0.3, "no_repeat_ngram_size": 1}
    for name, value in cuts.items():
        with monkeypatch.context() as patch:
            patch.setattr(toy.generation_config, name, value)
            assert torch.equal(sampled(), expected), name


def test_every_end_token_of_the_model_ends_a_response(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = toy_tokenizer()
    ids: Any = tokenizer.convert_tokens_to_ids(["5", "4"])
    end, other = ids
    (tokens, length), *_ = sample(toy, tokenizer, "20=", 4, max_new_tokens=6)
    tokens[:, length:] = other
    tokens[:, length + 2] = end
    arguments = toy, tokens, length, tokenizer, 0.5, "bottom", 1.0
    whole = response_entropies(*arguments)
    monkeypatch.setattr(toy.generation_config, "eos_token_id", [end])
    logits = toy(input_ids=tokens).logits[:, length - 1 : -1]
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    expected = top_entropy_mean(token_entropies(logits), mask, 0.5, "bottom")
    torch.testing.assert_close(response_entropies(*arguments), expected)
    assert not torch.allclose(whole, expected)
    (tokens, _), *_ = sample(toy, tokenizer, "20=", 64, max_new_tokens=12)
    for row in tokens[:, length:].tolist():
        assert set(row[row.index(end) + 1 :] if end in row else []) <= {tokenizer.pad_token_id}


@pytest.mark.parametrize("which", ["top", "bottom"])
def test_response_entropies_end_at_the_end_token(toy: Any, which: Tokens) -> None:
    tokenizer = toy_tokenizer()
    (tokens, length), *_ = sample(toy, tokenizer, "20=", 8, max_new_tokens=6)
    tokens[0, length + 2 :] = tokenizer.eos_token_id
    found = response_entropies(toy, tokens, length, tokenizer, 0.5, which, 0.8)
    logits = toy(input_ids=tokens[:1]).logits[:, length - 1 : -1] / 0.8
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    expected = top_entropy_mean(token_entropies(logits), mask, 0.5, which)
    torch.testing.assert_close(found[:1], expected)


def test_suggested_thresholds_are_quantiles() -> None:
    found = suggest(torch.linspace(0, 1, 101))
    assert found["era_entropy_low"] == pytest.approx(0.1)
    assert found["era_entropy_high"] == pytest.approx(1.98)
    assert found["quantiles"]["0.5"] == pytest.approx(0.5)
    with torch.device("meta"):  # what is made inside must be where the entropies are
        assert suggest(torch.linspace(0, 1, 101, device="cpu")) == found
