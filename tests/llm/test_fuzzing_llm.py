"""Arguments of the language-model functions and options at random: refused by name, or as stated."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from era_llm.functional import era_logps, era_scale, select_tokens, token_entropies
from era_llm.options import ERAOptions
from tests.fuzzing import NUMBERS, built, examples, raw_inputs

FEW, MANY = 40, 2_000
SCALE = st.fixed_dictionaries({}, optional={"low": NUMBERS, "high": NUMBERS, "k": NUMBERS})
SELECTION = st.fixed_dictionaries(
    {},
    optional={
        "ratio": st.floats(0.0, 1.0) | NUMBERS,
        "tokens": st.sampled_from(["top", "bottom", "random", "x", ""]),
    },
)


def check_scale(arguments: dict[str, Any]) -> None:
    h, advantages = torch.linspace(0.0, 4.0, 12), torch.tensor([1.0, -1.0]).repeat(6)
    scale = built(lambda **kwargs: era_scale(h, advantages, **kwargs), arguments)
    if scale is not None:
        k = arguments.get("k", 2.0)
        assert set(scale.tolist()) <= {1.0, torch.tensor(k).item(), torch.tensor(1.0 / k).item()}
        assert (scale[advantages <= 0] == 1.0).all()


def check_selection(arguments: dict[str, Any]) -> None:
    entropies, mask = torch.rand(4, 10), torch.rand(4, 10) < 0.6
    mask[0] = False
    chosen = built(lambda **kwargs: select_tokens(entropies, mask, **kwargs), arguments)
    if chosen is not None:
        assert not (chosen & ~mask).any()
        count = mask.sum(-1)
        assert (chosen.sum(-1) >= count.clamp_max(1)).all()
        assert (chosen.sum(-1) <= count).all()


CHECKS = {"scale": (check_scale, SCALE), "selection": (check_selection, SELECTION)}


@pytest.mark.parametrize("name", CHECKS)
def test_a_function_refuses_its_arguments_by_name_or_does_as_it_says(name: str) -> None:
    check, arguments = CHECKS[name]
    examples(FEW)(given(arguments)(check))()


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_a_function_refuses_or_does_as_it_says_over_many_arguments(name: str) -> None:
    check, arguments = CHECKS[name]
    examples(MANY)(given(arguments)(check))()


OPTIONS = {
    "era_entropy_low": NUMBERS,
    "era_entropy_high": NUMBERS,
    "era_k": NUMBERS,
    "era_top_ratio": st.floats(0.0, 1.0) | NUMBERS,
    "era_tokens": st.sampled_from(["top", "bottom", "random", "x"]),
    "era_apply_to": st.sampled_from(["response", "selected", "x"]),
    "era_patience": st.integers(-3, 5),
    "era_enabled": st.booleans(),
}


@examples(60)
@given(st.fixed_dictionaries({}, optional=OPTIONS))
def test_options_are_refused_by_name(arguments: dict[str, Any]) -> None:
    shortened = {
        name.removeprefix("era_").removeprefix("entropy_"): v for name, v in arguments.items()
    }
    try:
        ERAOptions(**arguments)
    except ValueError as error:
        refusal = str(error)
        assert any(name.split("_")[-1] in refusal for name in shortened), refusal


@examples(30)
@given(st.integers(2, 9), st.sampled_from([torch.float32, torch.float64]), st.booleans())
def test_logps_are_those_of_the_plain_policy_at_any_logits(vocabulary, dtype, divide) -> None:
    """The value is log pi(y), whatever the scale; the gradient stays finite at extreme logits."""
    logits = raw_inputs(6, vocabulary).to(dtype).view(2, 6, vocabulary).requires_grad_()
    targets = torch.randint(vocabulary, (2, 6))
    logps = era_logps(logits, targets, torch.tensor([2.0, 0.5], dtype=dtype), divide)
    expected = logits.log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    # a difference of numbers of the logits' size, up to 1e4
    rounding = 4.0 * torch.finfo(dtype).eps * logits.detach().abs().max().item()
    torch.testing.assert_close(logps, expected, rtol=0.0, atol=rounding + 1e-6)
    (gradient,) = torch.autograd.grad(logps.sum(), logits)
    assert gradient.isfinite().all()
    assert (token_entropies(logits) >= 0.0).all()
