"""Wrappers for any environment of gymnasium."""

from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray


class NoTermination(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Lets episodes go on where the environment would end them: ``terminated`` is always False.

    The environment must bear steps after its termination, as MuJoCo tasks do. Time limits belong
    outside, where they work with rl_zoo3's TimeLimit too (it does not truncate what terminates).
    """

    def __init__(self, env: gymnasium.Env[ObsType, ActType]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step that does not terminate."""
        observation, reward, _, truncated, info = self.env.step(action)
        return observation, reward, False, truncated, info


class ActionRepeat(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Takes each action ``repeats`` times, or until the episode ends, and sums the rewards.

    Args:
        env: Environment.
        repeats: Steps of the environment for one step of the wrapper, at least 1.

    Raises:
        ValueError: If ``repeats`` is not a whole number of at least 1.
    """

    def __init__(self, env: gymnasium.Env[ObsType, ActType], repeats: int) -> None:
        if repeats < 1 or repeats != int(repeats):
            raise ValueError(f"repeats={repeats} must be a whole number of at least 1")
        RecordConstructorArgs.__init__(self, repeats=repeats)
        super().__init__(env)
        self.repeats = repeats
        if "render_fps" in env.metadata:
            self.metadata = {**env.metadata, "render_fps": env.metadata["render_fps"] / repeats}

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Repeat the action; observation and info are the last step's."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        total = float(reward)
        for _ in range(self.repeats - 1):
            if terminated or truncated:
                break
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
        return observation, total, terminated, truncated, info


class Float32Observation(
    gymnasium.ObservationWrapper[NDArray[np.float32], Any, NDArray[Any]], RecordConstructorArgs
):
    """Observations in float32, which halves the replay buffer of MuJoCo Gym's tasks.

    Args:
        env: Environment whose observation space is a Box.

    Raises:
        ValueError: If it is another space.
    """

    def __init__(self, env: gymnasium.Env[NDArray[Any], Any]) -> None:
        space = env.observation_space
        if not isinstance(space, gymnasium.spaces.Box):
            raise ValueError(f"the observation space of {env} must be a Box, not {space}")
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        self.observation_space = gymnasium.spaces.Box(low, high, dtype=np.float32)

    def observation(self, observation: NDArray[Any]) -> NDArray[np.float32]:
        """Return the observation in float32."""
        return observation.astype(np.float32)
