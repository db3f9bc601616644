"""Environments of a run, each with a random stream of its own, whatever else is trained beside it."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import torch
from tensordict import TensorDictBase
from torchrl.data import Bounded, Composite
from torchrl.envs import (
    CatTensors,
    Compose,
    DMControlEnv,
    DoubleToFloat,
    EnvBase,
    GymEnv,
    InitTracker,
    ParallelEnv,
    RewardSum,
    SerialEnv,
    Transform,
    TransformedEnv,
)

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


class StreamEnv(TransformedEnv):
    """An environment that mixes its stream's name into every seed it is given.

    So one ``set_seed(epoch)`` for a whole batch of environments gives each the seed that it would get
    in any other batch, and environments of different agents share none. The seed sets the action noise
    too.
    """

    def __init__(
        self, env: EnvBase, transforms: list[Transform], noise_dim: int, stream: tuple[int, ...]
    ) -> None:
        self.stream, self.generator = stream, torch.Generator()
        super().__init__(env, Compose(*transforms, ActionNoise(noise_dim, self.generator)))

    def set_seed(self, seed: int | None = None, static_seed: bool = False) -> int | None:
        """Seed the environment from (stream, seed) and return ``seed`` for the next one."""
        self.generator.manual_seed(derived_seed(*self.stream, seed or 0, 1))
        super().set_seed(derived_seed(*self.stream, seed or 0), static_seed=True)
        return seed


def derived_seed(*words: int) -> int:
    """Return a seed in [0, 2^31) that is a hash of the words."""
    return int(np.random.SeedSequence(words).generate_state(1)[0]) >> 1


def make_env(env_id: str, stream: tuple[int, ...] = (0,)) -> StreamEnv:
    """Return one environment with float32 ``observation``, ``episode_reward`` and ``noise``.

    Args:
        env_id: A gymnasium id, or ``dm_control/<domain>-<task>-v0``, whose observations are joined in
            dm_control's own order.
        stream: The name of its random stream.

    Raises:
        ValueError: If there is no such environment, or dm_control is not installed.
    """
    # TorchRL's collectors warn where InitTracker is absent
    transforms: list[Any] = [DoubleToFloat(), RewardSum(), InitTracker()]
    env = _host_env(env_id)
    if isinstance(env, DMControlEnv):
        keys = list(env.observation_spec.keys())
        transforms.insert(1, CatTensors(keys, "observation", sort=False))
    spec = env.action_spec
    noise_dim = spec.shape[-1] if spec.dtype.is_floating_point else 1
    return StreamEnv(env, transforms, noise_dim, stream)


def _host_env(env_id: str) -> EnvBase:
    """Return TorchRL's environment of that id."""
    try:
        if env_id.startswith("dm_control/"):
            name = env_id.removeprefix("dm_control/").removesuffix("-v0")
            domain, _, task = name.partition("-")
            return DMControlEnv(domain, task)
        return GymEnv(env_id)
    except ImportError as error:
        raise ValueError(
            f"env={env_id!r} needs dm_control, of the extra bench: pip install -e '.[bench]'"
        ) from error
    except (gymnasium.error.Error, RuntimeError) as error:
        raise ValueError(
            f"env={env_id!r} must be a gymnasium id or dm_control/DOMAIN-TASK-v0: {error}"
        ) from error


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
