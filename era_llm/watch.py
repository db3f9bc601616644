"""Warnings during training, each with its remedy."""

import logging
import math
from collections import deque
from statistics import median
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

_HISTORY = 20
_SPIKE = 10.0
_PERSISTS = 3

_UNSCALED = (
    "no response was scaled for {steps} steps (H_resp is {h_resp} nats): this is plain training so "
    "far. Set era_entropy_low and era_entropy_high by era-llm calibrate"
)
_NO_SPREAD = (
    "every group has one reward throughout, so there is no gradient. Choose prompts of medium "
    "difficulty or raise num_generations"
)
_NO_TOKENS = (
    "no token was measured: every completion is masked out whole, so nothing is trained on. Raise "
    "max_completion_length, or set mask_truncated_completions=False"
)
_COLLAPSE = (
    "token entropy collapsed to {entropy:.3f} nats. Raise era_entropy_low (see era-llm calibrate) "
    "or era_k, or lower learning_rate"
)
_NOT_FINITE = "{name} is {value}. Lower learning_rate or max_grad_norm, or use bf16, not fp16"
_SPIKED = (
    "{name} rose to {value:.3g}, more than ten times its median. Lower learning_rate, "
    "max_grad_norm or num_iterations"
)


class ERAWatch(TrainerCallback):
    """Reads the logs of a trainer and warns; it never changes training.

    Of no scaled response over `patience` steps that could have scaled one; and, when it is so in three
    logs in a row, of no spread of rewards, no measured token, collapsed entropy and spikes; of NaN at
    once. Each at most once per `patience` steps.
    """

    def __init__(self, patience: int = 50, collapse: float = 0.05) -> None:
        """Set the patience in steps and the token entropy (nats) that counts as collapsed."""
        self.patience = patience
        self.collapse = collapse
        self._last = self._unscaled = 0
        self._in_a_row: dict[str, int] = {}
        self._warned: dict[str, int] = {}
        self._history = {name: deque[float](maxlen=_HISTORY) for name in ("loss", "grad_norm")}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count from where training starts or resumes."""
        self._last = state.global_step

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl,
        logs: dict[str, Any] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        """Check the latest logs of training."""
        if logs is None or "era/frac_positive" not in logs or not state.is_world_process_zero:
            return
        step, measured = state.global_step, "era/h_resp" in logs
        spread = logs.get("frac_reward_zero_std") != 1.0
        if getattr(args, "era_enabled", False):
            self._check_scaling(logs, step)
        self._last = step
        self._check("tokens", step, not measured, _NO_TOKENS)
        self._check("spread", step, not spread, _NO_SPREAD)
        # in TRL's "entropy" a batch in which every token is masked counts as 0
        entropy = logs.get("era/entropy", math.inf)
        collapsed = measured and entropy < self.collapse
        self._check("collapse", step, collapsed, _COLLAPSE.format(entropy=entropy))
        for name, history in self._history.items():
            value = abs(float(logs.get(name, 0.0)))
            if not math.isfinite(value):
                self._warn(f"nan {name}", step, _NOT_FINITE.format(name=name, value=value))
            elif value > 0 and measured and spread:  # else there was no gradient to speak of
                self._check_spike(name, value, history, step)

    def _check_scaling(self, logs: dict[str, Any], step: int) -> None:
        if logs["era/frac_sharpened"] + logs["era/frac_flattened"] > 0:
            self._unscaled = 0
        elif logs["era/frac_positive"] > 0 and "era/h_resp" in logs:
            self._unscaled += step - self._last
            if self._unscaled >= self.patience:
                h_resp, steps = logs["era/h_resp"], self._unscaled
                self._warn("scaling", step, _UNSCALED.format(steps=steps, h_resp=h_resp))

    def _check_spike(self, name: str, value: float, history: deque[float], step: int) -> None:
        spiked = len(history) == _HISTORY and value > max(1.0, _SPIKE * median(history))
        self._check(f"spike {name}", step, spiked, _SPIKED.format(name=name, value=value))
        history.append(value)

    def _check(self, cause: str, step: int, is_so: bool, message: str) -> None:
        """Warn if something has been so in enough logs in a row."""
        self._in_a_row[cause] = self._in_a_row.get(cause, 0) + 1 if is_so else 0
        if self._in_a_row[cause] >= _PERSISTS:
            self._warn(cause, step, message)

    def _warn(self, cause: str, step: int, message: str) -> None:
        if step - self._warned.get(cause, -self.patience) >= self.patience:
            self._warned[cause] = step
            logger.warning("step %d: %s", step, message)
