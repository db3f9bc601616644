"""Environments of the trainer: those of every other trainer, with random streams of their own."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TransformObservation
from stable_baselines3.common.env_util import make_vec_env
from torchrl.envs import SerialEnv

from era_rl.envs.wrappers import derived_seed
from era_rl.torchrl.config import SACConfig
from era_rl.torchrl.envs import make_env, make_envs

STEPS = 8


def _start(env_id: str, stream: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    env = make_env(env_id, stream)
    assert env.set_seed(seed) is not None
    data = env.rollout(5)
    return data["observation"][0], data["noise"]


def test_a_stream_and_a_seed_fix_the_start_and_the_noise() -> None:
    first, again = (_start("Pendulum-v1", (1, 2), 3) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for stream, seed in [((1, 3), 3), ((2, 2), 3), ((1, 2), 4)]:
        other = _start("Pendulum-v1", stream, seed)
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])


def test_an_environment_starts_alike_in_any_batch() -> None:
    one, many = (make_envs(SACConfig(seed=s, seeds=n), 2, 7) for s, n in ((5, 1), (4, 3)))
    for envs in (one, many):
        assert isinstance(envs, SerialEnv)
        envs.set_seed(11, static_seed=True)
    assert torch.equal(one.reset()["observation"], many.reset()["observation"][2:4])


def _through_sb3(env_id: str, seed: int, env_kwargs: dict[str, Any]) -> tuple[np.ndarray, ...]:
    envs = make_vec_env(env_id, seed=seed, env_kwargs=env_kwargs)
    steps = []
    observation = envs.reset()
    for action in _actions(envs.action_space.shape):
        before = observation
        observation, reward, done, (info,) = envs.step(action[None])
        after = info["terminal_observation"] if done else observation[0]
        terminated = done[0] and not info["TimeLimit.truncated"]
        steps.append((before[0], after, reward[0], done[0], terminated))
    envs.close()
    return tuple(np.array(column) for column in zip(*steps, strict=True))


def _through_torchrl(env_id: str, seed: int, env_kwargs: dict[str, Any]) -> tuple[np.ndarray, ...]:
    env = make_env(env_id, (1, 2), env_kwargs)
    env.set_seed(seed)
    steps, data = [], env.reset()
    for action in _actions(env.action_spec.shape):
        data["action"] = torch.from_numpy(action)
        step, data = env.step_and_maybe_reset(data)
        after = step["next"]
        flags = (after[name].item() for name in ("reward", "done", "terminated"))
        steps.append((step["observation"].numpy(), after["observation"].numpy(), *flags))
    env.close()
    return tuple(np.array(column) for column in zip(*steps, strict=True))


def _actions(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1.0, 1.0, (STEPS, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("env_id", "env_kwargs"),
    [
        ("Pendulum-v1", {"max_episode_steps": 5, "g": 9.0}),
        # of whose actuators' ranges not all are [-1, 1]
        ("dm_control/quadruped-walk-v0", {"max_episode_steps": 5}),
        ("humanoid_bench/h1-walk-v0", {}),
        ("humanoid_bench/h1-walk-v0", {"terminate": False, "action_repeat": 2}),
    ],
    ids=["gym", "dm_control", "humanoid_bench", "humanoid_bench-paper"],
)
@pytest.mark.usefixtures("fake_humanoid_bench")
def test_an_id_and_a_seed_are_one_environment_through_sb3_and_torchrl(
    env_id: str, env_kwargs: dict[str, Any]
) -> None:
    """Observations, rewards and ends of episodes are equal in float32, over a reset too."""
    ours = _through_torchrl(env_id, 3, env_kwargs)
    other = _through_sb3(env_id, derived_seed(1, 2, 3), env_kwargs)
    for column, expected in zip(ours, other, strict=True):
        np.testing.assert_array_equal(column, expected.astype(column.dtype))
    assert ours[0].dtype == np.float32


def test_observations_of_half_precision_are_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The networks, of float32, raised torch's error about scalar types."""
    space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float16)
    env = TransformObservation(gymnasium.make("Pendulum-v1"), np.float16, space)
    monkeypatch.setattr("gymnasium.make", lambda *_, **__: env)
    data = make_env("Half-v0", (1,)).rollout(2)
    assert data["observation"].dtype == data["next", "observation"].dtype == torch.float32


def test_repeated_actions_are_one_step_with_their_rewards_summed() -> None:
    """r = r_1 + r_2 and s' = s_2 of two steps with one action; limits count the environment's own."""
    once, twice = (make_env("Pendulum-v1", (0,), {}, repeats) for repeats in (1, 2))
    first, second = (env.set_seed(3, static_seed=True) and env.reset() for env in (once, twice))
    for _ in range(100):
        action = torch.rand(1) * 4.0 - 2.0
        rewards = 0.0
        for _ in range(2):
            data = once.step(first.set("action", action))["next"]
            rewards, first = rewards + data["reward"], data.exclude("reward")
        step = twice.step(second.set("action", action))["next"]
        torch.testing.assert_close(step["reward"], rewards)
        torch.testing.assert_close(step["observation"], data["observation"])
        second = step.exclude("reward")
    assert data["truncated"].all()
    assert step["truncated"].all()


def test_a_time_limit_is_a_truncation() -> None:
    last = make_env("dm_control/cartpole-balance-v0", (0,), {"max_episode_steps": 5}).rollout(9)[-1]
    assert last["next", "truncated"].all()
    assert not last["next", "terminated"].any()


@pytest.mark.parametrize(
    ("package", "env_id", "remedy"),
    [
        ("dm_control", "dm_control/walker-walk-v0", "of the extra bench"),
        ("humanoid_bench", "humanoid_bench/h1-walk-v0", "pip install --no-deps"),
    ],
    ids=["dm_control", "humanoid_bench"],
)
def test_a_missing_package_of_an_id_is_named_with_its_remedy(
    package: str, env_id: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "era_rl.envs.dm_control", raising=False)
    with pytest.raises(ValueError, match=f"env='{env_id}' cannot be made: .*{remedy}"):
        make_env(env_id)


def test_arguments_that_an_environment_does_not_take_are_named() -> None:
    with pytest.raises(ValueError, match=r"env='Pendulum-v1' cannot be made: .*'mass'"):
        make_env("Pendulum-v1", (0,), {"mass": 2})


def test_arguments_of_the_command_line_are_read_as_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = ("terminate=false", "action_repeat=2", "name=walk", "size=[1, 2.5]", "limit=null")
    monkeypatch.setattr("era_rl.torchrl.envs.SerialEnv", lambda number, makers: makers)
    (maker,) = make_envs(SACConfig(env_kwargs=pairs), 1, 0)
    assert maker.keywords["env_kwargs"] == {
        "terminate": False,
        "action_repeat": 2,
        "name": "walk",
        "size": [1, 2.5],
        "limit": None,
    }
