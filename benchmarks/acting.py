"""How a trained policy acts best: its mode, its mean, or samples, from the same starts of episodes."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from era_rl.sb3.callbacks import MeasuringCallback

WAYS = ("mode", "mean", "sample")
"""What a policy can act with."""
SAMPLES = 64
"""Sampled actions that a mean is taken of: its error is an eighth of the policy's std."""


class MeanOfSamples:
    """Acts by the mean of the actions that a policy would execute: bounded, clipped, as sampled.

    For any algorithm with continuous actions: a truncated normal near a bound has its mode at the bound
    and its mean inside, and a normal whose actions are clipped the other way round.
    """

    def __init__(self, model: BaseAlgorithm, samples: int = SAMPLES) -> None:
        self.model = model
        self.samples = samples

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return mean actions, (batch, action_dim), of observations (batch, ...)."""
        assert isinstance(observation, np.ndarray)
        actions, _ = self.model.predict(np.repeat(observation, self.samples, axis=0))
        return actions.reshape(-1, self.samples, *actions.shape[1:]).mean(axis=1), state


def returns_by_action(
    model: BaseAlgorithm, make_env: Callable[[], VecEnv], episodes: int
) -> dict[str, list[float]]:
    """Return the episodes' returns of a model that acts by its mode, its mean and its samples.

    Discrete actions have no mean. ``make_env`` makes the same environments, seeded, at every call.
    """
    predictors: dict[str, PolicyPredictor] = dict.fromkeys(WAYS, model)
    predictors["mean"] = MeanOfSamples(model)
    found = {}
    bounded = isinstance(model.action_space, spaces.Box)
    for way in WAYS if bounded else ("mode", "sample"):
        env = make_env()
        sync_envs_normalization(model.get_env(), env)  # type: ignore[arg-type]
        returns: Any = evaluate_policy(
            predictors[way],
            env,
            n_eval_episodes=episodes,
            deterministic=way == "mode",
            return_episode_rewards=True,
        )[0]
        env.close()
        found[way] = [float(value) for value in returns]
    return found


class ActingAlong(MeasuringCallback):
    """Measures :func:`returns_by_action` in training; its random numbers are not the training's.

    Args:
        check_freq: Environment steps between checks, of all environments together, at least 1.
        csv_path: File to write; a run that is resumed continues it.
        make_env: As of :func:`returns_by_action`.
        episodes: As of :func:`returns_by_action`.
    """

    def __init__(
        self, check_freq: int, csv_path: Any, make_env: Callable[[], VecEnv], episodes: int
    ) -> None:
        super().__init__("acting", ("timesteps", *WAYS), check_freq, csv_path, 0)
        self._returns = partial(returns_by_action, make_env=make_env, episodes=episodes)

    def _on_step(self) -> bool:
        if self.num_timesteps % self.check_freq < self.training_env.num_envs:
            with torch.random.fork_rng():
                found = self._returns(self.model)
            self._record([float(np.mean(found.get(way, np.nan))) for way in WAYS])
        return True
