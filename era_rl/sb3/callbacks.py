"""Callbacks that watch the policy's entropy."""

import copy
import csv
import math
import statistics
import warnings
from collections import namedtuple
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from era_rl.core.feasibility import check_count, check_flag
from era_rl.core.head import as_number
from era_rl.sb3.metrics import std_figures

ENTROPY_COLUMNS = ("entropy_mean", "entropy_min", "entropy_max", "floor", "margin_min")
STD_COLUMNS = ("std", "std_min", "share_at_log_std_min")
PINNED_COLUMNS = frozenset(["entropy_mean", "entropy_max", "floor"])
"""What says nothing new where the entropy is held at the floor; it is in the CSV file alone."""

MOST_STATES, MOST_BYTES = 2_048, 2**24
"""How many visited states are kept at once, and how much memory they take."""


class MeasuringCallback(BaseCallback):
    """Sends rows of figures to the logger, to a list and to a CSV file.

    Args:
        prefix: Prefix of the figures' names in the logger.
        columns: Names of the figures, "timesteps" first.
        check_freq: Environment steps between checks, of all environments together, at least 1.
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
        check_count("check_freq", check_freq)
        self.prefix = prefix
        self.columns = tuple(columns)
        self.unlogged: frozenset[str] = frozenset()
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
            if name not in self.unlogged:
                self.logger.record(f"{self.prefix}/{name}", value)
        self.rows.append(namedtuple("Row", self.columns)(self.num_timesteps, *values))
        if self.csv_path is not None:
            self._write(self.rows[-1])

    def _write(self, row: Sequence[Any]) -> None:
        assert self.csv_path is not None
        with self.csv_path.open("a", newline="") as file:
            csv.writer(file).writerow(row)


def read_table(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of such a file by name, without a torn last line; {} where there is none."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    header, *rows = list(csv.reader(lines)) or [[]]
    table = np.array(rows, dtype=float).reshape(len(rows), len(header))
    return dict(zip(header, table.T, strict=True))


class VisitedStatesCallback(MeasuringCallback):
    """Measures the policy in each state acted in, and every ``check_freq`` steps makes a row of it.

    The policy measured is of the networks as they are then, at the floor in force when it acted. States
    wait to be measured together, but few: many images would fill the memory. Arguments are
    those of :class:`MeasuringCallback`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._visited: list[Any] = []
        self._floors: list[np.ndarray] = []
        self._measured: list[tuple[np.ndarray, ...]] = []
        self._steps = 0

    def _on_step(self) -> bool:
        # some vectorised environments reuse their arrays
        self._visited.append(copy.deepcopy(self.model._last_obs))  # type: ignore[attr-defined]
        n_envs = self.training_env.num_envs
        floor = getattr(self.model.policy, "target_entropy", math.nan)
        self._floors.append(np.full(n_envs, floor))
        self._steps += n_envs
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
            floors, self._floors = np.concatenate(self._floors), []
            self.model.policy.set_training_mode(False)  # or batch statistics would be learned
            with torch.no_grad(), self._holding(floors):
                measured = self._measure(visited, floors)
            # sums of float32 are exact in float64
            self._measured.append(tuple(np.asarray(values, np.float64) for values in measured))

    def _holding(self, floors: np.ndarray) -> AbstractContextManager[None]:
        """Hold each state's floor in the block, where it is another than the one in force."""
        head: Any = getattr(self.model.policy, "head", None)
        if head is None or (floors == head.target_entropy).all():
            return nullcontext()
        return head.holding(torch.as_tensor(floors, dtype=torch.float32, device=self.model.device))

    def _make_row(self) -> None:
        self._measure_visited()
        measured, self._measured, self._steps = self._measured, [], 0
        self._check(*(np.concatenate(values) for values in zip(*measured, strict=True)))

    def _measure(self, visited: Any, floors: np.ndarray) -> Sequence[Any]:
        """Return arrays of figures of the policy at observations, each (n, ...), on the CPU.

        Args:
            visited: Observations of n states.
            floors: H0 when it acted there, (n,); NaN for policies without one.
        """
        raise NotImplementedError

    def _check(self, *measured: np.ndarray) -> None:
        """Record what was measured since the last check."""
        raise NotImplementedError


