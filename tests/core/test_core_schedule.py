"""Floors that change while training: the line, the data it is read from, and what options do."""

import math
import re
from typing import Any

import pytest

from era_rl.core import EntropySchedule, MultiCategoricalHead, PolicyOptions, TruncatedGaussianHead


def test_a_line_to_the_end_fraction_and_flat_from_there() -> None:
    """H0(p) = start + (end - start) min((1 - p) / end_fraction, 1)."""
    line = EntropySchedule(1.0, -2.0, 0.5)
    floors = [line(progress) for progress in (1.0, 0.9, 0.75, 0.5, 0.2, 0.0)]
    assert floors == pytest.approx([1.0, 0.4, -0.5, -2.0, -2.0, -2.0], abs=1e-15)
    assert EntropySchedule(0.1, 0.7)(0.0) == 0.7  # exactly, however it is rounded between


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, -1.0, 0.0), "end_fraction=0.0 must be in (0, 1]"),
        ((0.0, -1.0, 1.5), "end_fraction=1.5 must be in (0, 1]"),
        ((0.0, -1.0, math.nan), "end_fraction=nan must be in (0, 1]"),
        (("0", -1.0), "start='0' must be a number"),
        ((0.0, None), "end=None must be a number"),
    ],
)
def test_refuses_what_is_no_line(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        EntropySchedule(*arguments)


@pytest.mark.parametrize("name", ["target_entropy", "nats_per_dim", "target_entropy_fraction"])
def test_data_stand_for_a_line(name: str) -> None:
    line = EntropySchedule(0.5, 0.1, 0.25)
    given: list[Any] = [{"start": 0.5, "end": 0.1, "end_fraction": 0.25}, [0.5, 0.1, 0.25], line]
    for data in given:
        options = PolicyOptions(**{name: data})
        assert getattr(options, name) == line
        assert options.scheduled
        assert getattr(options.at(0.0), name) == 0.1
        assert not options.at(0.0).scheduled
    bad: list[Any] = [{"begin": 1.0}, [1.0], [1.0, 2.0, 0.5, 0.5], {"start": "1", "end": 0.0}]
    for data in bad:
        with pytest.raises(ValueError, match=re.escape(f"{name}={data!r}")):
            PolicyOptions(**{name: data})


def test_the_floor_of_a_head_in_nats() -> None:
    """H0 = s(p), s(p) D, or s(p) sum_i ln n_i."""
    bounded, discrete = TruncatedGaussianHead(4), MultiCategoricalHead([3, 1, 5])
    line = EntropySchedule(0.4, 0.2)
    assert PolicyOptions(target_entropy=line).floor_at(0.5, bounded) == pytest.approx(0.3)
    assert PolicyOptions(nats_per_dim=line).floor_at(0.5, bounded) == pytest.approx(4 * 0.3)
    floor = PolicyOptions(target_entropy_fraction=line).floor_at(0.5, discrete)
    assert floor == pytest.approx(0.3 * math.log(15))
    assert PolicyOptions(target_entropy=lambda p: -p).floor_at(0.25, bounded) == -0.25
    assert PolicyOptions().floor_at(0.25, bounded) == bounded.target_entropy
    with pytest.raises(ValueError, match="target_entropy=None must be a number"):
        PolicyOptions(target_entropy=lambda _: None).floor_at(1.0, bounded)  # type: ignore[arg-type, return-value]


def test_a_last_floor_that_cannot_be_held_is_refused() -> None:
    head = TruncatedGaussianHead(2, min_entropy_per_dim=-1.0)
    for last in (1.4, -2.1):
        with pytest.raises(ValueError, match=f"target_entropy={last}"):
            PolicyOptions(target_entropy=EntropySchedule(-1.0, last)).check_schedule(head)


def test_a_head_alone_has_no_schedule() -> None:
    options = PolicyOptions(target_entropy=EntropySchedule(0.5, 0.1))
    for make in (lambda: options.bounded_head(2), lambda: options.discrete_head([3, 2])):
        with pytest.raises(ValueError, match=r"must be followed by what trains"):
            make()
    assert options.at(1.0).bounded_head(2).target_entropy == 0.5
    with pytest.raises(ValueError, match="exclude each other"):
        PolicyOptions(target_entropy=0.0, nats_per_dim=EntropySchedule(0.5, 0.1))
