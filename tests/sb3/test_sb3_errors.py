"""Errors of SACERA's constructor name the argument, its value and what is allowed."""

import re
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import FAMILY, REPLAY, small
from sb3_toys import TargetEnv, small_sacera
from stable_baselines3 import SAC

from era_rl.sb3 import PPOERA, DiscreteSACERA, EntropyMonitor


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ent_coef": 0.1}, "ent_coef=0.1 must be 0"),
        ({"ent_coef": "low"}, "ent_coef='low' must be 0"),
        ({"use_sde": True}, "use_sde=True must be False"),
        (
            {"distribution": "tanh", "floor": "exact"},
            "floor='exact' must be 'gaussian', or left out, with distribution='tanh'",
        ),
        ({"distribution": "beta"}, "distribution='beta' must be 'truncated', 'tanh' or 'normal'"),
        ({"distribution": "normal"}, "distribution='normal' must be 'truncated' or 'tanh'"),
        ({"nats_per_dim": -1.0, "target_entropy": -2.0}, "nats_per_dim=-1.0 exclude each other"),
        ({"log_std_min": None}, "log_std_min=None must be a number"),
        ({"log_std_min": [-5.0]}, "log_std_min=[-5.0] must be a number"),
        ({"log_std_min": np.array([-5.0, -4.0])}, "log_std_min=array([-5., -4.]) must be a number"),
        (
            {"target_entropy": torch.ones(2)},
            "target_entropy=tensor([1., 1.]) must be a number of n",
        ),
        ({"floor": np.ones(2)}, "floor=array([1., 1.]) must be 'exact' or 'gaussian'"),
        ({"slack": "x"}, "slack='x' must be a number in (0, 1), or None"),
        ({"min_entropy_per_dim": {}}, "min_entropy_per_dim={} must be a number of nats or None"),
        ({"floor": "none"}, "floor='none' must be 'exact' or 'gaussian'"),
        ({"delta": 0.1}, "delta=0.1 needs floor='gaussian'"),
        ({"delta": "auto"}, "delta='auto' needs floor='gaussian', not 'exact'"),
        ({"delta": "x"}, "delta='x' must be a number of nats, at least 0, or 'auto'"),
        ({"delta": -0.1, "floor": "gaussian"}, "delta=-0.1 must be"),
        ({"slack": 0.0}, "slack=0.0 must be in (0, 1), or None"),
        ({"slack": 1.0}, "slack=1.0 must be in (0, 1), or None"),
        ({"slack": 0.3, "floor": "gaussian"}, "slack=0.3 needs floor='exact'"),
        (
            {"slack": 0.3, "floor": "gaussian", "distribution": "tanh"},
            "slack=0.3 must be None with distribution='tanh'",
        ),
        ({"target_entropy": "low"}, "target_entropy='low' must be a number of nats or 'auto'"),
        ({"target_entropy": 1.5}, "target_entropy=1.5"),
        ({"target_entropy": float("nan")}, "target_entropy=nan"),
        (
            {"target_entropy": 3.0, "floor": "gaussian"},
            "target_entropy=3.0 with delta=0.0 must be at most 2.83788 nats",
        ),
        ({"log_std_min": 1.0, "floor": "gaussian"}, "log_std_min=1.0"),
        ({"log_std_max": -1.0}, "log_std_max=-1.0 needs floor='gaussian'"),
        ({"compile": 1}, "compile=1 must be True, False or 'auto'"),
        ({"layer_norm": "no"}, "layer_norm='no' must be True or False"),
        ({"policy_kwargs": {"layer_norm": 0.5}}, "layer_norm=0.5 must be True or False"),
        ({"use_sde": "no"}, "use_sde='no' must be False"),
        (
            {"policy": "SimbaPolicy", "policy_kwargs": {"net_arch": [4], "normalize_obs": "no"}},
            "normalize_obs='no' must be True or False",
        ),
        ({"target_entropy": False}, "target_entropy=False must be a number of nats or 'auto'"),
        ({"delta": True, "floor": "gaussian"}, "delta=True must be a number of nats, at least 0"),
        ({"batch_size": 2.5}, "batch_size=2.5 must be at least 1, an integer"),
        (
            {"policy_kwargs": {"critic_weight_decay": "x"}},
            "critic_weight_decay='x' must be a number",
        ),
        ({"policy_kwargs": {"head_kwargs": {}}}, "policy_kwargs={'head_kwargs': ...} must be left"),
        (
            {"policy_kwargs": {"critic_weight_decay": -0.1}},
            "critic_weight_decay=-0.1 must be at least 0",
        ),
        (
            {"policy_kwargs": {"critic_weight_decay": 0.1, "optimizer_class": torch.optim.RMSprop}},
            "critic_weight_decay=0.1 needs optimizer_class Adam or AdamW, not RMSprop",
        ),
    ],
    ids=str,
)
def test_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        small_sacera(**arguments)


def test_an_infeasible_floor_is_refused_with_its_range() -> None:
    # two dimensions on [-1, 1] have at most 2 ln 2 = 1.386 nats
    with pytest.raises(
        ValueError, match=r"target_entropy=1\.39.*1\.38.*default is -0\.5 nats a dim"
    ):
        small_sacera(target_entropy=1.39)
    # Eq. 11 holds at most 2 (log_std_max + ln(2 pi e) / 2) = 2.838 nats
    with pytest.raises(ValueError, match=r"2\.8378"):
        small_sacera(target_entropy=2.84, floor="gaussian")


