"""What a training run records of its policy, for ERA's algorithms and for stock ones alike."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from torch import Tensor

from era_rl.sb3.callbacks import VisitedStatesCallback, gradient_norm, read_table
from era_rl.sb3.gradient_conflict import actor_parameters, policy_at

COLUMNS = (
    *("timesteps", "entropy_mean", "entropy_min", "entropy_max", "floor", "margin_min"),
    *("log_std_mean", "log_std_min", "gradient_norm", "seconds"),
)
EACH = ("std", "entropy", "lowest")
"""Columns of each dimension, as ``std_0``: mean std, mean entropy and the lowest of any state."""


class PolicyTrace(VisitedStatesCallback):
    """Measures, on all states visited since the last check, entropy, floor and std of the policy.

    The entropy H[pi(.|s)] in nats is the policy's own: of the truncated normal, of SAC's squashed
    normal (by quadrature), of PPO's unbounded normal before its actions are clipped, of DQN's random
    share of actions. Floor and margin, min_s H[pi(.|s)] - H0, are NaN for policies without a floor, and
    stds for discrete actions. ``seconds`` is the wall time spent in
    training and evaluation, that of the segments before a resume included. ``EACH`` follow for every
    dimension of bounded ones.

    Args:
        check_freq: Environment steps between checks, of all environments together, at least 1.
        csv_path: File to write; a run that is resumed continues it.
    """

    def __init__(self, check_freq: int, csv_path: Path) -> None:
        before = read_table(csv_path).get("seconds", np.empty(0))
        self._seconds_before = before[-1] if len(before) else 0.0
        super().__init__("trace", COLUMNS, check_freq, csv_path, 0)

    def _init_callback(self) -> None:
        space = self.model.action_space
        self._dims = math.prod(space.shape) if isinstance(space, spaces.Box) else 0
        self.columns = (*COLUMNS, *(f"{name}_{i}" for name in EACH for i in range(self._dims)))
        super()._init_callback()

    def _on_training_start(self) -> None:
        self._started = time.monotonic()

    def _measure(self, visited: Any, floors: np.ndarray) -> list[Any]:
        obs: Any = self.model.policy.obs_to_tensor(visited)[0]
        figures = entropies_and_log_std(self.model, obs)
        return [floors, *(figure.detach().cpu() for figure in figures)]

    def _check(self, *measured: np.ndarray) -> None:
        floors, entropies, log_std = measured
        entropy = entropies.sum(-1)
        row = [entropy.mean(), entropy.min(), entropy.max(), floors[-1], (entropy - floors).min()]
        norm = gradient_norm(actor_parameters(self.model), before=math.nan)
        row += [log_std.mean(), log_std.min(), norm]
        row.append(self._seconds_before + time.monotonic() - self._started)
        if self._dims:
            row += [*np.exp(log_std).mean(0), *entropies.mean(0), *entropies.min(0)]
        self._record([float(value) for value in row])


def entropies_and_log_std(model: Any, obs: Any) -> tuple[Tensor, Tensor]:
    """Return the entropies and log stds of a policy's dimensions, each (batch, action_dim).

    Of discrete actions there is one, and no std. DQN's is that of acting at random in a share epsilon,
    in every state: of the probabilities 1 - epsilon + epsilon / n, once, and epsilon / n, n - 1 times.
    """
    if isinstance(model, DQN):
        probs = torch.full((int(model.action_space.n),), model.exploration_rate)  # type: ignore[attr-defined]
        probs /= len(probs)
        probs[0] += 1.0 - model.exploration_rate
        entropies = torch.special.entr(probs).sum().expand(len(obs), 1)
        return entropies, torch.full_like(entropies, math.nan)
    policy = policy_at(model, obs)
    entropies = policy.entropies()
    _, log_std = (*policy.params, torch.full_like(entropies, math.nan))[:2]
    return entropies, log_std
