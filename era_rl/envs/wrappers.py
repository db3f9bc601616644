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


class RandomStream(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment with a random stream: the seeds it is given, and noise for the policy's actions.

    The stream's name is mixed into every seed, so that one ``set_seed(epoch)`` for a whole batch of
    environments gives each the seed that it would get in any other batch, and environments of
    different agents share none. Observations have, beside ``observation``, uniform ``noise`` in [0, 1),
    which a policy turns into its action: it is a function of what it observes, in whatever process.

    Args:
        env: Environment.
        stream: The name of the stream.
    """

    def __init__(self, env: gymnasium.Env, stream: tuple[int, ...]) -> None:
        super().__init__(env)
        self.stream, self.seed, self.noise = stream, None, np.random.default_rng()
        self.noise_shape = getattr(env.action_space, "shape", None) or (1,)
        noise = gymnasium.spaces.Box(0.0, 1.0, self.noise_shape, np.float32)
        spaces = {"observation": env.observation_space, "noise": noise}
        self.observation_space = gymnasium.spaces.Dict(spaces)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the seed's own episode, and again at the next call: TorchRL's set_seed is the first."""
        seed, self.seed = self.seed if seed is None else seed, seed
        if seed is not None:
            self.noise = np.random.default_rng((*self.stream, seed, 1))
            seed = derived_seed(*self.stream, seed)
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_noise(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take a step, and draw new noise."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return self._with_noise(observation), reward, terminated, truncated, info

    def _with_noise(self, observation: Any) -> dict[str, Any]:
        noise = self.noise.random(self.noise_shape, np.float32)
        return {"observation": observation, "noise": noise}


def derived_seed(*words: int) -> int:
    """Return a seed in [0, 2^31) that is a hash of the words."""
    return int(np.random.SeedSequence(words).generate_state(1)[0]) >> 1
