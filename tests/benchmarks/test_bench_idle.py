"""What is had for nothing is measured for every environment, and is what the environments say."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from benchmarks import idle, reaching, tables
from benchmarks.measuring import run


def test_every_environment_of_every_suite_is_measured() -> None:
    measured = idle.measured()
    assert set(measured) == {idle.key(*environment) for environment in idle.environments()}
    assert idle.measured(Path("nowhere")) == {}


def test_doing_nothing_on_ant_is_worth_a_thousand() -> None:
    """Healthy reward 1 a step, 1,000 steps, and little else."""
    assert 980.0 < idle.measured()["Ant-v5"]["zero"] < 1000.0


def test_no_action_leaves_the_point_where_it_is() -> None:
    """reach-4 without an action returns 40 exp(-mean_i (x_i - g_i)^2 / (2 w^2))."""
    env = gymnasium.make("benchmarks/reach-4-v0")
    for seed, found in enumerate(idle.returns("benchmarks/reach-4-v0", {}, "zero", 2)):
        offset = env.reset(seed=seed)[0][4:]
        expected = reaching.STEPS * np.exp(-np.mean(offset**2) / (2 * reaching.WIDTH**2))
        assert found == pytest.approx(expected, rel=1e-5)


def test_of_discrete_actions_the_first_is_none() -> None:
    """CartPole pushed to the left alone falls within a dozen steps, of a reward of 1 each."""
    assert all(8.0 <= found < 12.0 for found in idle.returns("CartPole-v1", {}, "zero", 5))


def test_random_actions_repeat_and_differ_from_none() -> None:
    returns = [idle.returns("Pendulum-v1", {}, way, 2) for way in ("random", "random", "zero")]
    assert returns[0] == returns[1]
    assert returns[0] != returns[2]


def test_the_command_writes_what_the_table_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "idle.json"
    run(idle.Idle, idle.measure, ["--episodes", "2", "--envs", "Pendulum-v1", "--out", str(out)])
    assert capsys.readouterr().out.startswith("Pendulum-v1: ")
    (row,) = tables.idle(out).rows
    assert row[:2] == ["Pendulum-v1", "2"]
    assert row[2].startswith(f"{idle.measured(tmp_path)['Pendulum-v1']['zero']:.0f} [")
