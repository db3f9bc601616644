"""The trainer learns: Pendulum-v1, walker-walk and CartPole-v1, three stacked seeds each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from benchmarks.torchrl.learning import RUNS, measure


def _meets_the_bar(name: str, result: dict[str, Any]) -> bool:
    """Whether the mean returns of the seeds reach what the run is held to."""
    means, at_random = (list(result[key].values()) for key in ("mean_return", "mean_random_return"))
    assert len(means) == len(at_random) == RUNS[name].seeds == 3
    if name == "pendulum":
        return median(means) >= -250.0 and min(means) >= -400.0
    if name == "walker-walk":
        return all(mean >= 3.0 * base for mean, base in zip(means, at_random, strict=True))
    return median(means) >= 400.0


@pytest.mark.slow
@pytest.mark.timeout(14_400)
@pytest.mark.filterwarnings("ignore:No target network updater")
@pytest.mark.parametrize("name", sorted(RUNS))
def test_the_trainer_meets_the_bar(
    name: str, tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    result = measure(replace(RUNS[name], out=tmp_path, progress=False))
    record_testsuite_property(name, result["mean_return"])
    assert _meets_the_bar(name, result)
