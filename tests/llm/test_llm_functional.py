"""The functional form against oracle cases, the paper's explicit form and exact expectations."""

import doctest
import math

import pytest
import torch
from llm_helpers import paper_form

import era_llm.functional as functional
from era_llm.functional import (
    approximate_era_advantages,
    era_logps,
    era_scale,
    select_tokens,
    selected_logps,
    straight_through,
    token_entropies,
    top_entropy_mean,
)


def _ones(entropies: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(entropies, dtype=torch.bool)


def test_the_example_in_plain_pytorch_runs_as_printed() -> None:
    assert doctest.testmod(functional).failed == 0


def test_top_entropy_mean_takes_a_fifth_of_the_unmasked_tokens() -> None:
    entropies = torch.tensor([[0.1, 0.9, 0.3, 0.5, 0.2, 0.7, 0.4, 0.6, 0.8, 1.0, 9.0, 9.0]])
    mask = torch.tensor([[1] * 10 + [0] * 2])
    torch.testing.assert_close(top_entropy_mean(entropies, mask), torch.tensor([0.95]))


@pytest.mark.parametrize("length", range(1, 10))
def test_a_short_response_gives_its_maximum(length: int) -> None:
    entropies = torch.rand(3, length)
    torch.testing.assert_close(top_entropy_mean(entropies, _ones(entropies)), entropies.amax(-1))


@pytest.mark.parametrize("length", [5, 15, 35, 55, 115, 3000])
def test_whole_fifths_are_not_lost_to_rounding(length: int) -> None:
    entropies = torch.rand(2, length)
    count = length // 5
    assert select_tokens(entropies, _ones(entropies)).sum(-1).tolist() == [count, count]
    expected = entropies.topk(count).values.mean(-1)
    torch.testing.assert_close(top_entropy_mean(entropies, _ones(entropies)), expected)


@pytest.mark.parametrize("tokens", ["top", "bottom"])
def test_packed_equals_looped(tokens: functional.Tokens) -> None:
    """With cu_seqlens H_resp is that of each sequence by itself, of masked and empty ones too."""
    lengths = [7, 1, 0, 30, 12]
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0)
    entropies, mask = torch.rand(50), torch.rand(50) < 0.7
    mask[8:20] = False
    packed = top_entropy_mean(entropies, mask, 0.3, tokens, cu_seqlens=cu_seqlens)
    parts = zip(entropies.split(lengths), mask.split(lengths), strict=True)
    looped = torch.cat([top_entropy_mean(h[None], m[None], 0.3, tokens) for h, m in parts])
    assert packed.isnan().tolist() == [False, False, True, False, False]
    torch.testing.assert_close(packed, looped, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("tokens", ["top", "bottom", "random"])
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.5, 1.0])
def test_selection_stays_inside_the_mask_and_counts(
    tokens: functional.Tokens, ratio: float
) -> None:
    entropies, mask = torch.rand(50, 40), torch.rand(50, 40) < 0.6
    chosen = select_tokens(entropies, mask, ratio, tokens)
    length = mask.sum(-1)
    assert not (chosen & ~mask).any()
    expected = [max(1, math.floor(int(n) * ratio + 1e-9)) for n in length]
    assert chosen.sum(-1).tolist() == expected


def test_bottom_is_top_of_the_negated_and_random_depends_on_the_generator_alone() -> None:
    entropies = torch.rand(20, 30)
    mask = _ones(entropies)
    assert torch.equal(
        select_tokens(entropies, mask, tokens="bottom"), select_tokens(-entropies, mask)
    )
    draws = [
        select_tokens(values, mask, tokens="random", generator=torch.Generator().manual_seed(seed))
        for values, seed in ((entropies, 1), (torch.zeros_like(entropies), 1), (entropies, 2))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_an_empty_response_is_nan_and_never_scaled() -> None:
    entropies = torch.rand(2, 6)
    mask = torch.tensor([[1] * 6, [0] * 6])
    assert not select_tokens(entropies, mask)[1].any()
    h_resp = top_entropy_mean(entropies, mask)
    assert h_resp.isnan().tolist() == [False, True]
    assert era_scale(h_resp, torch.ones(2), low=8.0, high=9.0).tolist() == [2.0, 1.0]


def test_era_scale_at_and_beyond_the_thresholds() -> None:
    h_resp = torch.tensor([0.45, 3.0, 0.44, 0.44, 0.44, 3.01, 3.01])
    advantages = torch.tensor([1.0, 1.0, 0.5, 0.0, -1.0, 0.1, -0.1])
    assert era_scale(h_resp, advantages).tolist() == [1.0, 1.0, 2.0, 1.0, 1.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda h: era_scale(h, h, k=1.0), "k must be above 1"),
        (lambda h: era_scale(h, h, low=3.0, high=3.0), "low must be below high"),
        (lambda h: top_entropy_mean(h[None], h[None], ratio=0.0), r"ratio must lie in \(0, 1\]"),
        (lambda h: top_entropy_mean(h[None], h[None], ratio=1.5), r"ratio must lie in \(0, 1\]"),
        (lambda h: top_entropy_mean(h, h, cu_seqlens=h[:1].int()), "cu_seqlens must go from 0 to"),
        (lambda h: select_tokens(h[None], h[None], tokens="middle"), "tokens must be one of"),
    ],
)
def test_wrong_arguments_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.ones(3))


