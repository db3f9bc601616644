"""What a training run records of its policy, for ERA's algorithms and for stock ones alike."""

import csv
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from era_rl.sb3.callbacks import VisitedStatesCallback
from era_rl.sb3.gradient_conflict import actor_parameters, policy_at

COLUMNS = (
    *("timesteps", "entropy_mean", "entropy_min", "entropy_max", "floor", "margin_min"),
    *("log_std_mean", "log_std_min", "gradient_norm", "seconds"),
)


class PolicyTrace(VisitedStatesCallback):
    """Measures, on all states visited since the last check, entropy, floor and std of the policy.

    The entropy H[pi(.|s)] in nats is the policy's own: of the truncated normal, of SAC's squashed
    normal (by quadrature), of PPO's unbounded normal before its actions are clipped. Floor and margin,
    min_s H[pi(.|s)] - H0, are NaN for policies without a floor. ``seconds`` is the wall time spent in
    training and evaluation, that of the segments before a resume included.

    Args:
        check_freq: Environment steps between checks, of all environments together, at least 1.
        csv_path: File to write; a run that is resumed continues it.
    """

    def __init__(self, check_freq: int, csv_path: Path) -> None:
        self._seconds_before = float(rows[-1][-1]) if (rows := read_rows(csv_path)) else 0.0
        super().__init__("trace", COLUMNS, check_freq, csv_path, 0)

    def _on_training_start(self) -> None:
        self._started = time.monotonic()

    def _measure(self, visited: Any, floors: np.ndarray) -> list[Any]:
        obs: Any = self.model.policy.obs_to_tensor(visited)[0]
        return [floors, *(figure.detach().cpu() for figure in entropy_and_log_std(self.model, obs))]

    def _check(self, *measured: np.ndarray) -> None:
        floors, entropy, log_std = measured
        entropies = [x.item() for x in (entropy.mean(), entropy.min(), entropy.max())]
        self._record(
            [
                *(*entropies, floors[-1], (entropy - floors).min()),
                *(log_std.mean().item(), log_std.min().item(), self._gradient_norm()),
                self._seconds_before + time.monotonic() - self._started,
            ]
        )

    def _gradient_norm(self) -> float:
        """Return the norm of the gradients that the last update left in the actor."""
        gradients = [p.grad for p in actor_parameters(self.model) if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients).item() if gradients else math.nan


def entropy_and_log_std(model: Any, obs: Any) -> tuple[Tensor, Tensor]:
    """Return the policy's entropies, (batch,), and log stds, (batch, action_dim), at observations."""
    policy = policy_at(model, obs)
    return policy.entropy(policy.params), policy.params[1]


def read_rows(path: Path) -> list[list[float]]:
    """Return the rows of a measuring callback's file, without header and without a torn last line."""
    if not path.exists():
        return []
    rows = list(csv.reader(path.read_text().split("\n")[:-1]))[1:]
    return [[float(value) for value in row] for row in rows]
