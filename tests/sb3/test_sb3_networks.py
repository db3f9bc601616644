"""SimbaPolicy and XQCERA beside each option, callback and tool of the family."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_family import BOX, small, some_states
from sb3_toys import TargetEnv
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import CheckpointCallback, ConvertCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecNormalize

from era_rl.core import EntropySchedule
from era_rl.sb3 import DeviceReplayBuffer, EntropyMonitor
from era_rl.sb3.export import export_policy

MODELS = {
    "SACERA": {"policy": "SimbaPolicy", "policy_kwargs": {"net_arch": {"pi": [8], "qf": [8, 8]}}},
    "TQCERA": {"policy": "SimbaPolicy", "policy_kwargs": {"net_arch": {"pi": [8], "qf": [8, 8]}}},
    "XQCERA": {},
}
NAMES = pytest.mark.parametrize("name", MODELS)


def model_of(name: str, env: Any = BOX, **kwargs: Any) -> Any:
    return small(name, env, **{**MODELS[name], **kwargs})


@NAMES
@pytest.mark.parametrize(
    "option",
    [
        {"slack": 0.3},
        {"n_steps": 3},
        {"replay_buffer_class": DeviceReplayBuffer},
        {"min_entropy_per_dim": -1.5},
        {"target_entropy": EntropySchedule(-1.0, -2.0)},
        {"n_envs": 3},
    ],
    ids=lambda option: "".join(option),
)
def test_the_floor_holds_beside_each_option(name: str, option: dict[str, Any]) -> None:
    """H[pi(.|s)] >= H0 in every visited state, by running statistics as actions are taken."""
    monitor = EntropyMonitor(check_freq=10)
    model_of(name, **option).learn(60, callback=monitor)
    assert monitor.margin >= 0.0


@NAMES
@pytest.mark.parametrize("delta", [0.1, "auto"])
def test_eq_11_holds_the_normal_s_entropy(name: str, delta: Any) -> None:
    """sum_i log_std_i + D ln(2 pi e) / 2 = H0 + delta in every state, constant or learned."""
    model = model_of(name, floor="gaussian", delta=delta, target_entropy=0.6)
    model.learn(60)
    params = model.policy.dist_params(model.policy.raw_params(torch.as_tensor(some_states(model))))
    normal = params[1].sum(-1) + np.log(2.0 * np.pi * np.e)
    expected = 0.6 + model.policy.head.delta
    assert (normal >= expected - 1e-5).all()
    assert model.policy.head.delta > 0.0


@NAMES
def test_callbacks_save_and_evaluate(name: str, tmp_path: Path) -> None:
    """A checkpoint of CheckpointCallback's acts as the model did at the step it was written at."""
    evaluation = EvalCallback(Monitor(TargetEnv(horizon=5)), eval_freq=30, verbose=0)
    model, acted = model_of(name), []
    states = some_states(model)

    def note(*_: Any) -> bool:
        acted.append(model.predict(states, deterministic=True)[0])
        return True

    checkpoint = CheckpointCallback(30, str(tmp_path))
    model.learn(30, callback=[evaluation, checkpoint, ConvertCallback(note)])
    assert np.isfinite(evaluation.last_mean_reward)
    (path,) = tmp_path.glob("*.zip")
    loaded = type(model).load(path, device="cpu")
    assert np.array_equal(acted[-1], loaded.predict(states, deterministic=True)[0])
    assert not np.array_equal(acted[-1], acted[0])


@pytest.mark.parametrize("name", ["SACERA", "XQCERA"])
def test_normalisers_are_part_of_an_exported_policy(name: str, tmp_path: Path) -> None:
    """The file's actions are predict's, at observations far from standard."""
    env = make_vec_env(lambda: TargetEnv(horizon=10), 1, seed=0)
    model = model_of(name, env, learning_rate=1e-2)
    model.learn(60)
    assert export_policy(model, tmp_path / "policy.pt2") <= 1e-6
    obs = 3.0 * some_states(model, 5)
    found = torch.export.load(tmp_path / "policy.pt2").module()(torch.as_tensor(obs))
    np.testing.assert_allclose(found, model.predict(obs, deterministic=True)[0], atol=1e-6)


def test_warns_where_both_scale_rewards() -> None:
    make = lambda **kwargs: VecNormalize(make_vec_env(TargetEnv, 1, seed=0), **kwargs)  # noqa: E731
    with pytest.warns(UserWarning, match="and XQCERA both scale rewards"):
        model_of("XQCERA", make()).learn(1, reset_num_timesteps=False)
    monitor = EntropyMonitor(check_freq=10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model_of("XQCERA", make(norm_reward=False)).learn(60, callback=monitor)
        model_of("SACERA", make(norm_obs=False)).learn(1, reset_num_timesteps=False)
    assert monitor.margin >= 0.0


@pytest.mark.parametrize("kwargs", [{}, {"replay_buffer_class": HerReplayBuffer}])
def test_crossqera_refuses_dict_observations_as_crossq(kwargs: dict[str, Any]) -> None:
    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=5)
    with pytest.raises(ValueError, match="must be one of 'MlpPolicy', which CrossQERA has"):
        small("CrossQERA", env, "MultiInputPolicy", **kwargs)
