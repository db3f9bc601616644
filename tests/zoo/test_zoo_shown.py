"""What era-zoo train shows, writes and decides by default."""

import os
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from zoo_runs import SMALL, evaluated_at

from era_rl.runs.settings import SettingsError
from era_rl.sb3.run import Run
from era_rl.zoo import cli


def train(folder: Path, algo: str, *more: str) -> int:
    names = ["--algo", algo, "--env", "Pendulum-v1", "--out", str(folder), "-n", "45"]
    short = ["--eval-episodes", "2", "--env-kwargs", "max_episode_steps=20", "--no-progress"]
    return cli.main(
        ["train", *names, *short, *more, "--params", *SMALL.get(algo, SMALL["sac_era"])]
    )


def test_training_says_what_it_does(tmp_path: Path, monkeypatch, capsys) -> None:
    """Settings and the pattern that matched, a line an evaluation; the command can be pasted."""
    monkeypatch.setattr("sys.orig_argv", ["python", "era-zoo", "--params", "policy_kwargs={a: 1}"])
    assert train(tmp_path, "sac_era", "--eval-freq", "20") == 0
    first, *shown = capsys.readouterr().out.splitlines()
    assert first.startswith("sac_era on Pendulum-v1, 45 steps, by sac_era.yml, entry '*', and ")
    assert "  learning_starts: 5" in shown
    run = tmp_path / "sac_era" / "Pendulum-v1_1"
    assert f"to {run}" in shown
    lines = [line for line in shown if line.startswith("step ")]
    evaluations = [line for line in lines if "return" in line]
    assert [line.split()[1] for line in evaluations] == ["20", "40", "45"]
    assert len(lines) == 12  # tenths, and two evaluations between them
    line = r"step 45 of 45, return -\d+\.\d \+/- \d+\.\d, lowest entropy -0\.500, floor -0\.500, "
    assert re.match(line + r"\d+ steps a second, 0:00:00 left", evaluations[-1])
    command = (run / "Pendulum-v1" / "command.txt").read_text()
    assert command == "python era-zoo --params 'policy_kwargs={a: 1}'\n"


@pytest.mark.parametrize(("eval_freq", "steps"), [("20", [20, 40, 45]), ("15", [15, 30, 45])])
def test_the_end_is_evaluated_once(eval_freq: str, steps: list[int], tmp_path: Path) -> None:
    assert train(tmp_path, "sac_era", "--eval-freq", eval_freq, "--verbose", "0") == 0
    assert evaluated_at(tmp_path / "sac_era" / "Pendulum-v1_1") == steps


@pytest.mark.parametrize(
    ("algo", "more", "monitored"),
    [("ppo_era", (), True), ("sac_era", ("--no-monitor",), False), ("sac", (), False)],
)
def test_eras_algorithms_are_monitored(
    algo: str, more: tuple[str, ...], monitored: bool, tmp_path: Path
) -> None:
    """entropy.csv has the entropies of visited states; stock algorithms have none in closed form."""
    assert train(tmp_path, algo, "--eval-freq", "0", "--verbose", "0", *more) == 0
    file = tmp_path / algo / "Pendulum-v1_1" / "entropy.csv"
    assert file.exists() == monitored
    if monitored:
        table = np.genfromtxt(file, delimiter=",", names=True)
        np.testing.assert_allclose(table["entropy_min"], -0.3, atol=1e-4)
        assert table["timesteps"].max() >= 45


def test_evaluations_are_a_tenth_of_the_steps_apart_or_25_000() -> None:
    run = Run("sac_era", "Pendulum-v1", steps=50_000)
    assert run.eval_freq == 5_000
    assert replace(run, eval_freq=None, steps=1_000_000).eval_freq == 25_000
    assert replace(run, eval_freq=None, steps=5).eval_freq == 1
    assert replace(run, eval_freq=-1).eval_freq == -1


def test_commands_have_threads_sleep_while_they_wait(monkeypatch, capsys) -> None:
    """OpenMP reads its waiting policy when torch is loaded; one that the environment has stays."""
    for before, after in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if before is not None:
            monkeypatch.setenv("OMP_WAIT_POLICY", before)
        assert cli.main(["no-command"]) == 2
        assert os.environ["OMP_WAIT_POLICY"] == after


def test_names_that_come_close_are_said(capsys) -> None:
    assert cli.main(["trian", "--algo", "sac"]) == 2
    assert capsys.readouterr().err == "era-zoo: command 'trian' is unknown; close: train\n"


def test_an_environment_whose_package_is_missing_is_a_line(tmp_path: Path) -> None:
    """humanoid_bench is not on the package index; the message has the line that installs it."""
    pytest.importorskip("mujoco")
    if find_spec("humanoid_bench"):
        pytest.skip("humanoid_bench is installed")
    run = Run("sac_era", "humanoid_bench/h1-walk-v0", verbose=0)
    with pytest.raises(SettingsError, match="needs the package humanoid_bench"):
        run.train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


class _Mission(gymnasium.Env):
    observation_space = spaces.Dict(mission=spaces.Text(9), direction=spaces.Discrete(4))
    action_space = spaces.Discrete(3)


def test_observations_that_networks_do_not_take_are_named(tmp_path: Path) -> None:
    """Such as MiniGrid's mission, a text: it was 'NoneType' object is not iterable."""
    gymnasium.register("era-tests/Mission-v0", lambda **_: _Mission())
    settings = {"policy": "MultiInputPolicy", "n_timesteps": 10}
    try:
        run = Run("ppo_era", "era-tests/Mission-v0", settings=settings, verbose=0)
        message = r"observation_space\['mission'\]=Text.* must be a Box, Discrete, .*env_wrapper"
        with pytest.raises(SettingsError, match=message):
            run.train(tmp_path / "run")
        wrapper = {"gymnasium.wrappers.FilterObservation": {"filter_keys": ["direction"]}}
        kept = replace(run, settings={**settings, "env_wrapper": [wrapper]})
        kept.make_env().close()
    finally:
        del gymnasium.registry["era-tests/Mission-v0"]
