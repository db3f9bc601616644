"""Replay buffers in checkpoints: whole again whatever they hold, or refused."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env

from era_rl.runs.folder import checkpoints
from era_rl.runs.settings import SettingsError
from era_rl.sb3 import SACERA, run_checkpoint
from era_rl.sb3.buffers import DeviceReplayBuffer
from era_rl.sb3.run_checkpoint import restore_buffer, save_checkpoint


def model(kind: Any) -> SACERA:
    options = {"learning_starts": 100, "policy_kwargs": {"net_arch": [4]}, "buffer_size": 50}
    env = make_vec_env("Pendulum-v1", seed=0)
    return SACERA("MlpPolicy", env, replay_buffer_class=kind, **options)


# SB3 warns of the last trajectory, which is cut off on purpose
@pytest.mark.filterwarnings("ignore:The last trajectory in the replay buffer")
def test_her_infos_come_back_without_pickle(tmp_path: Path) -> None:
    """The buffer with arrays of objects and dicts of arrays."""

    def model() -> SACERA:
        from stable_baselines3 import HerReplayBuffer
        from stable_baselines3.common.envs import BitFlippingEnv

        env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=5)
        kwargs = {"copy_info_dict": True, "n_sampled_goal": 2}
        options = {"learning_starts": 100, "buffer_size": 50, "policy_kwargs": {"net_arch": [4]}}
        return SACERA(
            "MultiInputPolicy",
            env,
            replay_buffer_class=HerReplayBuffer,
            replay_buffer_kwargs=kwargs,
            **options,
        )

    old, new = model().learn(23), model()
    save_checkpoint(old, tmp_path / "BitFlipping")
    restore_buffer(new, tmp_path / "checkpoint-23")
    assert new.replay_buffer.pos == 23
    before, after = (
        json.dumps(model.replay_buffer.infos[:23].tolist(), default=run_checkpoint._plain)
        for model in (old, new)
    )
    assert before == after
    assert "TimeLimit" in after
    for key, values in old.replay_buffer.observations.items():
        np.testing.assert_array_equal(new.replay_buffer.observations[key], values)


def test_a_buffer_on_the_device_comes_back(tmp_path: Path) -> None:
    """With the rows used, and no others."""
    old, new = model(DeviceReplayBuffer).learn(30), model(DeviceReplayBuffer)
    save_checkpoint(old, tmp_path / "Pendulum-v1")
    restore_buffer(new, tmp_path / "checkpoint-30")
    assert (new.replay_buffer.pos, new.replay_buffer.size()) == (30, 30)
    for name, rows in old.replay_buffer.storage.items():
        assert new.replay_buffer.storage[name].equal(rows)
        assert rows[:30].any()


class PrioritisedBuffer(ReplayBuffer):
    """State of every kind: by row and not, in lists, floats, texts, deques and dicts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.priorities = np.ones((self.buffer_size, self.n_envs), np.float32)
        self.tree = torch.zeros(2 * self.buffer_size - 1)
        self.total = torch.zeros(())
        self.max_priority, self.beta, self.note = 1.0, np.float32(0.4), None
        self.heap: list[float] = []
        self.recent: deque[int] = deque(maxlen=3)
        self.span = (0, 0)
        self.by_env = {"episodes": [0]}

    def add(self, *args: Any, **kwargs: Any) -> None:
        self.max_priority += 0.125
        self.beta += np.float32(0.01)
        self.priorities[self.pos] = self.max_priority
        self.tree[-1 - self.pos] = self.max_priority
        self.total += 1
        self.heap.append(self.max_priority)
        self.recent.append(self.pos)
        self.span, self.note = (1, self.pos), f"at {self.pos}"
        self.by_env["episodes"][0] += 1
        super().add(*args, **kwargs)


def test_a_prioritised_buffer_comes_back_whole(tmp_path: Path) -> None:
    """Every attribute of the restored buffer equals that of the saved one."""
    old, new = model(PrioritisedBuffer).learn(20), model(PrioritisedBuffer)
    save_checkpoint(old, tmp_path / "Pendulum-v1")
    restore_buffer(new, tmp_path / "checkpoint-20")
    before, after = vars(old.replay_buffer), vars(new.replay_buffer)
    assert before.keys() == after.keys()
    for name in before.keys() - {"timeouts", "observation_space", "action_space"}:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
        assert type(after[name]) is type(before[name]) or name == "beta"


def test_state_of_a_buffer_that_cannot_be_saved_is_refused_by_name(tmp_path: Path) -> None:
    model = SACERA("MlpPolicy", "Pendulum-v1", buffer_size=10, policy_kwargs={"net_arch": [4]})
    for value in (np.random.default_rng(0), {1: 2.0}, {"a": {3}}, [object()]):
        model.replay_buffer.extra = value
        with pytest.raises(SettingsError, match=r"extra.* of the replay buffer cannot be saved"):
            save_checkpoint(model, tmp_path / "Pendulum-v1")
    assert not checkpoints(tmp_path)
