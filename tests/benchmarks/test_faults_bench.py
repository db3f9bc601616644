"""The benchmarks under faults: damaged suites, results and checkpoints, two runners, absent devices."""

import json
from pathlib import Path
from typing import Any

import pytest
from bench_tiny import made_up, tiny
from test_bench_runner import Instant, do_job

from benchmarks import __main__ as cli
from benchmarks import suite
from benchmarks.runner import Runner
from benchmarks.suite import AGENT
from era_rl.runs.folder import locked, write_json
from era_rl.runs.settings import SettingsError


@pytest.mark.parametrize("command", ["run", "status", "report"])
@pytest.mark.parametrize("content", ["", '{"config_hash": "0', "[1]", "{}"], ids=range(4))
def test_a_damaged_result_is_named_and_not_counted(
    content: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny(tmp_path)
    result = suite.load(path).runs[0].result(tmp_path / "results")
    result.parent.mkdir()
    result.write_text(content)
    folders = ["--results", str(tmp_path / "results"), "--scratch", str(tmp_path / "scratch")]
    assert cli.main([command, path, *folders]) == 2
    error = capsys.readouterr().err
    assert f"benchmarks: {result} is " in error
    assert "do the run again" in error
    assert result.read_text() == content


BROKEN = [
    (("steps: 300", "steps: ["), "tiny.yaml: not plain YAML"),
    (("seeds: [0, 1]\n", ""), "tiny.yaml: seeds must be given"),
    (("{algo: sac, about: stock}", "{about: stock}"), "arms: sac: algo must be given"),
    (("{algo: sac, about: stock}", "sac"), "arms: sac must map keys to values, not be 'sac'"),
    (("env: Pendulum-v1, ", ""), "tasks: pendulum: env must be given"),
    (("algo: sac,", "algo: sax,"), "algo 'sax' is unknown; close: sac"),
    (("baseline: sac", "baseline: sad"), "baseline 'sad' is unknown"),
    (("steps: 300", "step: 300"), "key 'step' is unknown; close: steps"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=range(len(BROKEN)))
def test_a_damaged_suite_is_named(
    change: tuple[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["status", tiny(tmp_path, change)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("benchmarks: ") == 1


def test_a_suite_that_is_no_text_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    for content in (b"\xff\xfe\x00", b"- 1\n", b""):
        path.write_bytes(content)
        assert cli.main(["status", str(path)]) == 2
        assert f"{path}" in capsys.readouterr().err


def test_a_second_runner_is_refused_and_marks_nothing_as_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, scratch = tiny(tmp_path), tmp_path / "scratch"
    with locked(scratch):
        arguments = ["--results", str(tmp_path / "results"), "--scratch", str(scratch)]
        assert cli.main(["run", path, *arguments]) == 2
    assert "is being worked on by another process" in capsys.readouterr().err
    assert not list(scratch.rglob("failure.txt"))


def test_a_scratch_folder_that_cannot_be_written_to_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = ["--results", str(tmp_path), "--scratch", str(tmp_path / "file" / "runs")]
    assert cli.main(["run", tiny(tmp_path), *arguments]) == 2
    assert "must be a writable folder" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_not_measured_for(tmp_path: Path) -> None:
    run = suite.load(tiny(tmp_path)).runs[0]
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        do_job(run, tmp_path / "file", tmp_path / "scratch")
    assert not list((tmp_path / "scratch").rglob("*.zip"))


def test_a_device_that_is_absent_ends_a_run_before_it_begins(tmp_path: Path) -> None:
    run = suite.load(tiny(tmp_path, ("steps: 300", "steps: 300\ndevice: cuda:99"))).runs[0]
    with pytest.raises(ValueError, match=r"device='cuda:99' must be a usable torch device"):
        do_job(run, tmp_path / "results", tmp_path / "scratch")
    assert not run.result(tmp_path / "results").exists()


SMALL = "algo: sac_era, params: {learning_starts: 299, policy_kwargs: {net_arch: [8]}}"


def test_a_damaged_checkpoint_is_passed_over_and_the_run_done(tmp_path: Path) -> None:
    """From an older one, or, as here where there is none, from the beginning."""
    run = suite.load(tiny(tmp_path, ("algo: sac_era", SMALL))).runs[1]
    folder = run.folder(tmp_path / "scratch")
    damaged = folder / AGENT / "checkpoint-100"
    damaged.mkdir(parents=True)
    (damaged / "model.zip").write_bytes(b"half of")
    do_job(run, tmp_path / "results", tmp_path / "scratch")
    result: Any = run.read(tmp_path / "results")
    assert result["resumed_at"] == []
    assert result["evaluation"]["timesteps"] == [100, 200, 300]
    assert not damaged.exists()


def test_a_failing_write_of_a_result_keeps_the_old_one_and_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job writes its result first and then removes its checkpoint."""
    run = suite.load(tiny(tmp_path)).runs[0]
    path = run.result(tmp_path)
    write_json(path, made_up(run, 0.0))
    before = path.read_text()
    monkeypatch.setattr(json, "dumps", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_json(path, {})
    assert path.read_text() == before


def test_a_finished_run_stays_finished_whatever_becomes_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = suite.load(tiny(tmp_path))
    folders = tmp_path / "results", tmp_path / "scratch"
    monkeypatch.setattr(Instant, "started", [])
    monkeypatch.setattr(Instant, "failing", (loaded.runs[1].name,))
    assert not Runner(loaded, *folders, Instant).work_off()
    done = {path.name: path.read_text() for path in folders[0].iterdir()}
    monkeypatch.setattr(Instant, "failing", ())
    assert Runner(loaded, *folders, Instant).work_off()
    assert all((folders[0] / name).read_text() == text for name, text in done.items())


def test_a_table_of_results_that_are_damaged_is_refused(tmp_path: Path) -> None:
    run = suite.load(tiny(tmp_path)).runs[0]
    run.result(tmp_path).write_text('{"half": ')
    with pytest.raises(SettingsError, match="truncated or no JSON"):
        run.read(tmp_path)
