"""Constructor arguments of the SB3 family at random: refused by name, or the floor holds."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from sb3_family import OFF_POLICY, ON_POLICY, small

from era_rl.sb3 import EntropyMonitor, GradientConflict
from tests.fuzzing import NUMBERS, Strategies, built, examples, fuzz

FEW, MANY = 30, 400
WILD: Strategies = {
    "target_entropy": NUMBERS | st.sampled_from(["auto", "low"]),
    "floor": st.sampled_from(["exact", "gaussian", "x"]),
    "delta": NUMBERS | st.sampled_from(["auto", "x"]),
    "log_std_min": NUMBERS,
    "log_std_max": NUMBERS,
    "slack": NUMBERS,
    "use_sde": st.booleans(),
}
WILD_OFF: Strategies = {
    **WILD,
    "distribution": st.sampled_from(["truncated", "tanh", "x"]),
    "ent_coef": NUMBERS,
    "layer_norm": st.booleans(),
}
WILD_ON: Strategies = {
    **WILD,
    "distribution": st.sampled_from(["truncated", "normal"]),
    "target_entropy_fraction": NUMBERS,
}
WILD_DISCRETE: Strategies = {
    "target_entropy_fraction": NUMBERS,
    "target_entropy": NUMBERS | st.just("auto"),
    "use_sde": st.booleans(),
}
EXACT: Strategies = {
    "target_entropy": st.floats(-4.0, 1.3) | st.just("auto"),
    "floor": st.just("exact"),
    "log_std_min": st.floats(-10.0, 0.0),
    "slack": st.none() | st.floats(0.01, 0.99),
}
EQ_11: Strategies = {
    "target_entropy": st.floats(-4.0, 1.3) | st.just("auto"),
    "floor": st.just("gaussian"),
    "delta": st.floats(0.0, 1.0) | st.just("auto"),
    "log_std_min": st.floats(-10.0, -1.0),
    "log_std_max": st.floats(0.0, 2.0),
}
SHARE: Strategies = {"target_entropy_fraction": st.floats(0.0, 0.99)}
BOX = spaces.Box(-2.0, 1.0, (2,), np.float32)
CHOICES = spaces.MultiDiscrete([3, 1, 4])

# name: (algorithm, action space, feasible arguments, arguments of which one may be anything)
CASES: dict[str, tuple[str, spaces.Space, Strategies, Strategies]] = {
    **{
        f"{name}-{floor}": (name, BOX, feasible, wild)
        for names, wild in ((OFF_POLICY, WILD_OFF), (ON_POLICY, WILD_ON))
        for name in names
        for floor, feasible in (("exact", EXACT), ("gaussian", EQ_11))
    },
    **{f"{name}-discrete": (name, CHOICES, SHARE, WILD_DISCRETE) for name in ON_POLICY},
    "MaskablePPOERA": ("MaskablePPOERA", CHOICES, SHARE, WILD_DISCRETE),
}


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
    if arguments.get("floor") != "gaussian" and arguments.get("distribution") != "normal":
        floor = policy.target_entropy
        assert (entropy >= floor - 1e-5 * (1.0 + abs(floor))).all()


@pytest.mark.filterwarnings("ignore:target_entropy=.* has no effect")
@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_a_model_refuses_its_arguments_by_name_or_holds_its_floor(name: str, count: int) -> None:
    algorithm, space, feasible, wild = CASES[name]

    def check(arguments: dict[str, Any]) -> bool:
        model = built(lambda **kwargs: small(algorithm, space, **kwargs), arguments)
        if model is not None:
            _check_floor(model, arguments)
        return model is not None

    fuzz(check, feasible, wild, count)


@pytest.mark.parametrize("callback", [EntropyMonitor, GradientConflict], ids=lambda c: c.__name__)
@examples(20)
@given(st.fixed_dictionaries({"check_freq": st.integers(-3, 5)}))
def test_callbacks_refuse_their_arguments_by_name(callback: Any, arguments: dict[str, Any]) -> None:
    made = built(callback, arguments)
    assert (made is None) == (arguments["check_freq"] < 1)
