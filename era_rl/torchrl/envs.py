"""Environments of a run, each with a random stream of its own, whatever else is trained beside it."""

import ast
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    EnvBase,
    GymWrapper,
    InitTracker,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    TransformedEnv,
)

import era_rl.envs  # noqa: F401 (registers ids)
from era_rl.torchrl.config import Config


class StreamEnv(gymnasium.Wrapper):
    """An environment with a random stream: the seeds it is given, and noise for the policy's actions.

    The stream's name is mixed into every seed, so that one ``set_seed(epoch)`` for a whole batch of
    environments gives each the seed that it would get in any other batch, and environments of
    different agents share none. Observations have, beside ``observation``, uniform ``noise`` in [0, 1),
    which the policy turns into its action: it is a function of what it observes, in whatever process.
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
        observation, *rest = self.env.step(action)
        return self._with_noise(observation), *rest

    def _with_noise(self, observation: Any) -> dict[str, Any]:
        noise = self.noise.random(self.noise_shape, np.float32)
        return {"observation": observation, "noise": noise}


def derived_seed(*words: int) -> int:
    """Return a seed in [0, 2^31) that is a hash of the words."""
    return int(np.random.SeedSequence(words).generate_state(1)[0]) >> 1


def make_env(
    env_id: str, stream: tuple[int, ...] = (0,), env_kwargs: Mapping[str, Any] | None = None
) -> TransformedEnv:
    """Return one environment with float32 ``observation``, ``episode_reward`` and ``noise``.

    Args:
        env_id: A gymnasium id; those of :mod:`era_rl.envs` are registered.
        stream: The name of its random stream.
        env_kwargs: Further arguments of ``gymnasium.make``.

    Raises:
        ValueError: If there is no such environment, what it runs on is not installed, or it does not
            take the arguments.
    """
    try:
        env = GymWrapper(StreamEnv(gymnasium.make(env_id, **(env_kwargs or {})), stream))
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ValueError(f"env={env_id!r} cannot be made: {error}") from error
    # TorchRL's collectors warn where InitTracker is absent
    return TransformedEnv(env, Compose(DoubleToFloat(), RewardSum(), InitTracker()))


def make_envs(config: Config, n_envs: int, purpose: int) -> EnvBase:
    """Return n_envs environments for each agent, shape (seeds * n_envs,), agents outermost.

    Args:
        config: Its ``env``, ``env_kwargs``, ``seed``, ``seeds`` and ``env_processes``.
        n_envs: Environments of each agent.
        purpose: Sets apart the streams of training, evaluation and each collector.
    """
    env_kwargs = read_kwargs(config.env_kwargs)
    makers = [
        partial(make_env, config.env, (seed, purpose, index), env_kwargs)
        for seed in config.agent_seeds
        for index in range(n_envs)
    ]
    batch = ParallelEnv if config.env_processes else SerialEnv
    return batch(len(makers), makers)


def read_kwargs(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the arguments that texts KEY=VALUE give: Python's literals, or else texts.

    Raises:
        ValueError: If a text is not KEY=VALUE.
    """
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not (equals and name.isidentifier()):
            raise ValueError(f"env_kwargs={pair!r} must be KEY=VALUE")
        text = {"true": "True", "false": "False", "none": "None"}.get(text.lower(), text)
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found
