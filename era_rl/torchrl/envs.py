"""Environments of a run, each with a random stream of its own, whatever else is trained beside it."""

import ast
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
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

from era_rl.envs.wrappers import ActionRepeat, RandomStream  # the package registers the ids
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
    # TorchRL's collectors warn where InitTracker is absent
    return TransformedEnv(env, Compose(DoubleToFloat(), RewardSum(), InitTracker()))


def make_envs(config: Config, n_envs: int, purpose: int) -> EnvBase:
    """Return n_envs environments for each agent, shape (seeds * n_envs,), agents outermost.

    Args:
        config: Its settings of environments and seeds.
        n_envs: Environments of each agent.
        purpose: Sets apart the streams of training, evaluation and each collector.
    """
    env_kwargs = read_kwargs(config.env_kwargs)
    makers = [
        partial(make_env, config.env, (seed, purpose, index), env_kwargs, config.action_repeat)
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
