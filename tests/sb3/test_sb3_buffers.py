"""DeviceReplayBuffer draws the batches that SB3's buffers draw, wherever its storage is."""

import pickle
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_toys import TargetEnv, small_sacera, trained
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from era_rl.sb3 import DeviceReplayBuffer

ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float64)
VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (2, 4, 4), np.uint8)
SPACES: dict[str, spaces.Space] = {
    "float32": VECTOR,
    "float64": spaces.Box(-1.0, 1.0, (3,), np.float64),
    "matrix": spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    "image": IMAGE,
    "discrete": spaces.Discrete(5),
    "binary": spaces.MultiBinary(4),
    "dict": spaces.Dict({"b": VECTOR, "a": IMAGE, "c": spaces.Discrete(3)}),
}


def observation(space: spaces.Space, n_envs: int) -> Any:
    """Return an observation of each environment."""
    if isinstance(space, spaces.Dict):
        return {key: observation(part, n_envs) for key, part in space.spaces.items()}
    return np.stack([np.asarray(space.sample()) for _ in range(n_envs)])


def filled(
    buffers: list[ReplayBuffer], space: spaces.Space, n_envs: int, steps: int
) -> list[ReplayBuffer]:
    """Return the buffers, with the same transitions in all of them."""
    space.seed(0)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        done = rng.random(n_envs) < 0.5
        infos = [{"TimeLimit.truncated": bool(d and rng.random() < 0.5)} for d in done]
        step = (observation(space, n_envs), observation(space, n_envs))
        action, reward = rng.uniform(-1, 1, (n_envs, 2)), rng.normal(size=n_envs)
        for buffer in buffers:
            buffer.add(*step, action, reward, done, infos)  # type: ignore[arg-type]
    return buffers


def assert_same_batches(buffers: list[ReplayBuffer], env: Any = None, **tolerance: float) -> None:
    """Draw a batch from each at the same seed, and compare."""
    batches = []
    for buffer in buffers:
        np.random.seed(3)
        batches.append(buffer.sample(17, env=env))
    for name in batches[0]._fields:
        expected, found = (getattr(batch, name) for batch in batches)
        pairs = (
            [(expected[key], found[key]) for key in expected]
            if isinstance(expected, dict)
            else [(expected, found)]
        )
        for one, other in pairs:
            if one is not None and one.dtype == torch.float64:
                one = one.float()
            torch.testing.assert_close(other, one, **(tolerance or {"rtol": 0.0, "atol": 0.0}))


@pytest.mark.parametrize("handle_timeouts", [True, False], ids=["timeouts", "no-timeouts"])
@pytest.mark.parametrize(("n_envs", "steps"), [(1, 5), (3, 4), (3, 11)], ids=str)
@pytest.mark.parametrize("name", SPACES)
def test_batches_are_those_of_sb3(
    name: str, n_envs: int, steps: int, handle_timeouts: bool
) -> None:
    space = SPACES[name]
    host = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    options: Any = {"n_envs": n_envs, "handle_timeout_termination": handle_timeouts}
    buffers = [
        kind(21, space, ACTIONS, device="cpu", **options) for kind in (host, DeviceReplayBuffer)
    ]
    first, second = filled(buffers, space, n_envs, steps)
    assert (second.pos, second.full, second.size()) == (first.pos, first.full, first.size())
    assert_same_batches(buffers)
    assert_same_batches([first, pickle.loads(pickle.dumps(second))])


class Idle(gym.Env):
    """An environment of a given observation space in which nothing happens."""

    action_space = ACTIONS

    def __init__(self, observation_space: spaces.Space) -> None:
        self.observation_space = observation_space


@pytest.mark.parametrize("name", ["float32", "dict"])
def test_normalises_as_vec_normalize_does(name: str) -> None:
    space = SPACES[name]
    host = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    buffers = [kind(20, space, ACTIONS, device="cpu") for kind in (host, DeviceReplayBuffer)]
    filled(buffers, space, 1, 12)
    keys = ["b"] if isinstance(space, spaces.Dict) else None
    env: Any = VecNormalize(
        DummyVecEnv([lambda: Idle(space)]), clip_obs=1.5, clip_reward=0.7, norm_obs_keys=keys
    )
    rng = np.random.default_rng(1)
    (env.obs_rms["b"] if keys else env.obs_rms).update(rng.normal(0.2, 0.5, (50, 3)))
    env.ret_rms.update(rng.normal(0.0, 2.0, 50))
    assert_same_batches(buffers, env, rtol=1e-6, atol=1e-6)
    env.norm_obs = env.norm_reward = False
    assert_same_batches(buffers, env)


@pytest.mark.parametrize("n_envs", [1, 2])
def test_training_equals_that_on_sb3s_buffer(n_envs: int, tmp_path: Path) -> None:
    states = []
    for kind in (ReplayBuffer, DeviceReplayBuffer):
        env = DummyVecEnv([lambda: TargetEnv(horizon=7)] * n_envs)
        model = trained(small_sacera(env=env, replay_buffer_class=kind))
        states.append(model.policy.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    model.save_replay_buffer(tmp_path / "buffer")
    model.load_replay_buffer(tmp_path / "buffer")
    assert model.replay_buffer is not None
    assert model.replay_buffer.device == model.device
    trained(model)


def test_n_step_returns_are_refused_by_name() -> None:
    """SB3 would ignore them, with a warning whose remedy is a TypeError here."""
    with pytest.raises(ValueError, match="n_steps=3 must be 1 with DeviceReplayBuffer"):
        small_sacera(n_steps=3, replay_buffer_class=DeviceReplayBuffer)


def test_refuses_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="optimize_memory_usage=True must be False"):
        DeviceReplayBuffer(10, VECTOR, ACTIONS, optimize_memory_usage=True)
    # 4 (2 x 3 + 2 + 2) bytes a transition
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 40, 10**6))
    monkeypatch.setattr("stable_baselines3.common.buffers.get_device", torch.device)
    monkeypatch.setattr(torch, "zeros", lambda *shape, **kwargs: torch.empty(shape, device="meta"))
    DeviceReplayBuffer(10, VECTOR, ACTIONS, device="cuda")
    with pytest.raises(
        ValueError, match="buffer_size=11 must be at most 10 transitions of 40 bytes"
    ):
        DeviceReplayBuffer(11, VECTOR, ACTIONS, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["float64", "dict"])
def test_batches_on_cuda_are_those_of_sb3(name: str) -> None:
    space = SPACES[name]
    host = DictReplayBuffer if isinstance(space, spaces.Dict) else ReplayBuffer
    buffers = [kind(20, space, ACTIONS, device="cuda") for kind in (host, DeviceReplayBuffer)]
    assert_same_batches(filled(buffers, space, 1, 25))
    on_cpu = pickle.loads(pickle.dumps(buffers[1]))
    assert on_cpu.storage.device is None or on_cpu.storage.device.type == "cpu"
