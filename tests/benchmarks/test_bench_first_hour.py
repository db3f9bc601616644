"""Measurements of the first hour: starts, trainings beside busy processes, the first update."""

import json
from pathlib import Path

import pytest

from benchmarks import first_update, load, measuring, startup
from era_rl.sb3 import PPOERA


def test_starts_are_timed_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process and wall time of each, the first round left out; a start that fails is an error."""
    starts = {
        startup.HOST: ["-c", "pass"],
        "from era_rl import SACERA": ["-c", "sum(range(10**6))"],
    }
    monkeypatch.setattr(startup, "STARTS", starts)
    assert (
        measuring.run(
            startup.Startup, startup.measure, ["--rounds", "2", "--out", str(tmp_path / "x.json")]
        )
        == 0
    )
    result = json.loads((tmp_path / "x.json").read_text())
    assert result["sacera_over_stable_baselines3"] > 1.0
    for row in result["starts"].values():
        assert len(row["process_seconds"]) == len(row["wall_seconds"]) == 2
        assert row["process_seconds_median"] > 0.0
    with pytest.raises(RuntimeError, match="failed"):
        startup.start(["-c", "raise SystemExit(3)"])


def test_trainings_are_timed_alone_and_beside_busy_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every width, number of threads and waiting policy; one that takes too long is ended."""
    worker = "import os, time; print('started', flush=True); time.sleep(0.2); "
    worker += "print(1 + ('OMP_WAIT_POLICY' in os.environ), 3)"
    monkeypatch.setattr(load, "WORKER", worker)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    arguments = ["--rounds", "1", "--busy", "1", "--threads", "0"]
    assert (
        measuring.run(load.Load, load.measure, [*arguments, "--out", str(tmp_path / "x.json")]) == 0
    )
    rows = json.loads((tmp_path / "x.json").read_text())["trainings"]
    assert [(row["waiting"], row["quiet_wall_seconds"]) for row in rows] == [
        ("active", [1.0]),
        ("passive", [2.0]),
    ]
    assert all(row["loaded_over_quiet"] == 1.0 for row in rows)
    monkeypatch.setattr(load, "WORKER", "import time; print(flush=True); time.sleep(60)")
    assert load.seconds(load.Load(limit=1.0), 1, 1, "active") == (1.0, None)


def test_the_first_update_is_what_sb3_logs() -> None:
    """A finite number above 0, the same for the same seed."""
    first, again = (first_update.approx_kl(PPOERA, "Pendulum-v1", 3, 64) for _ in range(2))
    assert first == again > 0.0


def test_measurements_say_how_far_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(measuring.counted(2, "block")) == [0, 1]
    assert capsys.readouterr().err == "block 1 of 2\nblock 2 of 2\n"
