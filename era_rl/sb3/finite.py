"""Refuses what is not finite, and says whose fault it is: observations, rewards or networks."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LARGEST = np.finfo(np.float32).max

LOST = (
    "A lower learning_rate, or VecNormalize where rewards are large, keeps them; go on from a model "
    "saved before"
)


def refuse_nonfinite(step: int | None, **values: Any) -> None:
    """Raise FloatingPointError where values, arrays or dicts of them by name, are not finite.

    Args:
        step: Of the training, for the message; None for a policy without one.
        **values: The arrays.
    """
    for name, value in values.items():
        if isinstance(value, tuple):  # what gymnasium's reset returns: the host says what is wrong
            continue
        for part in map(np.asarray, value.values() if isinstance(value, dict) else (value,)):
            if not _is_finite(part):
                raise FloatingPointError(
                    f"{_at(name, step, 'up to')} must be finite: some are not. The networks have not "
                    "been trained on them. SB3's VecCheckNan finds the first, VecNormalize bounds them"
                )


def refuse_lost_outputs(
    policy: nn.Module, step: int | None, observation: Any, name: str, values: np.ndarray
) -> None:
    """Raise FloatingPointError where what a policy gives at an observation is not finite."""
    if not _is_finite(values):
        refuse_lost(policy, step, observation)
        raise FloatingPointError(
            f"the policy's {_at(name, step)} must be finite: its weights are, but their products "
            f"overflow. {LOST}"
        )


def refuse_lost(policy: nn.Module, step: int | None, observation: Any) -> None:
    """Raise FloatingPointError where an observation or, if none is, the networks are not finite."""
    refuse_nonfinite(step, observations=observation)
    refuse_lost_networks(policy, step)


def kept_state(policy: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and statistics of a policy by name, which have to be finite."""
    state: dict[str, Tensor] = dict(policy.named_parameters())
    for name, buffer in policy.named_buffers():
        if buffer.is_floating_point() and not name.endswith("_min_entropy_per_dim"):  # -inf
            state[name] = buffer
    return state


def refuse_lost_networks(
    policy: nn.Module, step: int | None, state: dict[str, Tensor] | None = None
) -> None:
    """Raise FloatingPointError where a parameter or a statistic is not finite, at one look.

    Args:
        policy: The policy.
        step: Of the training, for the message; None for a policy without one.
        state: Its :func:`kept_state`, where it is known already: walking all layers is slow.
    """
    state = state or kept_state(policy)
    norms = torch._foreach_norm(list(state.values()))  # type: ignore[attr-defined]
    if not torch.stack(norms).sum().isfinite():
        for name, value in state.items():  # large ones are finite, though not their norm
            if not value.isfinite().all():
                raise FloatingPointError(
                    f"the policy's {_at(name, step)} must be finite: the networks are lost. {LOST}"
                )


def _at(name: str, step: int | None, preposition: str = "at") -> str:
    return name if step is None else f"{name} {preposition} step {step}"


def _is_finite(values: np.ndarray) -> bool:
    """Return whether values are finite in float32, in which networks and buffers have them."""
    # the sum of squares takes a tenth of the time of a look at each, at every step, but may overflow
    return (
        values.dtype.kind != "f"
        or float(np.vdot(values, values)) < float(LARGEST) ** 2
        or bool((np.abs(values) <= LARGEST).all())
    )
