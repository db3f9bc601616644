"""Action repeat and no termination, on an environment that counts."""

from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from rl_zoo3.gym_patches import PatchedTimeLimit

from era_rl.envs.wrappers import ActionRepeat, Float32Observation, NoTermination

# rl_zoo3 replaces gymnasium's, and is its subclass
(TimeLimit,) = PatchedTimeLimit.__bases__


class Counter(gymnasium.Env):
    """Rewards 1, 2, 3, ...; terminated from its fifth step on."""

    metadata: ClassVar = {"render_modes": [], "render_fps": 50}
    observation_space = gymnasium.spaces.Box(0.0, 100.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += 1
        observation = np.full(1, self.count, np.float32)
        return observation, float(self.count), self.count >= 5, False, {"count": self.count}


def episode(env: gymnasium.Env) -> list[tuple[float, float, bool, bool]]:
    env.reset(seed=0)
    steps = []
    while not steps or not (steps[-1][2] or steps[-1][3]):
        observation, reward, terminated, truncated, info = env.step(np.zeros(1, np.float32))
        assert observation.item() == info["count"]
        steps.append((observation.item(), reward, terminated, truncated))
    return steps


def test_repeats_sum_rewards_and_stop_at_the_end():
    env = ActionRepeat(Counter(), 2)
    assert episode(env) == [(2, 3, False, False), (4, 7, False, False), (5, 5, True, False)]
    assert env.metadata["render_fps"] == 25
    assert Counter.metadata["render_fps"] == 50


def test_one_repeat_changes_nothing():
    assert episode(ActionRepeat(Counter(), 1)) == episode(Counter())


@pytest.mark.parametrize("limit", [TimeLimit, PatchedTimeLimit])
def test_without_terminations_the_time_limit_ends_episodes(limit):
    steps = episode(limit(NoTermination(Counter()), 8))
    assert [step[2:] for step in steps] == [(False, False)] * 7 + [(False, True)]


@pytest.mark.parametrize("limit", [TimeLimit, PatchedTimeLimit])
def test_the_papers_setting(limit):
    """A time limit in single steps, and the repeats."""
    env = ActionRepeat(limit(NoTermination(Counter()), 7), 2)
    assert episode(env) == [
        (2, 3, False, False),
        (4, 7, False, False),
        (6, 11, False, False),
        (7, 7, False, True),
    ]


@pytest.mark.parametrize("repeats", [0, 1.5])
def test_repeats_must_be_whole_and_at_least_one(repeats):
    message = f"repeats={repeats} must be a whole number of at least 1"
    with pytest.raises(ValueError, match=message):
        ActionRepeat(Counter(), repeats)


def test_float32_observations_need_a_box():
    env = gymnasium.make("FrozenLake-v1")
    with pytest.raises(ValueError, match=r"must be a Box, not Discrete\(16\)"):
        Float32Observation(env)


def test_float32_observations():
    plain, env = gymnasium.make("Hopper-v5"), Float32Observation(gymnasium.make("Hopper-v5"))
    assert env.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (11,), np.float32)
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    np.testing.assert_array_equal(observation, plain.reset(seed=0)[0].astype(np.float32))
