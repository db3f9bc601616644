"""How a trained policy acts best: its mode, its mean, or samples, from the same starts of episodes."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

SAMPLES = 64
"""Sampled actions that a mean is taken of: its error is an eighth of the policy's std."""


WAYS = ("mode", "mean", "sample")
"""What a policy can act with."""


class Predictor(Protocol):
    """What acts, as SB3's evaluation calls it."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return actions, and the state as it was."""
        ...


class MeanOfSamples:
    """Acts by the mean of the actions that a policy would execute: bounded, clipped, as sampled.

    For any algorithm with continuous actions: a truncated normal near a bound has its mode at the bound
    and its mean inside, and a normal whose actions are clipped the other way round.

    Args:
        model: The algorithm.
        samples: Actions sampled for each observation.
    """

    def __init__(self, model: BaseAlgorithm, samples: int = SAMPLES) -> None:
        self.model = model
        self.samples = samples

    def predict(
        self,
        observation: np.ndarray,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Return mean actions, (batch, action_dim), of observations (batch, ...)."""
        actions, _ = self.model.predict(np.repeat(observation, self.samples, axis=0))
        return actions.reshape(-1, self.samples, *actions.shape[1:]).mean(axis=1), state


def returns_by_action(
    model: BaseAlgorithm, make_env: Callable[[], VecEnv], episodes: int
) -> dict[str, list[float]]:
    """Return the episodes' returns of a model that acts by its mode, its mean and its samples.

    Args:
        model: The algorithm.
        make_env: Makes the same environments, seeded, at every call.
        episodes: How many episodes of each.
    """
    predictors: Mapping[str, Predictor] = {
        "mode": model,
        "mean": MeanOfSamples(model),
        "sample": model,
    }
    found = {}
    for way in WAYS:
        env = make_env()
        sync_envs_normalization(model.get_env(), env)  # type: ignore[arg-type]
        returns, _ = evaluate_policy(
            predictors[way],
            env,
            n_eval_episodes=episodes,
            deterministic=way == "mode",
            return_episode_rewards=True,
        )
        env.close()
        found[way] = [float(value) for value in returns]
    return found
