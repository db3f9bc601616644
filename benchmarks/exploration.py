"""How much of the state space a training run has seen, and what its floor or its coefficient costs."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import KVWriter
from torch import Tensor

from era_rl.sb3.callbacks import MeasuringCallback

STATES, NEIGHBOUR = 1_000, 3
"""Of how many states, to the how many'th neighbour."""
LOGGED = ("entropy_price", "ent_coef")
"""What training logs of the price of noise: of a floor, in return a nat, or a coefficient."""
COLUMNS = ("timesteps", "coverage", *LOGGED)


def coverage(states: Tensor, std: Tensor) -> float:
    """Return mean_i ln(1 + |s_i - s_i'|), s_i' the third nearest of the others, of scaled states.

    A particle estimate of the entropy of states, but for a constant and the number of features; 0 where
    all states are one. Of more than a thousand, so many are taken, evenly spaced.

    Args:
        states: (n, features), n above 3.
        std: What features are divided by, (features,); those of 0 do not count.

    Source: APT, arXiv 2103.04551, and RE3, arXiv 2102.09430, on states in the place of encodings.
    """
    chosen = torch.linspace(0, len(states) - 1, min(len(states), STATES)).long()
    scaled = torch.where(std > 0.0, states[chosen] / std, 0.0)
    nearest = torch.cdist(scaled, scaled).topk(NEIGHBOUR + 1, largest=False).values
    return nearest[:, NEIGHBOUR].log1p().mean().item()  # the nearest is the state itself


class Logged(KVWriter):
    """Keeps what a logger writes of ``LOGGED``, for means since the last time."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {name: [] for name in LOGGED}

    def write(self, key_values: dict[str, Any], key_excluded: Mapping, step: int = 0) -> None:
        """Take note of what is written (SB3's hook)."""
        for name, values in self.values.items():
            if (value := key_values.get(f"train/{name}")) is not None:
                values.append(float(value))

    def close(self) -> None:
        """Do nothing (SB3's hook)."""

    def means(self) -> list[float]:
        """Return the mean of each since the last call, NaN of none."""
        means = [float(np.mean(v)) if v else float("nan") for v in self.values.values()]
        self.values = {name: [] for name in LOGGED}
        return means


class Exploration(MeasuringCallback):
    """Measures the :func:`coverage` of all states so far, as the replay buffer has them.

    Features are divided by their std in the first ``learning_starts`` steps, in which actions are
    random in every arm. Nothing is kept between checks, so a resumed run measures the same. Beside it
    stand the means since the last check of what ``LOGGED`` names.

    Args:
        check_freq: Environment steps between checks, of all environments together, at least 1.
        csv_path: File to write; a run that is resumed continues it.
    """

    def __init__(self, check_freq: int, csv_path: Any) -> None:
        super().__init__("exploration", COLUMNS, check_freq, csv_path, 0)

    def _init_callback(self) -> None:
        super()._init_callback()
        model: Any = self.model
        buffer = getattr(model, "replay_buffer", None)
        if buffer is None or isinstance(buffer.observations, dict):
            raise ValueError(
                f"model={type(model).__name__} must have a replay buffer of vectors to be explored with"
            )

    def _on_training_start(self) -> None:
        self._logged = Logged()
        self.logger.output_formats.append(self._logged)
        self._next_check = self.num_timesteps + self.check_freq

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._next_check:
            self._next_check = self.num_timesteps + self.check_freq
            self._record([self._coverage(), *self._logged.means()])
        return True

    def _coverage(self) -> float:
        model: Any = self.model
        buffer = model.replay_buffer
        found = torch.as_tensor(buffer.observations[: buffer.size()]).flatten(0, 1).flatten(1)
        first = found[: max(model.learning_starts, 2)].float()
        return coverage(found.float(), first.std(dim=0))
