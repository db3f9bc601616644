"""What watches a run: evaluations, the statistics of the best one, and a line for those who wait."""

import math
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from era_rl.sb3.callbacks import MeasuringCallback
from era_rl.sb3.run_checkpoint import save_statistics


class Evaluation(EvalCallback):
    """SB3's evaluations, and one at the end of the steps asked for, unless the last was there."""

    def _on_training_end(self) -> None:
        evaluated = [0, *self.evaluations_timesteps][-1]
        if evaluated < self.locals["total_timesteps"]:
            self.eval_freq = 1  # calls: now
            self._on_step()

    def recall(self) -> None:
        """Go on with the evaluations in the file that it writes."""
        path = Path(f"{self.log_path}.npz")
        if path.exists():
            with np.load(path) as past:
                self.evaluations_timesteps = past["timesteps"].tolist()
                self.evaluations_results = past["results"].tolist()
                self.evaluations_length = past["ep_lengths"].tolist()
                self.best_mean_reward = float(past["results"].mean(axis=1).max())
                if "successes" in past:
                    self.evaluations_successes = past["successes"].tolist()


class SaveStatistics(BaseCallback):
    """Saves what the best model was normalised by."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        save_statistics(self.model, self.folder)
        return True


class Lines(BaseCallback):
    """Writes a plain line at every evaluation and every tenth of the steps.

    Args:
        evaluation: The evaluations to show; it stands before this callback. None: there are none.
        monitor: What has ``entropy_min`` and ``floor`` in its rows, before this callback too, or None.
        name: Said at the beginning of each line.
    """

    def __init__(
        self, evaluation: Evaluation | None, monitor: MeasuringCallback | None, name: str = ""
    ) -> None:
        super().__init__()
        self.evaluation, self.monitor, self.name = evaluation, monitor, name

    def _on_training_start(self) -> None:
        self._total = self.locals["total_timesteps"]
        self._began = time.monotonic(), self.model.num_timesteps
        self._shown = self._reached()

    def _on_step(self) -> bool:
        if self._reached() != self._shown and self.model.num_timesteps < self._total:
            self._write()
        return True

    def _on_training_end(self) -> None:
        self._write()  # after the last evaluation

    def _write(self) -> None:
        reached = self._reached()
        sys.stdout.write(f"{self._line(reached[1] > self._shown[1])}\n")
        sys.stdout.flush()
        self._shown = reached

    def _reached(self) -> tuple[int, int]:
        """Return how many tenths of the steps, and how many evaluations, are done."""
        done = 0 if self.evaluation is None else len(self.evaluation.evaluations_timesteps)
        return min(10 * self.model.num_timesteps // self._total, 10), done

    def _line(self, evaluated: bool) -> str:
        step, (began, before) = self.model.num_timesteps, self._began
        parts: list[Any] = [f"{self.name}step {step:,} of {self._total:,}"]
        if self.evaluation is not None and evaluated:
            returns = self.evaluation.evaluations_results[-1]
            parts.append(f"return {np.mean(returns):.1f} +/- {np.std(returns):.1f}")
        if self.monitor is not None and self.monitor.rows:
            row = self.monitor.rows[-1]
            parts.append(f"lowest entropy {row.entropy_min:.3f}")
            if not math.isnan(row.floor):
                parts.append(f"floor {row.floor:.3f}")
        rate = (step - before) / (time.monotonic() - began)
        left = timedelta(seconds=round(max(self._total - step, 0) / rate))
        return ", ".join([*parts, f"{rate:.0f} steps a second, {left} left"])
