"""The trainer learns: Pendulum-v1, walker-walk and CartPole-v1, three stacked seeds each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from benchmarks.torchrl.learning import RUNS, measure

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:No target network updater"),
]
Record = Callable[[str, object], None]


def _mean_returns(name: str, out: Path, record: Record) -> tuple[list[float], list[float]]:
    """Return each seed's mean return over evaluation episodes, the policy's and random actions'."""
    result = measure(replace(RUNS[name], out=str(out)))
    means = [list(result[key].values()) for key in ("mean_return", "mean_random_return")]
    record(name, means)
    assert len(means[0]) == len(means[1]) == 3
    return means[0], means[1]


@pytest.mark.timeout(7_200)
def test_sac_learns_pendulum(tmp_path: Path, record_testsuite_property: Record) -> None:
    means, _ = _mean_returns("pendulum", tmp_path, record_testsuite_property)
    assert median(means) >= -250.0
    assert min(means) >= -400.0


@pytest.mark.timeout(14_400)
def test_sac_learns_walker_walk(tmp_path: Path, record_testsuite_property: Record) -> None:
    means, at_random = _mean_returns("walker-walk", tmp_path, record_testsuite_property)
    assert all(mean >= 3.0 * base for mean, base in zip(means, at_random, strict=True))


@pytest.mark.timeout(3_600)
def test_ppo_learns_cartpole(tmp_path: Path, record_testsuite_property: Record) -> None:
    means, _ = _mean_returns("cartpole", tmp_path, record_testsuite_property)
    assert median(means) >= 400.0
