"""Floors that change while training, as learning rates do."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from era_rl.core.head import as_number

Schedule: TypeAlias = Callable[[float], float]
"""A function of the remaining progress, which falls from 1 to 0."""


@dataclass(frozen=True)
class EntropySchedule:
    """A floor that goes from ``start`` to ``end`` in a straight line, and stays there.

    H0(p) = start + (end - start) min((1 - p) / end_fraction, 1), p the remaining progress, from 1 to 0.

    Attributes:
        start: At the beginning, in the unit of what it stands for: nats in all, or per dimension.
        end: From ``end_fraction`` of the training on.
        end_fraction: In (0, 1].

    Raises:
        ValueError: If one is not a number, or ``end_fraction`` outside its range.
    """

    start: float
    end: float
    end_fraction: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            as_number(field.name, getattr(self, field.name))
        if not 0.0 < self.end_fraction <= 1.0:
            raise ValueError(f"end_fraction={self.end_fraction} must be in (0, 1]")

    def __call__(self, progress_remaining: float) -> float:
        """Return the floor at a remaining progress."""
        passed = min((1.0 - progress_remaining) / self.end_fraction, 1.0)
        return (1.0 - passed) * self.start + passed * self.end


def read_schedule(name: str, value: Any) -> Any:
    """Return a value, but data as the schedule that it stands for: its fields by name, or in order.

    Args:
        name: What the value is of, for the message.
        value: ``{"start": 0.0, "end": -1.5, "end_fraction": 0.5}``, or ``[0.0, -1.5, 0.5]``; anything
            else, a number or a function, is as it is.

    Raises:
        ValueError: If data are other than this.
    """
    if not isinstance(value, Mapping | list | tuple):
        return value
    try:
        return EntropySchedule(**value) if isinstance(value, Mapping) else EntropySchedule(*value)
    except TypeError:
        raise ValueError(
            f"{name}={value!r} must be a number, or have start, end and, if given, end_fraction"
        ) from None
    except ValueError as error:
        raise ValueError(f"{name}={value!r}: {error}") from None