@pytest.mark.parametrize(
    ("scale", "value", "gradient"),
    [(2.0, math.log(1 / 10), 0.9), (0.5, math.log(1 / (1 + math.sqrt(3))), 0.6339746)],
)
def test_two_logits_by_hand(scale: float, value: float, gradient: float) -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]], dtype=torch.float64, requires_grad=True)
    target, s = torch.tensor([[0]]), torch.tensor([scale], dtype=torch.float64)
    assert selected_logps(logits * scale, target).item() == pytest.approx(value)
    logp = era_logps(logits, target, s)
    assert logp.item() == pytest.approx(math.log(1 / 4))
    (grad,) = torch.autograd.grad(logp.sum(), logits)
    assert grad.flatten().tolist() == pytest.approx([gradient, -gradient], abs=1e-7)
    (plain,) = torch.autograd.grad(selected_logps(logits, target).sum(), logits)
    assert plain.flatten().tolist() == pytest.approx([0.75, -0.75])


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("k", [2.0, 1.7, 5.0])
def test_on_policy_gradient_equals_the_papers_explicit_loss(per_token: bool, k: float) -> None:
    logits = (3 * torch.randn(6, 7, 40, dtype=torch.float64)).requires_grad_()
    targets = torch.randint(40, (6, 7))
    advantages = torch.randn(6, dtype=torch.float64)
    choices = torch.tensor([1.0, k, 1 / k], dtype=torch.float64)
    scale = choices[torch.randint(3, (6, 7) if per_token else (6,))]

    logp, advantages_s = paper_form(logits, targets, advantages, scale)
    explicit = ((logp - logp.detach()).exp() * advantages_s).sum()
    (expected,) = torch.autograd.grad(explicit, logits)

    logp = era_logps(logits, targets, scale)
    loss = ((logp - logp.detach()).exp() * advantages[:, None]).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient - expected).abs().max() < 1e-12
    assert (logp - selected_logps(logits, targets)).abs().max() == 0


def test_gradient_without_advantage_scaling_is_s_times_larger() -> None:
    logits = torch.randn(3, 4, 9, dtype=torch.float64, requires_grad=True)
    targets, scale = torch.randint(9, (3, 4)), torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)
    grads = [
        torch.autograd.grad(era_logps(logits, targets, scale, advantage_scale=on).sum(), logits)[0]
        for on in (True, False)
    ]
    torch.testing.assert_close(grads[1], grads[0] * scale[:, None, None])


def test_gradient_is_that_of_the_divergence_form() -> None:
    """A log pi(y) + A KL(sg(p_s) || pi) has the gradient of ERA."""
    logits = torch.randn(1, 1, 12, dtype=torch.float64, requires_grad=True)
    target, scale = torch.tensor([[5]]), torch.tensor([2.0], dtype=torch.float64)
    p_s = (2 * logits).softmax(-1).detach()
    divergence = (p_s * (p_s.log() - logits.log_softmax(-1))).sum()
    objective = selected_logps(logits, target).sum() + divergence
    (expected,) = torch.autograd.grad(objective, logits)
    (gradient,) = torch.autograd.grad(era_logps(logits, target, scale).sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_approximate_advantage_is_unbiased_when_the_advantage_ignores_the_token() -> None:
    """The expectation over the vocabulary, taken exactly, equals that of ERA."""
    vocabulary = 15
    logits = torch.randn(vocabulary, dtype=torch.float64, requires_grad=True)
    targets = torch.arange(vocabulary)[None]
    rows = logits.expand(1, vocabulary, vocabulary)
    probabilities = logits.softmax(-1).detach()
    scale = torch.full((1,), 2.0, dtype=torch.float64)
    era = (probabilities * era_logps(rows, targets, scale)[0]).sum()
    (expected,) = torch.autograd.grad(era, logits)

    logp = selected_logps(rows, targets)
    log_sum_squares = (2 * logits.log_softmax(-1)).logsumexp(-1)
    advantages = approximate_era_advantages(
        torch.ones(1, dtype=torch.float64), logp, 2 * logp - log_sum_squares
    )
    (gradient,) = torch.autograd.grad((probabilities * advantages[0] * logp[0]).sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_no_scale_is_the_plain_gradient_bit_for_bit() -> None:
    logits = torch.randn(2, 3, 8, requires_grad=True)
    targets = torch.randint(8, (2, 3))
    (plain,) = torch.autograd.grad(selected_logps(logits, targets).sum(), logits)
    (era,) = torch.autograd.grad(era_logps(logits, targets, torch.ones(2)).sum(), logits)
    assert torch.equal(plain, era)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtypes_are_kept_and_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    logits = (200 * torch.randn(2, 3, 8)).to(dtype).requires_grad_()
    logps = era_logps(logits, torch.randint(8, (2, 3)), torch.tensor([2.0, 0.5], dtype=dtype))
    logps.sum().backward()
    assert logps.dtype == dtype
    assert logits.grad is not None
    assert logps.isfinite().all()
    assert logits.grad.isfinite().all()


def test_token_entropies_and_straight_through_values() -> None:
    assert token_entropies(torch.zeros(4, 10)).tolist() == pytest.approx([math.log(10)] * 4)
    logp, scaled = torch.randn(3, 4), torch.randn(3, 4)
    assert torch.equal(straight_through(logp, scaled, torch.full((3,), 2.0)), logp)
