"""The demo runs end to end, writes what it says, and refuses wrong arguments."""

from pathlib import Path

import numpy as np
import pytest

from era_rl.demo import main


def test_demo_writes_what_it_lists_and_holds_the_floor(tmp_path: Path, capsys) -> None:
    arguments = ["--env", "Pendulum-v1", "--steps", "200", "--episodes", "1"]
    main([*arguments, "--device", "cpu", "--out", str(tmp_path)])
    printed = capsys.readouterr().out.replace("\n", "")
    for name in ("model.zip", "curves.png", "entropy.csv", "evaluations.npz", "tensorboard"):
        assert (tmp_path / name).exists()
        assert name in printed
    assert "held on every visited state" in printed
    entropy = np.genfromtxt(tmp_path / "entropy.csv", delimiter=",", names=True)
    assert entropy["timesteps"][-1] == 200
    assert (entropy["entropy_min"] >= entropy["floor"] - 1e-5).all()
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == list(range(20, 201, 20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "10"], "-n/--steps: '10' must be a whole number of at least 100"),
        (["--episodes", "0"], "--episodes: '0' must be a whole number of at least 1"),
        (["--env", "dm_control/walker-wlak-v0"], "walker-walk"),
        (["--env", "CartPole-v1"], "the actions of CartPole-v1 must be a Box, not Discrete(2)"),
        (["--seed", "-1"], "--seed: '-1' must be a whole number in [0, 4294967294]"),
        (["--threads", "-1"], "--threads: '-1' must be a whole number of at least 0"),
        (["--device", "foo"], "era-demo: device='foo' must be a usable torch device"),
    ],
)
def test_demo_refuses_wrong_arguments(arguments: list[str], message: str, capsys) -> None:
    try:
        status = main(arguments)
    except SystemExit as exit_info:  # argparse's
        status = exit_info.code
    assert status == 2
    assert message in capsys.readouterr().err
