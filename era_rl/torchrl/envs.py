"""Environments of a run, each with a random stream of its own, whatever else is trained beside it."""

import ast
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.data import Bounded, Composite
from torchrl.envs import (
    Compose,
    DoubleToFloat,
    EnvBase,
    GymWrapper,
    InitTracker,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    Transform,
    TransformedEnv,
)

import era_rl.envs  # noqa: F401 (registers ids)
from era_rl.torchrl.config import Config


class ActionNoise(Transform):
    """Adds uniform noise in [0, 1), which the policy turns into its action, to every observation.

    With it a policy is a function of what it observes, in whatever process it runs.

    Args:
        noise_dim: Last dimension of the noise.
        generator: Source of the noise.
    """

    def __init__(self, noise_dim: int, generator: torch.Generator) -> None:
        super().__init__(out_keys=["noise"])
        self.noise_dim, self.generator = noise_dim, generator

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        return next_tensordict.set("noise", torch.rand(self.noise_dim, generator=self.generator))

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: Composite) -> Composite:
        """Add the noise to the specs."""
        observation_spec["noise"] = Bounded(0.0, 1.0, (self.noise_dim,))
        return observation_spec


class StreamEnv(GymWrapper):
    """A gymnasium environment that mixes its stream's name into every seed it is given.

    So one ``set_seed(epoch)`` for a whole batch of environments gives each the seed that it would get
    in any other batch, and environments of different agents share none. As in Stable-Baselines3 the
    next episode is the seed's own (TorchRL's begins that one, and gives the one after). The seed sets
    ``generator``, of the action noise, too.
    """

    def __init__(self, env: Any, *, stream: tuple[int, ...], **kwargs: Any) -> None:
        self.stream, self.generator = stream, torch.Generator()
        self._next_seed: int | None = None
        super().__init__(env, **kwargs)

    def _set_seed(self, seed: int | None) -> None:
        self.generator.manual_seed(derived_seed(*self.stream, seed or 0, 1))
        self._next_seed = derived_seed(*self.stream, seed or 0)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDictBase:
        seed, self._next_seed = self._next_seed, None
        return super()._reset(tensordict, **{"seed": seed, **kwargs})


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
        env = StreamEnv(gymnasium.make(env_id, **(env_kwargs or {})), stream=stream)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        raise ValueError(f"env={env_id!r} cannot be made: {error}") from error
    spec = env.action_spec
    noise_dim = spec.shape[-1] if spec.dtype.is_floating_point else 1
    noise = ActionNoise(noise_dim, env.generator)
    # TorchRL's collectors warn where InitTracker is absent
    return TransformedEnv(env, Compose(DoubleToFloat(), RewardSum(), InitTracker(), noise))


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
