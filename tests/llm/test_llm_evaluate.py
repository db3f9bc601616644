"""Rewards, pass@k and calibration."""

import asyncio
import sys
from itertools import combinations
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from benchmarks.llm.toy import toy_perplexity, toy_reward, toy_texts, toy_tokenizer
from era_llm import rewards
from era_llm.calibrate import calibrate, response_entropies, scoring, suggest
from era_llm.data import load_rewards
from era_llm.evaluate import (
    end_tokens,
    evaluate,
    pass_at_k,
    prompt_tokens,
    sample,
    summarise,
    total_reward,
    until_end,
)
from era_llm.functional import Tokens, token_entropies, top_entropy_mean
from era_llm.rewards import final_answer, is_right, math_reward


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (r"so the sum is \boxed{34}.", "34", True),
        (r"first \boxed{1}, then \boxed{2}", "2", True),
        (r"first \boxed{1}, then \boxed{2}", "1", False),
        (r"\boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{\frac12}", "1/2", True),
        (r"\boxed{\dfrac{3}{4}}", "3/4", True),
        (r"\boxed{1,234}", "1234", True),
        (r"\boxed{1{,}000}", "1000", True),
        (r"\boxed{12\,345}", "12345", True),
        (r"\boxed{12\,345}", "357", False),
        (r"\boxed{357}", r"12\,345", False),
        (r"\boxed{-299\,792\;458}", r"-299\thinspace 792\ 458", True),
        (r"\boxed{1\,234.5}", "1234.5", True),
        (r"\boxed{3\,\text{km}}", "3", True),
        (r"\boxed{x^{2}+1}", "x^{2} + 1", True),
        (r"\boxed{12\text{ cm}}", "12", True),
        (r"\boxed{\sqrt{12}}", r"2\sqrt3", True),
        ("Answer: 7.", "7", True),
        ("**Answer:** 34", "34", True),
        ("Answer: x=5", "5", True),
        ("I think.\nAnswer: $-3$", "-3", True),
        ("**Answer**: 7\nAnswer: 8", "8", True),
        ("the answer is 7", "7", False),
        (r"\boxed{34", "34", False),
        (r"\boxed{(1,2)}", "(2,1)", False),
        (r"\boxed{34}", r"The sum is \boxed{34}", True),
        (r"\boxed{1/0}", "0", False),
        (r"\boxed{-.5E-1}", "-1/20", True),
        (r"\boxed{1e9999999999}", "7", False),
        (r"\boxed{1e9_9_9_9_9_9_9}", "7", False),
        ("\n" * 40_000, "7", False),
    ],
)
def test_the_final_answer_decides(completion: str, answer: str, expected: bool) -> None:
    pytest.importorskip("math_verify")
    assert is_right(completion, answer) is expected
    conversation = [{"role": "assistant", "content": completion}]
    reward = 1.0 if expected else -1.0
    assert math_reward([completion, conversation], [answer, answer]) == [reward, reward]


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"\boxed{34", None),
        ("Answer: 7.", "7"),
        ("**Answer:** 34", "34"),
        ("**Answer**: 7\nAnswer: 8", "8"),
        ("I think.\nAnswer: $-3$", "-3"),
        ("the answer is 7", None),
        ("\n" * 40_000, None),
    ],
)
def test_the_final_answer_is_the_last_box_or_line(completion: str, expected: str | None) -> None:
    assert final_answer(completion) == expected


