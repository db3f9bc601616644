"""Arguments of the vision companion at random: refused by name, or the floor holds."""

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from era_rl.core import categorical_entropy
from era_vision import ERAHead, attach_head
from era_vision.config import Config
from tests.fuzzing import NUMBERS, SIZES, WORDS, Strategies, built, examples, fuzz, raw_inputs

FEW, MANY = 40, 2_000
FEASIBLE: Strategies = {
    "num_classes": st.integers(2, 9),
    "target_entropy": st.floats(0.01, 0.55),
    "tau": st.floats(math.e, 4.5),
    "method": st.sampled_from(["lambert", "paper", "temperature"]),
}
WILD: Strategies = {
    "num_classes": SIZES,
    "target_entropy": NUMBERS,
    "tau": NUMBERS,
    "method": WORDS,
}


def check_head(arguments: dict[str, Any]) -> bool:
    """Return whether the arguments were taken; then the floor held."""
    head = built(ERAHead, arguments)
    if head is None:
        return False
    logits = raw_inputs(20, head.num_classes).float()
    assert (categorical_entropy(head(logits)) >= head.target_entropy - 1e-5).all()
    model = nn.Linear(3, head.num_classes)
    rest = {k: v for k, v in arguments.items() if k != "num_classes"}
    attached = attach_head(model, **rest)
    entropy = categorical_entropy(attached(1e4 * torch.randn(20, 3)))
    assert (entropy >= head.target_entropy - 1e-5).all()
    return True


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_head_refuses_its_arguments_by_name_or_holds_its_floor(count: int) -> None:
    fuzz(check_head, FEASIBLE, WILD, count)


VALUES = st.one_of(NUMBERS, st.integers(-3, 3), st.booleans(), st.none(), st.text(max_size=3))


@examples(150)
@given(st.sampled_from([option.name for option in fields(Config)]), VALUES)
def test_a_setting_is_taken_or_refused_by_name(name: str, value: Any) -> None:
    config = built(lambda **settings: Config.of(settings), {name: value})
    assert config is None or getattr(config, name) == value


@examples(20)
@given(st.dictionaries(st.text(max_size=5), VALUES, min_size=1))
def test_unknown_settings_are_refused(settings: dict[str, Any]) -> None:
    known = {option.name for option in fields(Config)}
    with pytest.raises(ValueError, match=r"setting '.*' is unknown"):
        Config.of({f"{name}?": value for name, value in settings.items() if name not in known})
