"""The throughput benchmark measures each algorithm and writes complete results."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks import measuring, throughput


def test_throughput_writes_ratios_and_raw_times(tmp_path: Path) -> None:
    out = tmp_path / "throughput.json"
    arguments = ["--env", "Pendulum-v1", "--width", "8", "--batch-size", "8", "--blocks", "3"]
    arguments += ["--steps", "5", "--warmup", "10", "--out", str(out)]
    assert measuring.run(throughput.Throughput, throughput.measure, arguments) == 0
    result = json.loads(out.read_text())
    assert {row["algorithm"] for row in result["ratios"]} == {"sac", "exact", "gaussian"}
    for row in result["ratios"]:
        assert row["speed_over_sac"]["median"] > 0.0
    assert all(len(times) == 3 for kinds in result["seconds"].values() for times in kinds.values())
    assert len(result["matmul_seconds"]) == 3
    assert result["settings"]["width"] == 8
    speed = 2 * 8 * 8 * 8 / statistics.median(result["matmul_seconds"])
    least = result["update"]["flops"] / speed
    assert result["update"]["floor_milliseconds"] == pytest.approx(1e3 * least, rel=1e-12)
    assert result["update"]["matmul_gigaflops_per_second"] == pytest.approx(speed / 1e9, rel=1e-12)
    assert result["update"]["share_reached"] == pytest.approx(
        {name: least / statistics.median(s["update"]) for name, s in result["seconds"].items()},
        rel=1e-12,
    )
    # critics and actor of 3 + 1 and 3 inputs, twice forward at least
    assert result["update"]["flops"] > 2 * 8 * 3 * (4 * 8 + 8 * 8 + 8)
    assert {"torch", "stable-baselines3"} <= result["versions"].keys()


def test_an_algorithm_of_half_the_time_has_twice_the_speed() -> None:
    rows = measuring.ratios({"sac": {"s": [2.0] * 3}, "x": {"s": [1.0] * 3}}, "sac")
    assert {row["algorithm"]: row["speed_over_sac"] for row in rows} == {
        "sac": {"median": 1.0, "quartiles": [1.0, 1.0]},
        "x": {"median": 2.0, "quartiles": [2.0, 2.0]},
    }
    assert [row["milliseconds"] for row in rows] == [2000.0, 1000.0]


def test_throughput_needs_its_reference_among_the_algorithms(tmp_path: Path, capsys) -> None:
    arguments = ["--algorithms", "exact", "--out", str(tmp_path / "x.json")]
    assert measuring.run(throughput.Throughput, throughput.measure, arguments) == 2
    assert "reference='sac' must be among algorithms" in capsys.readouterr().err