class EntropyMonitor(VisitedStatesCallback):
    """Measures the policy's true entropy and its std on visited states, and warns of what goes wrong.

    Every ``check_freq`` environment steps figures of all states visited since the last check go to
    ``rows`` and, given ``csv_path``, to a CSV file: of the entropies H[pi(.|s)], of the floors H0(s) in
    force when the policy acted, margin_min = min_s H[pi(.|s)] - H0(s), and for bounded actions the mean
    and the least std (of actions normalised to [-1, 1], before they are bounded) and the share of
    (state, dimension) at ``log_std_min``. They go to the logger too (``entropy/*``, so to TensorBoard),
    but for those that are constant where the head pins the entropy to the floor. ``minimum`` keeps the
    smallest entropy met so far and ``margin`` the smallest margin.

    Warns once each of an entropy below the floor, as Eq. 11's and tanh's policies have it, of one that
    stays at the floor from the start though the head lets it rise, of NaN, and of a gradient spike. PPO
    and A2C leave gradients clipped to ``max_grad_norm``, so ``gradient_norm`` is that of clipped ones
    there, and spikes go unseen.

    Args:
        check_freq: Environment steps between checks, of all environments together, at least 1.
        csv_path: File to write, or None. A new training begins it anew, a resumed one continues it.
        spike_factor: How many times its running median the actor's gradient norm must reach to be
            called a spike.
        verbose: SB3's verbosity.
        per_dim: Whether to add each dimension's or component's mean entropy (``entropy_0``, ...) and
            mean std (``std_0``, ...).

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
        *,
        per_dim: bool = False,
    ) -> None:
        super().__init__("entropy", (), check_freq, csv_path, verbose)
        check_flag("per_dim", per_dim)
        if not as_number("spike_factor", spike_factor) > 1.0:
            raise ValueError(f"spike_factor={spike_factor} must be above 1")
        self.spike_factor, self.per_dim = spike_factor, per_dim
        self.minimum = self.margin = float("inf")
        self._masks: list[Any] = []
        self._memory: list[tuple[torch.Tensor, ...]] = []
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
        head = self._policy.head
        self._has_std = hasattr(head, "unit_log_std")
        names = ("entropy", "std") if self._has_std else ("entropy",)
        each = [f"{name}_{i}" for name in names for i in range(head.action_dim * self.per_dim)]
        std = STD_COLUMNS if self._has_std else ()
        self.columns = ("timesteps", *ENTROPY_COLUMNS, *std, "gradient_norm", *each)
        if head.holds_own_entropy and not head.may_rise:
            self.unlogged = PINNED_COLUMNS
        super()._init_callback()

    @property
    def _policy(self) -> Any:
        return self.model.policy

    def _on_step(self) -> bool:
        masks = self.locals.get("action_masks")
        if masks is not None:
            self._masks.append(np.asarray(masks))
        if (memory := getattr(self.model, "_last_lstm_states", None)) is not None:
            self._memory.append((*memory.pi, self.locals["episode_starts"]))
        return super()._on_step()

    def _measure(self, visited: Any, floors: np.ndarray) -> Sequence[Any]:
        """Return floors, entropies and, for bounded actions, log stds of dimensions or components."""
        head, obs = self._policy.head, self._policy.obs_to_tensor(visited)[0]
        raw = self._policy.raw_params(obs, *self._memory_of_visited())
        if not self._masks:
            params = head.params(raw)
            measured = [head.entropies(params).cpu()]
            return floors, *measured, *([head.unit_log_std(params).cpu()] if self._has_std else [])
        given, self._masks = np.concatenate(self._masks), []
        mask = torch.as_tensor(given.reshape(raw.shape) != 0, device=raw.device)
        return head.floor(mask).cpu(), head.entropies((head(raw, mask),)).cpu()

    def _memory_of_visited(self) -> tuple[Any, ...]:
        """Return what a recurrent policy takes besides: its states, and where episodes start."""
        if not self._memory:
            return ()
        hidden, cell, starts = zip(*self._memory, strict=True)
        self._memory = []
        return (torch.cat(hidden, 1), torch.cat(cell, 1)), torch.cat(starts)

    def _check(self, *measured: np.ndarray) -> None:
        floor, entropies, *log_std = measured
        entropy = entropies.sum(-1)
        norm = gradient_norm(self._policy.actor_parameters())
        margin = float((entropy - floor).min())
        self.minimum = float(np.minimum(self.minimum, entropy.min()))  # NaN, if there is one
        self.margin = float(np.minimum(self.margin, margin))
        row = [entropy.mean(), entropy.min(), entropy.max(), statistics.fmean(floor), margin]
        for each in log_std:
            row += std_figures(torch.as_tensor(each), self._policy.head.log_std_min).values()
        row.append(norm)
        if self.per_dim:
            row += [*entropies.mean(0), *(std for each in log_std for std in np.exp(each).mean(0))]
        self._record([float(value) for value in row])
        self._judge(entropy, floor, norm)

    def _judge(self, entropy: np.ndarray, floor: np.ndarray, norm: float) -> None:
        """Warn once of each thing that goes wrong."""
        if np.isnan(entropy).any():
            self._warn(
                "NaN",
                "the entropy is NaN on a visited state: look for NaN or huge observations "
                "(VecNormalize with clip_obs bounds them) and lower learning_rate",
            )
        self._judge_floor(entropy - floor, 1e-3 * (1.0 + float(np.max(np.abs(floor)))))
        if len(self._norms) >= 5 and norm > self.spike_factor * statistics.median(self._norms):
            self._warn(
                "spike",
                f"the actor's gradient norm {norm:.3g} is over {self.spike_factor:g} times its running "
                "median: lower learning_rate, use layer_norm=True, or raise log_std_min",
            )
        if norm > 0.0:  # 0 before the first update, which would make a spike of it
            self._norms = [*self._norms[-99:], norm]

    def _judge_floor(self, margins: np.ndarray, tolerance: float) -> None:
        """Warn of entropies below the floor, and of those that never leave it."""
        if margins.min() < -tolerance:
            own = self._policy.head.holds_own_entropy
            why = (
                ": the floor is that of a normal before it is truncated or squashed; floor='exact' "
                "holds the policy's own"
            )
            self._warn(
                "below",
                f"the policy's entropy is {-margins.min():.3g} nats below the floor asked for on a "
                f"visited state{'' if own else why}",
            )
        self._checks += 1
        self._checks_at_floor += bool(np.max(margins) < tolerance)
        if self._policy.entropy_may_rise and self._checks == self._checks_at_floor == 5:
            self._warn(
                "floor",
                "the entropy has been at the floor on every visited state from the start, though the "
                "head lets it rise: target_entropy may be above what the task wants, lower it",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(f"{message} (at step {self.num_timesteps})", stacklevel=2)


def _concatenate(observations: list[Any]) -> Any:
    """Return observations of several steps as one batch; arrays or dicts of them."""
    if isinstance(observations[0], dict):
        return {key: np.concatenate([obs[key] for obs in observations]) for key in observations[0]}
    return np.concatenate(observations)


def gradient_norm(parameters: list[torch.nn.Parameter], before: float = 0.0) -> float:
    """Return the norm of the gradients left by the last update, ``before`` until the first."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients).item() if gradients else before