def _env(action_space: spaces.Space) -> gym.Env:
    env = TargetEnv()
    env.action_space = action_space
    return env


def test_refuses_other_action_spaces() -> None:
    with pytest.raises(AssertionError, match=r"only supports .*Box"):
        small_sacera(_env(spaces.Discrete(3)))
    with pytest.raises(ValueError, match="bounds of dimension 0 are low=-inf and high=inf"):
        small_sacera(_env(spaces.Box(-np.inf, np.inf, (2,), np.float32)))


@pytest.mark.parametrize(
    ("cls", "space"),
    [
        (DiscreteSACERA, spaces.Discrete(3, start=1)),
        (PPOERA, spaces.Discrete(3, start=-1)),
        (PPOERA, spaces.MultiDiscrete([2, 3], start=[0, 1])),
    ],
)
def test_discrete_actions_begin_at_zero(cls: Any, space: spaces.Space) -> None:
    """PPO sends 0 to n - 1 all the same; values were looked up out of range."""
    with pytest.raises(ValueError, match="must start at 0: Stable-Baselines3 sends actions from 0"):
        cls("MlpPolicy", _env(space))


def test_refuses_a_policy_of_another_name() -> None:
    with pytest.raises(ValueError, match=r"policy=.NoPolicy. must be one of .MlpPolicy., "):
        small_sacera(policy="NoPolicy")


def test_a_learned_delta_without_squashing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"delta='auto' must be left out with distribution='n"):
        PPOERA("MlpPolicy", TargetEnv(), distribution="normal", floor="gaussian", delta="auto")
    with pytest.raises(TypeError, match="squash=False is distribution='normal' now"):
        PPOERA("MlpPolicy", TargetEnv(), squash=False)


def test_the_monitor_refuses_a_stock_algorithm() -> None:
    with pytest.raises(ValueError, match=r"model=SAC must be an algorithm of era_rl.sb3"):
        SAC("MlpPolicy", TargetEnv(), device="cpu").learn(1, callback=EntropyMonitor())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"check_freq": 0}, "check_freq=0 must be at least 1"),
        ({"check_freq": "5"}, "check_freq='5' must be at least 1, an integer"),
        ({"per_dim": "no"}, "per_dim='no' must be True or False"),
        ({"spike_factor": "3"}, "spike_factor='3' must be a number"),
        ({"spike_factor": 1.0}, "spike_factor=1.0 must be above 1"),
        ({"spike_factor": float("nan")}, "spike_factor=nan must be above 1"),
    ],
    ids=str,
)
def test_the_monitor_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        EntropyMonitor(**arguments)


@pytest.mark.parametrize(
    ("steps", "n_envs", "trains"), [(20, 1, False), (21, 1, True), (19, 3, True)]
)
def test_training_that_ends_before_it_begins_is_said(steps: int, n_envs: int, trains: bool) -> None:
    """SB3 trains from the step after learning_starts on; three environments are at step 21 by then."""
    model: Any = small("SACERA", n_envs=n_envs)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.learn(steps)
    assert (model._n_updates > 0) == trains
    texts = [str(each.message) for each in said]
    assert (
        any(f"learning_starts=20 is not below total_timesteps={steps}" in t for t in texts)
        != trains
    )
    assert model.learn(5, reset_num_timesteps=False)  # adds up: no error of what would be a warning


@pytest.mark.parametrize("name", FAMILY)
def test_a_policy_alone_does_not_act_by_what_is_not_finite(name: str, tmp_path: Path) -> None:
    """Stock ones raise ValueError; ours sent NaN, or the first action, and replaced good files."""
    model = small(name)
    model.policy.save(path := str(tmp_path / "policy.pt"))
    policy, obs = type(model.policy).load(path), model.observation_space.sample()
    for deterministic in (True, False):
        with pytest.raises(FloatingPointError, match=r"^observations must be finite"):
            policy.predict(obs * np.nan, deterministic=deterministic)
    next(iter(policy.parameters())).data.fill_(np.nan)
    for deterministic in (True, False):
        with pytest.raises(FloatingPointError, match=r"^the policy's \S+ must be finite: the net"):
            policy.predict(obs, deterministic=deterministic)
    with pytest.raises(FloatingPointError, match=r"^the policy's \S+ must be finite: the net"):
        policy.save(path)
    type(policy).load(path).predict(obs)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("name", ["MaskablePPOERA", "RecurrentPPOERA"])
def test_no_minibatch_of_one_is_standardised(name: str, batch_size: int) -> None:
    """(A - mean) / std is NaN of one; the hosts train by it, but for PPO. 17 steps are 2 * 8 + 1."""
    settings = {"n_steps": 17, "batch_size": batch_size, "n_epochs": 1}
    with pytest.raises(ValueError, match=f"batch_size={batch_size} must leave no minibatch of one"):
        small(name, **settings)
    small(name, **settings, normalize_advantage=False).learn(17)


@pytest.mark.parametrize("name", REPLAY)
def test_batches_are_large_enough_for_the_networks(name: str) -> None:
    """Batch statistics need two rows: of one they were torch's error, or networks that were lost."""
    least = 2 if name in ("CrossQERA", "XQCERA") else 1
    small(name, batch_size=least)
    for size in range(least):
        with pytest.raises(ValueError, match=f"batch_size={size} must be at least {size + 1}"):
            small(name, batch_size=size)
