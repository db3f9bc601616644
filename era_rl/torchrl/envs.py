"""Environments of a run, each with a random stream of its own, whatever else is trained beside it."""

from functools import partial
from typing import Any

import numpy as np
from torchrl.envs import (
    CatTensors,
    Compose,
    DMControlEnv,
    DoubleToFloat,
    EnvBase,
    GymEnv,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    TransformedEnv,
)

from era_rl.torchrl.config import Config


class StreamEnv(TransformedEnv):
    """An environment that mixes its stream's name into every seed it is given.

    So one ``set_seed(epoch)`` for a whole batch of environments gives each the seed that it would get
    in any other batch, and environments of different agents share none.
    """

    def __init__(self, env: EnvBase, transform: Compose, stream: tuple[int, ...]) -> None:
        super().__init__(env, transform)
        self.stream = stream

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the environment from (stream, seed) and return ``seed`` for the next one."""
        super().set_seed(derived_seed(*self.stream, seed or 0), static_seed=True)
        return seed


def derived_seed(*words: int) -> int:
    """Return a seed in [0, 2^31) that is a hash of the words."""
    return int(np.random.SeedSequence(words).generate_state(1)[0]) >> 1


def make_env(env_id: str, stream: tuple[int, ...] = (0,)) -> StreamEnv:
    """Return one environment with float32 ``observation`` and ``episode_reward``.

    Args:
        env_id: A gymnasium id, or ``dm_control/<domain>-<task>-v0``, whose observations are joined in
            dm_control's own order.
        stream: The name of its random stream.
    """
    transforms: list[Any] = [DoubleToFloat(), RewardSum()]
    if env_id.startswith("dm_control/"):
        domain, task = env_id.removeprefix("dm_control/").removesuffix("-v0").split("-", 1)
        env: EnvBase = DMControlEnv(domain, task)
        keys = list(env.observation_spec.keys())
        transforms.insert(1, CatTensors(keys, "observation", sort=False))
    else:
        env = GymEnv(env_id)
    return StreamEnv(env, Compose(*transforms), stream)


def make_envs(config: Config, num_envs: int, purpose: int) -> EnvBase:
    """Return num_envs environments for each agent, shape (seeds * num_envs,), agents outermost.

    Args:
        config: Its ``env``, ``seed``, ``seeds`` and ``env_processes``.
        num_envs: Environments of each agent.
        purpose: Sets apart the streams of training, evaluation and each collector.
    """
    makers = [
        partial(make_env, config.env, (seed, purpose, index))
        for seed in config.agent_seeds
        for index in range(num_envs)
    ]
    batch = ParallelEnv if config.env_processes else SerialEnv
    return batch(len(makers), makers)