def test_without_math_verify_the_reward_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, where a command loads its rewards."""
    monkeypatch.setitem(sys.modules, "math_verify", None)
    rewards.math_verify.cache_clear()
    with pytest.raises(ImportError, match=r"math_reward needs math_verify: install era-rl\[math\]"):
        load_rewards(["era_llm.rewards.math_reward"], ["answer"])


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
        evaluate(None, None, rows, [toy_reward], samples=8, ks=[1, 8, 16])
    with pytest.raises(ValueError, match="rows must hold at least one prompt, got none"):
        evaluate(None, None, [], [toy_reward], samples=8, ks=[1])
    with pytest.raises(ValueError, match="got 0 rows, samples=8"):
        calibrate(None, None, [])


def test_rewards_are_given_what_trl_gives_them(toy: Any) -> None:
    """By name: texts, tokens, every column, a state of training and two functions that log nothing."""

    def reward(prompts: Any, completions: Any, completion_ids: Any, answer: Any, *, trainer_state: Any,
               log_extra: Any, log_metric: Any) -> list[float | None]:  # fmt: skip
        log_extra("answer", answer)
        log_metric("mean", 1.0)
        assert trainer_state.global_step == 0
        return [None, *(float(len(ids)) for ids in completion_ids[1:])]

    tokenizer, rows = toy_tokenizer(), [{"prompt": "20=", "answer": "20"}]
    (batch,) = sample(toy, tokenizer, ["20="], 3, max_new_tokens=2)
    lengths = batch.mask.sum(-1).float()
    total = total_reward(tokenizer, rows, batch, [reward, reward], [1.0, 0.5])
    assert total.tolist() == [0.0, *(1.5 * lengths[1:]).tolist()]


def test_rewards_may_be_coroutines_none_or_nan(toy: Any) -> None:
    """As in TRL, which awaits them on one event loop, and leaves None and NaN out of the sum."""
    loops = set()

    async def slow(completions: Any, **_: Any) -> list[float]:
        loops.add(asyncio.get_running_loop())
        return [1.0] * len(completions)

    tokenizer, rows = toy_tokenizer(), [{"prompt": "20=", "answer": "20"}]
    for batch in sample(toy, tokenizer, ["20="], 4, max_new_tokens=2, batch_size=2):
        rewards = [slow, lambda **_: [None, 2.0], lambda **_: [float("nan"), torch.tensor(3.0)]]
        assert total_reward(tokenizer, rows, batch, rewards).tolist() == [1.0, 6.0]
        for returned in ([1.0], 1.0):
            with pytest.raises(ValueError, match=r"<lambda> must return 2 rewards, not .?1\.0"):
                total_reward(tokenizer, rows, batch, [lambda given=returned, **_: given])
    assert len(loops) == 1


def test_summary_averages_over_prompts() -> None:
    assert summarise([0, 4, 1], 4, [1, 4]) == pytest.approx(
        {"avg@4": 5 / 12, "pass@1": 5 / 12, "pass@4": 2 / 3}
    )


@pytest.mark.parametrize("adds_start", [False, True])
def test_prompts_have_the_tokens_that_trl_makes(adds_start: bool) -> None:
    """A text with the tokenizer's special tokens, a conversation with those of its template alone."""
    tokenizer = toy_tokenizer()
    tokenizer.bos_token = start = "9"
    start_id: Any = tokenizer.convert_tokens_to_ids(start)
    if adds_start:
        processor = TemplateProcessing("9 $A", special_tokens=[(start, start_id)])
        tokenizer.backend_tokenizer.post_processor = processor
    text: Any = tokenizer.convert_tokens_to_ids(["2", "0", "="])
    assert prompt_tokens(tokenizer, "20=").tolist() == [start_id] * adds_start + text
    messages = [{"role": "user", "content": "20"}]
    turns = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for written in ("", "{{ bos_token }}"):
        tokenizer.chat_template = f"{written}{turns}{{% if add_generation_prompt %}}={{% endif %}}"
        found = prompt_tokens(tokenizer, messages).tolist()
        assert found == [start_id] * bool(written) + text
        chat: Any = tokenizer.apply_chat_template([messages], add_generation_prompt=True)
        assert chat["input_ids"] == [found]


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
        return next(sample(toy, toy_tokenizer(), ["20="], 16, max_new_tokens=6)).ids

    expected = sampled()
    cuts = {"top_p": 0.1, "top_k": 2, "min_p": 0.5, "repetition_penalty": 3.0, "typical_p": 0.1}
    cuts |= {"epsilon_cutoff": 0.3, "eta_cutoff": 0.3, "no_repeat_ngram_size": 1}
    for name, value in cuts.items():
        with monkeypatch.context() as patch:
            patch.setattr(toy.generation_config, name, value)
            assert torch.equal(sampled(), expected), name


