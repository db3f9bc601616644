"""Callbacks that watch the policy's entropy."""

import copy
import csv
import statistics
import warnings
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from era_rl.sb3.base import ERAPolicy

COLUMNS = (
    *("timesteps", "entropy_mean", "entropy_min", "entropy_max"),
    *("floor", "margin_min", "gradient_norm"),
)


MOST_STATES, MOST_BYTES = 2_048, 2**24
"""How many visited states are kept at once, and how much memory they take."""


class MeasuringCallback(BaseCallback):
    """Sends rows of figures to the logger, to a list and to a CSV file.

    Args:
        prefix: Prefix of the figures' names in the logger.
        columns: Names of the figures, "timesteps" first.
        check_freq: Steps of the (vectorised) environment between checks, at least 1.
        csv_path: File to write, or None. A new training begins it anew, a resumed one continues it.
        verbose: SB3's verbosity.

    Raises:
        ValueError: If ``check_freq`` is below 1, or at the start of a resumed training if the file has
            other columns.
    """

    def __init__(
        self,
        prefix: str,
        columns: Sequence[str],
        check_freq: int,
        csv_path: str | Path | None,
        verbose: int,
    ) -> None:
        super().__init__(verbose)
        if check_freq < 1:
            raise ValueError(f"check_freq={check_freq} must be at least 1")
        self.prefix = prefix
        self.columns = tuple(columns)
        self.check_freq = check_freq
        self.csv_path = None if csv_path is None else Path(csv_path)
        self.rows: list[Any] = []
        """Named tuples of the columns, a row a check."""

    def _init_callback(self) -> None:
        path = self.csv_path
        if path is None:
            return
        if self.model.num_timesteps == 0 or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
            self._write(self.columns)
            return
        with path.open(newline="") as file:
            found = next(csv.reader(file), [])
        if tuple(found) != self.columns:
            raise ValueError(
                f"csv_path={str(path)!r} must have the columns {', '.join(self.columns)}, to be "
                f"continued, not {', '.join(found)}: give another file"
            )

    def _record(self, values: Sequence[float]) -> None:
        """Log, keep and write the figures of one check."""
        for name, value in zip(self.columns[1:], values, strict=True):
            self.logger.record(f"{self.prefix}/{name}", value)
        self.rows.append(namedtuple("Row", self.columns)(self.num_timesteps, *values))
        if self.csv_path is not None:
            self._write(self.rows[-1])

    def _write(self, row: Sequence[Any]) -> None:
        assert self.csv_path is not None
        with self.csv_path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


