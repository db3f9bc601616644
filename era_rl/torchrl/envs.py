"""Environments of a run, each with a random stream of its own, whatever else is trained beside it."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import torch
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    DTypeCastTransform,
    EnvBase,
    GymWrapper,
    InitTracker,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    TransformedEnv,
)

from era_rl.envs.wrappers import ActionRepeat, RandomStream  # the package registers the ids
from era_rl.runs.yaml_files import override
from era_rl.torchrl.config import Config


def make_env(
    env_id: str,
    stream: tuple[int, ...] = (0,),
    env_kwargs: Mapping[str, Any] | None = None,
    action_repeat: int = 1,
) -> TransformedEnv:
    """Return one environment with float32 ``observation``, ``episode_reward`` and ``noise``.

    Args:
        env_id: A gymnasium id; those of :mod:`era_rl.envs` are registered.
        stream: The name of its random stream.
        env_kwargs: Further arguments of ``gymnasium.make``.
        action_repeat: Steps that each action is taken for, their rewards summed.

    Raises:
        ValueError: If there is no such environment, what it runs on is not installed, or it does not
            take the arguments.
    """
    try:
        env = ActionRepeat(gymnasium.make(env_id, **(env_kwargs or {})), action_repeat)
        env = GymWrapper(RandomStream(env, stream))
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ValueError(f"env={env_id!r} cannot be made: {error}") from error
    to_float32 = DoubleToFloat(), DTypeCastTransform(torch.float16, torch.float32)
    # TorchRL's collectors warn where InitTracker is absent
    return TransformedEnv(env, Compose(*to_float32, RewardSum(), InitTracker()))


def make_envs(config: Config, n_envs: int, purpose: int) -> EnvBase:
    """Return n_envs environments for each agent, shape (seeds * n_envs,), agents outermost.

    ``purpose`` sets apart the streams of training, evaluation and each collector.
    """
    given = override({"env_kwargs": {}}, (f"env_kwargs.{pair}" for pair in config.env_kwargs))
    repeat = config.action_repeat
    makers = [
        partial(make_env, config.env, (seed, purpose, index), **given, action_repeat=repeat)
        for seed in config.agent_seeds
        for index in range(n_envs)
    ]
    batch = ParallelEnv if config.env_processes else SerialEnv
    return batch(len(makers), makers)
