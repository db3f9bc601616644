"""Callbacks that watch the policy's entropy."""

import copy
import csv
import statistics
import warnings
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

COLUMNS = ("timesteps", "entropy_mean", "entropy_min", "entropy_max", "floor", "gradient_norm")


class ERAPolicy(Protocol):
    """What the callbacks need of a policy; every policy of this package has it."""

    actor: torch.nn.Module
    entropy_floor: float
    entropy_may_rise: bool

    def entropy(self, obs: Any) -> torch.Tensor:
        """Return the policy's own entropy in nats at each observation, shape (batch,)."""
        ...

    def obs_to_tensor(self, observation: Any) -> tuple[Any, bool]:
        """Return observations as tensors on the policy's device (SB3's)."""
        ...

    def set_training_mode(self, mode: bool) -> None:
        """Set train or eval mode (SB3's)."""
        ...


class EntropyMonitor(BaseCallback):
    """Measures the policy's true entropy on the states it visits, and warns of what goes wrong.

    Every ``check_freq`` callback steps the entropies H[pi(.|s)] of all states visited since the last
    check go to the logger (``entropy/*``, so to TensorBoard) and, given ``csv_path``, to a CSV file
    with the columns ``COLUMNS``; ``minimum`` keeps the smallest entropy met so far. Warns once each
    of an entropy that stays at the floor from the start though the head lets it rise, of NaN, and of
    a gradient spike.

    Args:
        check_freq: Steps of the (vectorised) environment between checks, at least 1.
        csv_path: File to write, or None. An existing file is continued.
        spike_factor: How many times its running median the actor's gradient norm must reach to be
            called a spike.
        verbose: SB3's verbosity.

    Raises:
        ValueError: If ``check_freq`` is below 1 or ``spike_factor`` not above 1.
    """

    def __init__(
        self,
        check_freq: int = 1_000,
        csv_path: str | Path | None = None,
        spike_factor: float = 100.0,
        verbose: int = 0,
    ) -> None:
        super().__init__(verbose)
        if check_freq < 1:
            raise ValueError(f"check_freq={check_freq} must be at least 1")
        if not spike_factor > 1.0:
            raise ValueError(f"spike_factor={spike_factor} must be above 1")
        self.check_freq = check_freq
        self.csv_path = None if csv_path is None else Path(csv_path)
        self.spike_factor = spike_factor
        self.minimum = float("inf")
        self._visited: list[Any] = []
        self._norms: list[float] = []
        self._checks = 0
        self._checks_at_floor = 0
        self._warned: set[str] = set()

    @property
    def _policy(self) -> ERAPolicy:
        return cast(ERAPolicy, self.model.policy)

    def _init_callback(self) -> None:
        if self.csv_path is not None and not self.csv_path.exists():
            self.csv_path.parent.mkdir(parents=True, exist_ok=True)
            self._write_row(COLUMNS)

    def _on_step(self) -> bool:
        # some vectorised environments reuse the array they return
        self._visited.append(copy.deepcopy(self.locals["new_obs"]))
        if len(self._visited) >= self.check_freq:
            self._check()
        return True

    def _on_training_end(self) -> None:
        if self._visited:
            self._check()

    def _check(self) -> None:
        entropy = self._entropies()
        floor = self._policy.entropy_floor
        norm = _gradient_norm(self._policy.actor)
        self.minimum = min(self.minimum, float(entropy.min()))
        values = (float(entropy.mean()), float(entropy.min()), float(entropy.max()), floor, norm)
        for name, value in zip(COLUMNS[1:], values, strict=True):
            self.logger.record(f"entropy/{name}", value)
        if self.csv_path is not None:
            self._write_row((self.num_timesteps, *values))
        self._judge(entropy, floor, norm)

    def _entropies(self) -> np.ndarray:
        first = self._visited[0]
        if isinstance(first, dict):
            visited = {key: np.concatenate([obs[key] for obs in self._visited]) for key in first}
        else:
            visited = np.concatenate(self._visited)
        self._visited = []
        # training ends in training mode, in which batch statistics are learned
        self._policy.set_training_mode(False)
        with torch.no_grad():
            return self._policy.entropy(self._policy.obs_to_tensor(visited)[0]).cpu().numpy()

    def _judge(self, entropy: np.ndarray, floor: float, norm: float) -> None:
        """Warn once of each thing that goes wrong."""
        if np.isnan(entropy).any():
            self._warn(
                "NaN",
                "the entropy is NaN on a visited state: look for NaN or huge observations "
                "(VecNormalize with clip_obs bounds them) and lower learning_rate",
            )
        self._checks += 1
        self._checks_at_floor += bool(np.max(entropy) < floor + 1e-3 * (1.0 + abs(floor)))
        if self._policy.entropy_may_rise and self._checks == self._checks_at_floor == 5:
            self._warn(
                "floor",
                "the entropy has been at the floor on every visited state from the start, though the "
                "head lets it rise: target_entropy may be above what the task wants, lower it",
            )
        if len(self._norms) >= 5 and norm > self.spike_factor * statistics.median(self._norms):
            self._warn(
                "spike",
                f"the actor's gradient norm {norm:.3g} is over {self.spike_factor:g} times its running "
                "median: lower learning_rate, use layer_norm=True, or raise log_std_min",
            )
        if norm > 0.0:  # 0 before the first update, which would make a spike of it
            self._norms = [*self._norms[-99:], norm]

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{message} (at step {self.num_timesteps})", stacklevel=2)

    def _write_row(self, row: tuple[Any, ...]) -> None:
        assert self.csv_path is not None
        with self.csv_path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def _gradient_norm(module: torch.nn.Module) -> float:
    """Return the norm of the gradients left by the last update, 0 before the first."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item() if gradients else 0.0
