"""A policy acts by mode, mean and samples, from the same starts and with its own statistics."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from bench_tiny import tiny
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import benchmarks.reaching  # noqa: F401 (registers ids)
from benchmarks import job, suite
from benchmarks.acting import WAYS, MeanOfSamples, returns_by_action
from era_rl import TruncatedNormal
from era_rl.runs.folder import read_json
from era_rl.sb3 import PPOERA, SACERA

SETTINGS: dict[str, Any] = {"seed": 0, "device": "cpu"}


class Once(gymnasium.Env):
    """Episodes of one step that return the action itself, in [0, 4]."""

    observation_space = spaces.Box(-1.0, 1.0, (1,))
    action_space = spaces.Box(0.0, 4.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return np.ones(1, dtype=np.float32), float(action[0]), True, False, {}


def test_the_mean_is_that_of_the_policy_in_the_bounds_of_the_environment() -> None:
    model = SACERA(
        "MlpPolicy",
        gymnasium.make("benchmarks/reach-4-v0"),
        policy_kwargs={"net_arch": [8]},
        **SETTINGS,
    )
    obs = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    obs = obs[:, : model.observation_space.shape[0]]  # type: ignore[index]
    with torch.no_grad():
        loc, log_std, _ = model.actor.get_action_dist_params(torch.as_tensor(obs))
        policy = TruncatedNormal(loc, log_std.exp())
        error = 6.0 * policy.variance.sqrt().numpy() / 10_000**0.5
    actions, state = MeanOfSamples(model, 10_000).predict(obs, state="kept")
    assert actions.shape == (3, 4)
    assert (np.abs(actions - policy.mean.numpy()) < error).all()
    assert state == "kept"


def test_returns_are_those_of_mode_mean_and_samples() -> None:
    model = SACERA("MlpPolicy", Once(), policy_kwargs={"net_arch": [8]}, **SETTINGS)
    with torch.no_grad():
        model.actor.mu.weight.zero_()  # type: ignore[attr-defined]
        model.actor.mu.bias.fill_(5.0)  # type: ignore[attr-defined]
        loc, log_std, _ = model.actor.get_action_dist_params(torch.ones(1, 1))
    policy = TruncatedNormal(loc, log_std.exp())
    found = returns_by_action(model, lambda: make_vec_env(Once, 2), 200)
    assert tuple(found) == WAYS
    mode, mean, std = (
        float(x) for x in (2.0 + 2.0 * loc, 2.0 + 2.0 * policy.mean, 2.0 * policy.variance.sqrt())
    )
    assert mode - mean > 0.2  # the mode is at the bound, the mean inside
    assert found["mode"] == pytest.approx([mode] * 200, abs=1e-5)
    assert np.mean(found["mean"]) == pytest.approx(mean, abs=6.0 * std / (200 * 64) ** 0.5)
    assert np.std(found["mean"]) < 0.2 * std
    assert np.mean(found["sample"]) == pytest.approx(mean, abs=6.0 * std / 200**0.5)
    assert np.std(found["sample"]) == pytest.approx(std, rel=0.3)


def test_observations_are_normalised_as_in_training_and_episodes_start_alike() -> None:
    seen: list[VecNormalize] = []

    def make_env() -> VecEnv:
        env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=3), training=False)
        env.norm_reward = False
        seen.append(env)
        return env

    training = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    model = PPOERA(
        "MlpPolicy",
        training,
        n_steps=32,
        batch_size=16,
        policy_kwargs={"net_arch": [8]},
        **SETTINGS,
    )
    model.learn(64)
    first, second = (returns_by_action(model, make_env, 2)["mode"] for _ in range(2))
    assert first == second
    assert min(first) > -2000.0
    assert max(first) < -100.0  # returns of the environment, not normalised ones
    for env in seen:
        assert (env.obs_rms.mean == training.obs_rms.mean).all()  # type: ignore[union-attr]
        assert env.obs_rms.count == training.obs_rms.count  # type: ignore[union-attr]


def test_a_suite_that_asks_has_all_ways_along_training_and_the_same_training(
    tmp_path: Path,
) -> None:
    """A row an evaluation; its random numbers are its own, so losses and actions stay."""
    results = []
    for name, change in (("plain", "steps: 300"), ("asked", "acting_along: true\nsteps: 300")):
        (tmp_path / name).mkdir()
        small = "params: {learning_starts: 50, batch_size: 16, policy_kwargs: {net_arch: [8]}},"
        changes = ("steps: 300", change), ("algo: sac_era,", f"algo: sac_era, {small}")
        path = tiny(tmp_path / name, *changes)
        run = suite.load(path).runs[1]
        folders = ["--results", str(tmp_path / name / "r"), "--scratch", str(tmp_path / name / "s")]
        job.main([path, run.name, *folders])
        results.append(read_json(run.result(tmp_path / name / "r")))
    plain, asked = results
    assert "acting_along" not in plain
    table = asked["acting_along"]
    assert set(table) == {"timesteps", *WAYS}
    assert table["timesteps"] == [100, 200, 300]
    assert table["mode"][-1] == pytest.approx(np.mean(asked["acting"]["mode"]), rel=1e-3)
    assert len({table[way][-1] for way in WAYS}) == 3
    assert plain["evaluation"] == asked["evaluation"]
    assert plain["trace"]["entropy_mean"] == asked["trace"]["entropy_mean"]
