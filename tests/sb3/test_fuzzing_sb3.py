"""Constructor arguments of the SB3 family at random: refused by name, or the floor holds."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sb3_family import OFF_POLICY, small

from era_rl.sb3 import EntropyMonitor, GradientConflict
from tests.fuzzing import NUMBERS, built, examples

FEW, MANY = 30, 400
COMMON = {
    "target_entropy": st.floats(-4.0, 1.3) | NUMBERS | st.sampled_from(["auto", "low"]),
    "floor": st.sampled_from(["exact", "gaussian", "gaussian", "x"]),
    "delta": st.just(0.0) | NUMBERS | st.sampled_from(["auto", "x"]),
    "log_std_min": st.floats(-20.0, 0.0) | NUMBERS,
    "log_std_max": st.floats(0.0, 2.0) | NUMBERS,
    "slack": st.none() | st.floats(0.0, 1.0) | NUMBERS,
    "use_sde": st.booleans(),
}
ONLY_OFF = {
    "distribution": st.sampled_from(["truncated", "truncated", "tanh", "x"]),
    "ent_coef": st.just(0.0) | NUMBERS,
    "layer_norm": st.booleans(),
}
ONLY_ON = {"squash": st.booleans(), "target_entropy_fraction": st.none() | NUMBERS}
DISCRETE = {
    "target_entropy": st.floats(0.0, 3.0) | NUMBERS | st.just("auto"),
    "target_entropy_fraction": st.none() | st.floats(0.0, 1.0) | NUMBERS,
    "use_sde": st.booleans(),
}
BOX = spaces.Box(-2.0, 1.0, (2,), np.float32)
CHOICES = spaces.MultiDiscrete([3, 1, 4])

# name: (algorithm, action space, arguments)
CASES: dict[str, tuple[str, spaces.Space, dict[str, Any]]] = {
    **{name: (name, BOX, {**COMMON, **ONLY_OFF}) for name in OFF_POLICY},
    "PPOERA": ("PPOERA", BOX, {**COMMON, **ONLY_ON}),
    "A2CERA": ("A2CERA", BOX, {**COMMON, **ONLY_ON}),
    "PPOERA-discrete": ("PPOERA", CHOICES, DISCRETE),
    "A2CERA-discrete": ("A2CERA", CHOICES, DISCRETE),
    "MaskablePPOERA": (
        "MaskablePPOERA",
        CHOICES,
        {k: v for k, v in DISCRETE.items() if k != "target_entropy"},
    ),
}


def fuzz(name: str, count: int) -> None:
    algorithm, space, arguments = CASES[name]

    @examples(count)
    @given(st.fixed_dictionaries({}, optional=arguments))
    def check(given_arguments: dict[str, Any]) -> None:
        model = built(lambda **kwargs: small(algorithm, space, **kwargs), given_arguments)
        if model is not None:
            _check_floor(model, given_arguments)

    check()


def _check_floor(model: Any, arguments: dict[str, Any]) -> None:
    policy = model.policy
    layers = (
        [policy.actor.mu, policy.actor.log_std] if hasattr(policy, "actor") else [policy.action_net]
    )
    with torch.no_grad():
        for layer in layers:  # raw outputs of up to some thousands
            layer.weight.mul_(1e4)
    obs = np.random.default_rng(0).uniform(-1.0, 1.0, (50, *model.observation_space.shape))
    policy.set_training_mode(False)
    with torch.no_grad():
        entropy = policy.entropy(torch.as_tensor(obs, dtype=torch.float32))
    assert entropy.isfinite().all()
    actions, _ = model.predict(obs.astype(np.float32))
    assert np.isfinite(actions).all()
    # Eq. 11 holds that of the normal before it is bounded
    if arguments.get("floor") != "gaussian" and arguments.get("squash") is not False:
        floor = policy.entropy_floor
        assert (entropy >= floor - 1e-5 * (1.0 + abs(floor))).all()


@pytest.mark.parametrize("name", CASES)
def test_a_model_refuses_its_arguments_by_name_or_holds_its_floor(name: str) -> None:
    fuzz(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_model_refuses_or_holds_over_many_arguments(name: str) -> None:
    fuzz(name, MANY)


@pytest.mark.parametrize("callback", [EntropyMonitor, GradientConflict], ids=lambda c: c.__name__)
@examples(20)
@given(st.fixed_dictionaries({"check_freq": st.integers(-3, 5)}))
def test_callbacks_refuse_their_arguments_by_name(callback: Any, arguments: dict[str, Any]) -> None:
    made = built(callback, arguments)
    assert (made is None) == (arguments["check_freq"] < 1)