def test_batches_hold_completions_of_several_prompts(toy: Any) -> None:
    tokenizer = toy_tokenizer()
    batches = list(sample(toy, tokenizer, ["20=", "4="], 3, max_new_tokens=4, batch_size=4))
    assert [batch.rows for batch in batches] == [[0, 0, 0, 1], [1, 1]]
    first, second = batches
    assert tokenizer.batch_decode(first.prompt_ids, skip_special_tokens=True) == ["20="] * 3 + [
        "4="
    ]
    assert first.prompt_mask.sum(-1).tolist() == [3, 3, 3, 2]
    assert second.prompt_ids.shape == (2, 2)


def test_every_end_token_of_the_model_ends_a_response(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = toy_tokenizer()
    end: Any = tokenizer.convert_tokens_to_ids("5")
    monkeypatch.setattr(toy.generation_config, "eos_token_id", [end])
    assert set(end_tokens(toy, tokenizer)) == {end, tokenizer.eos_token_id}
    (batch,) = sample(toy, tokenizer, ["20="], 64, max_new_tokens=12, batch_size=64)
    for row, mask in zip(batch.ids.tolist(), batch.mask.tolist(), strict=True):
        length = row.index(end) + 1 if end in row else len(row)
        assert set(row[length:]) <= {tokenizer.pad_token_id}
        if tokenizer.eos_token_id not in row:
            assert mask == [1] * length + [0] * (len(row) - length)


@pytest.mark.parametrize("which", ["top", "bottom"])
def test_response_entropies_are_those_of_full_logits_up_to_the_end(toy: Any, which: Tokens) -> None:
    """H_resp of softmax(z / T), though TRL's fused head makes no logits, and of padded prompts."""
    tokenizer = toy_tokenizer()
    (batch,) = sample(toy, tokenizer, ["20=", "4="], 4, max_new_tokens=6)
    batch.ids[0, 2:] = tokenizer.eos_token_id
    batch = batch._replace(mask=until_end(batch.ids, [tokenizer.eos_token_id]))
    with scoring(toy, 0.8):
        found = response_entropies(toy, batch, 0.5, which)
    assert "forward" not in vars(toy)
    assert batch.mask[0].tolist() == [1, 1, 1, 0, 0, 0]
    ids = torch.cat([batch.prompt_ids, batch.ids], 1)
    seen = torch.cat([batch.prompt_mask, batch.mask], 1)
    logits = toy(input_ids=ids, attention_mask=seen).logits[:, batch.prompt_ids.size(1) - 1 : -1]
    expected = top_entropy_mean(token_entropies(logits / 0.8), batch.mask, 0.5, which)
    torch.testing.assert_close(found, expected)


def test_suggested_thresholds_are_quantiles_that_can_be_reached() -> None:
    """low = q(10%), high = min(2 q(99%), (q(99%) + ln V) / 2), and what they would scale."""
    values, positive = torch.linspace(0, 1, 101), torch.arange(101) % 2 == 0
    found = suggest(values, positive, highest=5.0)
    assert found["era_entropy_low"] == pytest.approx(0.1)
    assert found["era_entropy_high"] == pytest.approx(1.98)
    assert found["quantiles"]["0.5"] == pytest.approx(0.5)
    counts = [found[name] for name in ("responses", "positive", "sharpened", "flattened")]
    assert counts == [101, 51, 5, 0]
    assert suggest(values, positive, highest=1.09)["era_entropy_high"] == pytest.approx(1.04)
    empty = torch.cat([values, torch.tensor([float("nan")])])
    assert suggest(empty, torch.cat([positive, positive[:1]]), highest=5.0) == found
