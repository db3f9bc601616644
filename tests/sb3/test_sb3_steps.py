"""Steps of optimizers without their Python end where ``step`` does: Adam's bit by bit."""

import copy
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from era_rl.networks.batch_norm import UnitRowAdam
from era_rl.sb3.steps import CompiledRMSpropSteps, DirectSteps, FusedAdamSteps


def layers() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((5, 3), (5,), (2, 5))
    return [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in sizes]


def descend(optimizer: Optimizer, step: Any, steps: int = 4, frozen: int | None = None) -> None:
    generator = torch.Generator().manual_seed(1)
    for number in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (number + 1)  # a schedule
            for index, param in enumerate(group["params"]):
                param.grad = torch.randn(param.shape, generator=generator)
                if index == frozen:
                    param.grad = None
        step()


CASES: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "adam": (Adam, {"fused": True, "eps": 1e-5, "betas": (0.8, 0.9)}, True),
    "adamw": (AdamW, {"fused": True, "weight_decay": 0.1}, True),
    "decay": (Adam, {"fused": True, "weight_decay": 0.1, "maximize": True}, True),
    "amsgrad": (Adam, {"fused": True, "amsgrad": True}, False),
    "foreach": (Adam, {"foreach": True}, False),
    "unit rows": (UnitRowAdam, {"fused": True}, True),
    "unit rows, decay": (
        UnitRowAdam,
        {"fused": True, "weight_decay": 0.1, "decoupled_weight_decay": True},
        True,
    ),
    "sgd": (SGD, {"fused": True}, False),
    "rmsprop": (RMSprop, {"alpha": 0.8, "eps": 1e-5}, True),
    "momentum": (RMSprop, {"momentum": 0.5}, False),
}


def steps_of(optimizer: Optimizer) -> DirectSteps:
    kind = CompiledRMSpropSteps if isinstance(optimizer, RMSprop) else FusedAdamSteps
    return kind(optimizer)


def assert_equal(own: Any, others: Any, kind: type[Optimizer]) -> None:
    rounding = 1e-6 if kind is RMSprop else 0.0
    torch.testing.assert_close(own, others, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("frozen", [None, 1])
@pytest.mark.parametrize("name", CASES)
def test_it_steps_as_the_optimizer_does(
    name: str, frozen: int | None, compiled_as_is: list[Any]
) -> None:
    kind, options, quick = CASES[name]
    found = []
    for quickly in (False, True):
        params = layers()
        optimizer = kind(params, lr=0.1, **options)
        steps = steps_of(optimizer)
        descend(optimizer, steps if quickly else optimizer.step, frozen=frozen)
        found.append((params, optimizer.state_dict()["state"]))
    assert bool(steps._lists) == quick
    assert_equal(found[0], found[1], kind)


@pytest.mark.parametrize("kind", [Adam, RMSprop])
def test_what_changes_is_followed(kind: Any, compiled_as_is: list[Any]) -> None:
    """Loaded states, hooks, and a parameter that is frozen."""
    params = layers()
    optimizer = kind(params, lr=0.1, **({"fused": True} if kind is Adam else {}))
    steps = steps_of(optimizer)
    descend(optimizer, steps)
    twin = copy.deepcopy(optimizer)
    others = twin.param_groups[0]["params"]
    for each in (optimizer, twin):
        each.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    descend(optimizer, steps)
    descend(twin, twin.step)
    for frozen in (None, 0):
        descend(optimizer, steps, frozen=frozen)
        descend(twin, twin.step, frozen=frozen)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    descend(optimizer, steps)
    descend(twin, twin.step)
    assert len(called) == 4
    assert_equal(params, others, kind)
