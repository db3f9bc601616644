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

_UNSCALED = (
    "no response was scaled for {steps} steps (H_resp is {h_resp} nats): this is plain training so "
    "far. Set era_entropy_low and era_entropy_high by era-llm calibrate"
)
_NO_SPREAD = (
    "every group has one reward throughout, so there is no gradient. Choose prompts of medium "
    "difficulty or raise num_generations"
)
_COLLAPSE = (
    "token entropy collapsed to {entropy:.3f} nats. Raise era_entropy_low (see era-llm calibrate) "
    "or era_k, or lower learning_rate"
)
_NOT_FINITE = (
    "{name} is {value}. Lower learning_rate or max_grad_norm, or use bf16 in place of fp16"
)
_SPIKED = (
    "{name} rose to {value:.3g}, more than ten times its median. Lower learning_rate, "
    "max_grad_norm or num_iterations"
)


class ERAWatch(TrainerCallback):
    """Reads the logs of a trainer and warns; it never changes training.

    Of no scaled response for `patience` steps, no spread of rewards, collapsed entropy, NaN, and
    spikes of the loss or the gradient norm. Each warning comes at most once per `patience` steps.
    """

    def __init__(self, patience: int = 50, collapse: float = 0.05) -> None:
        """Set the patience in steps and the token entropy (nats) that counts as collapsed."""
        self.patience = patience
        self.collapse = collapse
        self._scaled_at = 0
        self._warned: dict[str, int] = {}
        self._history = {name: deque[float](maxlen=_HISTORY) for name in ("loss", "grad_norm")}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count from where training starts or resumes."""
        self._scaled_at = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Check the latest logs of training."""
        if logs is None or "era/h_resp" not in logs or not state.is_world_process_zero:
            return
        step = state.global_step
        self._check_scaling(logs, step, getattr(args, "era_enabled", False))
        if logs.get("frac_reward_zero_std") == 1.0:
            self._warn("spread", step, _NO_SPREAD)
        if (entropy := logs.get("entropy")) is not None and entropy < self.collapse:
            self._warn("collapse", step, _COLLAPSE.format(entropy=entropy))
        for name, history in self._history.items():
            if (value := logs.get(name)) is not None:
                self._check_number(name, abs(float(value)), history, step)

    def _check_scaling(self, logs: dict[str, Any], step: int, enabled: bool) -> None:
        if (logs["era/frac_sharpened"] or 0) + (logs["era/frac_flattened"] or 0) > 0:
            self._scaled_at = step
        elif enabled and step - self._scaled_at >= self.patience:
            h_resp, steps = logs["era/h_resp"], step - self._scaled_at
            self._warn("scaling", step, _UNSCALED.format(steps=steps, h_resp=h_resp))

    def _check_number(self, name: str, value: float, history: deque[float], step: int) -> None:
        if not math.isfinite(value):
            self._warn(f"nan {name}", step, _NOT_FINITE.format(name=name, value=value))
            return
        if len(history) == _HISTORY and value > max(1.0, _SPIKE * median(history)):
            self._warn(f"spike {name}", step, _SPIKED.format(name=name, value=value))
        history.append(value)

    def _warn(self, cause: str, step: int, message: str) -> None:
        if step - self._warned.get(cause, -self.patience) >= self.patience:
            self._warned[cause] = step
            logger.warning("step %d: %s", step, message)
