"""The demo runs end to end, writes what it says, and refuses wrong arguments."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from era_rl.demo import main


def test_demo_says_what_it_does_and_holds_the_floor(tmp_path: Path, capsys) -> None:
    """Before it begins how long, a line an evaluation of both, and at the end what to look at."""
    assert main(["--steps", "200", "--episodes", "1", "--out", str(tmp_path)]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert "200 steps each, from the same seed" in first
    for name in ("SAC", "SACERA"):
        shown = [line for line in lines if line.startswith(f"{name}: step")]
        assert len(shown) == 10
        assert re.search(r"step 200 of 200, return -\d+\.\d .*lowest entropy -?\d", shown[-1])
    printed = "\n".join(lines)
    assert "held on every visited state" in printed
    assert "era-zoo train --algo sac_era" in printed
    entropy = np.genfromtxt(tmp_path / "sacera-entropy.csv", delimiter=",", names=True)
    assert entropy["timesteps"][-1] == 200
    assert (entropy["entropy_min"] >= entropy["floor"] - 1e-5).all()
    for name in ("sac", "sacera"):
        assert (tmp_path / f"{name}.zip").exists()
        steps = np.load(tmp_path / name / "evaluations.npz")["timesteps"]
        assert steps.tolist() == list(range(20, 201, 20))
    with Image.open(tmp_path / "before-and-after.gif") as film:
        assert film.n_frames > 10
        assert film.size == (600, 200)
    with Image.open(tmp_path / "curves.png") as picture:
        assert np.asarray(picture).std() > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "10"], "-n/--steps: '10' must be a whole number of at least 100"),
        (["--episodes", "0"], "--episodes: '0' must be a whole number of at least 1"),
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
