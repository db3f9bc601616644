"""Wrappers for any environment of gymnasium, in the order in which the paper's code applies them."""

from typing import Any, SupportsFloat

import gymnasium
from gymnasium.core import ActType, ObsType
from gymnasium.utils import RecordConstructorArgs


class NoTermination(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], RecordConstructorArgs):
    """Lets episodes go on where the environment would end them: ``terminated`` is always False.

    A time limit within stays. The environment must bear steps after its termination, as MuJoCo
    tasks do.
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
        ValueError: If ``repeats`` is below 1.
    """

    def __init__(self, env: gymnasium.Env[ObsType, ActType], repeats: int) -> None:
        if repeats < 1:
            raise ValueError(f"repeats={repeats} must be at least 1")
        RecordConstructorArgs.__init__(self, repeats=repeats)
        super().__init__(env)
        self.repeats = repeats
        if "render_fps" in env.metadata:
            self.metadata = {**env.metadata, "render_fps": env.metadata["render_fps"] / repeats}

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Repeat the action; observation and info are the last step's."""
        total = 0.0
        for _ in range(self.repeats):
            observation, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return observation, total, terminated, truncated, info  # pyright: ignore[reportPossiblyUnboundVariable]