class VisitedStatesCallback(MeasuringCallback):
    """Measures the policy in each state acted in, and every ``check_freq`` steps makes a row of it.

    States wait to be measured together, but few: many images would fill the memory. Arguments are
    those of :class:`MeasuringCallback`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._visited: list[Any] = []
        self._measured: list[tuple[np.ndarray, ...]] = []
        self._steps = 0

    def _on_step(self) -> bool:
        # some vectorised environments reuse their arrays
        self._visited.append(copy.deepcopy(self.model._last_obs))  # type: ignore[attr-defined]
        self._steps += 1
        last = _concatenate(self._visited[-1:])
        parts = list(last.values()) if isinstance(last, dict) else [last]
        n = len(self._visited)
        if n * len(parts[0]) >= MOST_STATES or n * sum(p.nbytes for p in parts) >= MOST_BYTES:
            self._measure_visited()
        if self._steps >= self.check_freq:
            self._make_row()
        return True

    def _on_training_end(self) -> None:
        if self._steps:
            self._make_row()

    def _measure_visited(self) -> None:
        if self._visited:
            visited, self._visited = _concatenate(self._visited), []
            self.model.policy.set_training_mode(False)  # or batch statistics would be learned
            with torch.no_grad():
                measured = self._measure(visited)
            # sums of float32 are exact in float64
            self._measured.append(tuple(np.asarray(values, np.float64) for values in measured))

    def _make_row(self) -> None:
        self._measure_visited()
        measured, self._measured, self._steps = self._measured, [], 0
        self._check(*(np.concatenate(values) for values in zip(*measured, strict=True)))

    def _measure(self, visited: Any) -> Sequence[Any]:
        """Return arrays of figures of the policy at observations, each (n, ...), on the CPU."""
        raise NotImplementedError

    def _check(self, *measured: np.ndarray) -> None:
        """Record what was measured since the last check."""
        raise NotImplementedError


class EntropyMonitor(VisitedStatesCallback):
    """Measures the policy's true entropy on the states it visits, and warns of what goes wrong.

    Every ``check_freq`` callback steps the entropies H[pi(.|s)] of all states visited since the last
    check go to the logger (``entropy/*``, so to TensorBoard), to ``rows`` and, given ``csv_path``, to
    a CSV file, with the columns ``COLUMNS``. ``minimum`` keeps the smallest entropy met so far and
    ``margin`` the smallest H[pi(.|s)] - H0(s); the floor depends on the state under an action mask
    only. Warns once each of an entropy that stays at the floor from the start though the head lets it
    rise, of NaN, and of a gradient spike. PPO and A2C leave gradients clipped to ``max_grad_norm``, so
    ``gradient_norm`` is that of clipped ones there, and spikes go unseen.

    Args:
        check_freq: Steps of the (vectorised) environment between checks, at least 1.
        csv_path: File to write, or None. A new training begins it anew, a resumed one continues it.
        spike_factor: How many times its running median the actor's gradient norm must reach to be
            called a spike.
        verbose: SB3's verbosity.

    Raises:
        ValueError: If ``check_freq`` is below 1 or ``spike_factor`` not above 1, or at the start of
            training if the algorithm is not one of this package's, or the file has other columns.
    """

    def __init__(
        self,
        check_freq: int = 1_000,
        csv_path: str | Path | None = None,
        spike_factor: float = 100.0,
        verbose: int = 0,
    ) -> None:
        super().__init__("entropy", COLUMNS, check_freq, csv_path, verbose)
        if not spike_factor > 1.0:
            raise ValueError(f"spike_factor={spike_factor} must be above 1")
        self.spike_factor = spike_factor
        self.minimum = self.margin = float("inf")
        self._masks: list[Any] = []
        self._norms: list[float] = []
        self._checks = 0
        self._checks_at_floor = 0
        self._warned: set[str] = set()

    def _init_callback(self) -> None:
        if not hasattr(self.model.policy, "target_entropy"):
            raise ValueError(
                f"model={type(self.model).__name__} must be an algorithm of era_rl.sb3: others have no "
                "entropy in closed form, and no floor"
            )
        super()._init_callback()

    @property
    def _policy(self) -> ERAPolicy:
        return cast(ERAPolicy, self.model.policy)

    def _on_step(self) -> bool:
        masks = self.locals.get("action_masks")
        if masks is not None:
            self._masks.append(np.asarray(masks))
        return super()._on_step()

    def _measure(self, visited: Any) -> Sequence[Any]:
        """Return the entropies of the states visited, and their floors."""
        obs = self._policy.obs_to_tensor(visited)[0]
        if not self._masks:
            entropy = self._policy.entropy(obs).cpu()
            return entropy, torch.full_like(entropy, self._policy.target_entropy)
        mask, self._masks = np.concatenate(self._masks), []
        entropy = self._policy.entropy(obs, action_masks=mask).cpu()
        valid = torch.as_tensor(mask.reshape(len(entropy), -1) != 0, device=self.model.device)
        return entropy, self._policy.head.floor(valid).cpu()

    def _check(self, *measured: np.ndarray) -> None:
        entropy, floor = measured
        norm = _gradient_norm(self._policy.actor_parameters())
        margin = float((entropy - floor).min())
        self.minimum = float(np.minimum(self.minimum, entropy.min()))  # NaN, if there is one
        self.margin = float(np.minimum(self.margin, margin))
        entropies = (float(entropy.mean()), float(entropy.min()), float(entropy.max()))
        self._record((*entropies, float(np.mean(floor)), margin, norm))
        self._judge(entropy, floor, norm)

    def _judge(self, entropy: np.ndarray, floor: Any, norm: float) -> None:
        """Warn once of each thing that goes wrong."""
        if np.isnan(entropy).any():
            self._warn(
                "NaN",
                "the entropy is NaN on a visited state: look for NaN or huge observations "
                "(VecNormalize with clip_obs bounds them) and lower learning_rate",
            )
        self._checks += 1
        self._checks_at_floor += bool(
            np.max(entropy - floor) < 1e-3 * (1.0 + np.max(np.abs(floor)))
        )
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


def _concatenate(observations: list[Any]) -> Any:
    """Return observations of several steps as one batch; arrays or dicts of them."""
    if isinstance(observations[0], dict):
        return {key: np.concatenate([obs[key] for obs in observations]) for key in observations[0]}
    return np.concatenate(observations)


def _gradient_norm(parameters: list[torch.nn.Parameter]) -> float:
    """Return the norm of the gradients left by the last update, 0 before the first."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item() if gradients else 0.0
