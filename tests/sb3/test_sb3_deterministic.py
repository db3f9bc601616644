"""Deterministic actions are the mode or, on request, the mean; sampling and training do not change."""

import copy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import (
    BOX,
    DISCRETE,
    FAMILY,
    OFF_POLICY,
    ON_POLICY,
    same_parameters,
    small,
    some_states,
)
from torch import Tensor

from era_rl.core import PolicyOptions, TruncatedNormal
from era_rl.sb3 import SACERA

BOUNDED = [*OFF_POLICY, *ON_POLICY]


class WideEnv(gym.Env):
    """Nothing happens, on actions in [-2, 4]."""

    observation_space = spaces.Box(-1.0, 1.0, (2,))
    action_space = spaces.Box(-2.0, 4.0, (2,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.zeros(2, dtype=np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.zeros(2, dtype=np.float32), 0.0, False, True, {}


def params(model: Any, obs: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return loc and std of a model's policy, each (batch, action_dim)."""
    model.policy.set_training_mode(False)
    with torch.no_grad():
        loc, log_std = model.policy.dist_params(model.policy.raw_params(torch.as_tensor(obs)))
    return loc, log_std.exp()


def push_to_a_bound(model: Any) -> None:
    """Put the modes of one dimension near its bound."""
    layer = model.policy.actor.mu if hasattr(model.policy, "actor") else model.policy.action_net
    with torch.no_grad():
        layer.bias[0] = 3.0


@pytest.mark.parametrize("name", BOUNDED)
def test_the_mean_is_the_policys_in_the_bounds_of_the_environment(name: str) -> None:
    model = small(name, WideEnv(), deterministic_action="mean")
    push_to_a_bound(model)
    obs = some_states(model)
    loc, std = params(model, obs)
    expected = 1.0 + 3.0 * TruncatedNormal(loc, std).mean
    actions, _ = model.predict(obs, deterministic=True)
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-5)
    assert (1.0 + 3.0 * loc[:, 0] - actions[:, 0] > 0.1).all()  # inside of the mode
    torch.manual_seed(0)
    samples = np.mean([model.predict(obs)[0] for _ in range(400)], axis=0)
    assert np.abs(samples - actions).max() < 6.0 * 3.0 * std.max().item() / 20.0


@pytest.mark.parametrize("name", BOUNDED)
def test_by_default_it_is_the_mode(name: str) -> None:
    model = small(name, WideEnv())
    push_to_a_bound(model)
    obs = some_states(model)
    modes = (1.0 + 3.0 * params(model, obs)[0]).numpy()
    np.testing.assert_allclose(model.predict(obs, deterministic=True)[0], modes, atol=1e-5)


@pytest.mark.parametrize("name", BOUNDED)
def test_training_and_samples_are_the_same(name: str) -> None:
    models, samples = [], []
    for action in ("mode", "mean"):
        model = small(name, deterministic_action=action).learn(64)
        torch.manual_seed(1)
        samples.append(model.predict(some_states(model))[0])
        models.append(model)
    assert same_parameters(*(model.policy for model in models))
    assert np.array_equal(*samples)


@pytest.mark.parametrize("name", BOUNDED)
def test_it_is_saved_and_may_be_changed_at_load(name: str, tmp_path: Path) -> None:
    model = small(name, WideEnv(), deterministic_action="mean")
    push_to_a_bound(model)
    obs = some_states(model)
    mean = model.predict(obs, deterministic=True)[0]
    model.save(tmp_path / "mean")
    algorithm = FAMILY[name]
    loaded = algorithm.load(tmp_path / "mean", device="cpu")
    assert np.array_equal(loaded.predict(obs, deterministic=True)[0], mean)
    changed = algorithm.load(tmp_path / "mean", device="cpu", deterministic_action="mode")
    assert np.abs(changed.predict(obs, deterministic=True)[0] - mean).max() > 0.1
    changed.save(tmp_path / "mode")
    again = algorithm.load(tmp_path / "mode", device="cpu", deterministic_action="mean")
    assert np.array_equal(again.predict(obs, deterministic=True)[0], mean)
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    assert np.array_equal(policy.predict(obs, deterministic=True)[0], mean)
    assert np.array_equal(copy.deepcopy(model.policy).predict(obs, deterministic=True)[0], mean)


@pytest.mark.parametrize(
    ("name", "space", "arguments", "message"),
    [
        ("SACERA", BOX, {"deterministic_action": "median"}, "='median' must be 'mode' or 'mean'"),
        ("PPOERA", BOX, {"deterministic_action": "median"}, "='median' must be 'mode' or 'mean'"),
        (
            "SACERA",
            BOX,
            {"deterministic_action": "mean", "floor": "gaussian", "distribution": "tanh"},
            "='mean' must be 'mode' for distribution='tanh'",
        ),
        (
            "PPOERA",
            BOX,
            {"deterministic_action": "mean", "distribution": "normal"},
            "='mean' must be 'mode' for distribution='normal'",
        ),
        (
            "A2CERA",
            DISCRETE,
            {"deterministic_action": "mean"},
            "='mean' must be 'mode' for discrete",
        ),
        (
            "SACERA",
            BOX,
            {"policy_kwargs": {"deterministic_action": "mean"}},
            "'deterministic_action': ...} must be left out",
        ),
    ],
    ids=["off-policy", "on-policy", "tanh", "unbounded", "discrete", "policy_kwargs"],
)
def test_what_has_no_mean_is_refused(
    name: str, space: spaces.Space, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        small(name, space, **arguments)


def test_models_saved_before_it_was_there_act_by_their_mode(tmp_path: Path) -> None:
    model: Any = small("SACERA")
    model.save(tmp_path / "old")
    loaded = SACERA.load(tmp_path / "old", device="cpu")
    assert loaded.policy.actor.options.deterministic_action == "mode"


def test_the_distribution_refuses_other_actions() -> None:
    with pytest.raises(ValueError, match="deterministic_action='max' must be 'mode' or 'mean'"):
        PolicyOptions(deterministic_action="max")  # type: ignore[arg-type]
