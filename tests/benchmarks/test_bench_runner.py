"""The runner does what is missing, whatever fails, is killed, or runs out of time."""

import fcntl
import json
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from bench_tiny import made_up, tiny

from benchmarks import __main__ as cli
from benchmarks import suite
from benchmarks.acting import WAYS
from benchmarks.runner import Estimate, Runner, checkpoint_steps, start, status
from benchmarks.suite import AGENT, Run, TrainingRun
from era_rl.runs.folder import locked, write_json
from era_rl.runs.settings import SettingsError


class Instant:
    """A run that is over when it has started; what it leaves is decided by its name."""

    started: ClassVar[list[str]] = []
    failing: ClassVar[tuple[str, ...]] = ()

    def __init__(self, run: Run, results_folder: Path, scratch: Path) -> None:
        assert isinstance(run, TrainingRun)
        self.started.append(run.name)
        folder = run.folder(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").write_text("a line\nZeroDivisionError: of this run\n")
        self.fails = run.name in self.failing
        if not self.fails:
            write_json(run.result(results_folder), made_up(run, 0.0))

    def poll(self) -> int | None:
        return int(self.fails)

    def stop(self) -> None:
        raise AssertionError("nothing is left to be stopped")


class Endless(Instant):
    """A run that does not end, and leaves a checkpoint when it is stopped."""

    def __init__(self, run: Run, results_folder: Path, scratch: Path) -> None:
        self.started.append(run.name)
        self.checkpoint = run.folder(scratch) / AGENT / "checkpoint-100"

    def poll(self) -> int | None:
        return None

    def stop(self) -> None:
        self.checkpoint.mkdir(parents=True)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.runner.POLL_SECONDS", 0.01)
    monkeypatch.setattr(Instant, "started", [])


def test_only_what_is_missing_is_run(tmp_path: Path, capsys) -> None:
    loaded = suite.load(tiny(tmp_path))
    there = loaded.runs[1]
    write_json(there.result(tmp_path / "results"), made_up(there, 0.0))
    runner = Runner(loaded, tmp_path / "results", tmp_path / "scratch", Instant, workers=2)
    assert runner.work_off()
    assert Instant.started == [run.name for run in loaded.runs if run is not there]
    again = Runner(loaded, tmp_path / "results", tmp_path / "scratch", Instant)
    capsys.readouterr()
    assert again.work_off()
    assert capsys.readouterr().out == f"tiny: nothing is missing, {len(loaded.runs)} done\n"
    assert len(Instant.started) == len(loaded.runs) - 1


def test_a_failed_run_is_reported_and_stops_no_other(tmp_path: Path, monkeypatch, capsys) -> None:
    loaded = suite.load(tiny(tmp_path))
    folders = tmp_path / "results", tmp_path / "scratch"
    monkeypatch.setattr(Instant, "failing", (loaded.runs[0].name,))
    assert not Runner(loaded, *folders, Instant).work_off()
    assert "ZeroDivisionError: of this run" in capsys.readouterr().out
    state = status(loaded, *folders)
    assert [run.name for run in state.missing] == [loaded.runs[0].name]
    assert "ZeroDivisionError: of this run" in state.failed[loaded.runs[0].name]
    # it is tried again, and then counts as failed no more
    monkeypatch.setattr(Instant, "failing", ())
    assert Runner(loaded, *folders, Instant).work_off()
    assert status(loaded, *folders).failed == {}


def test_no_run_is_started_that_cannot_finish_in_the_time(tmp_path: Path) -> None:
    loaded = suite.load(tiny(tmp_path))
    folders = tmp_path / "results", tmp_path / "scratch"
    write_json(loaded.runs[0].result(folders[0]), made_up(loaded.runs[0], 0.0))
    # 300 steps at 10 steps/s and 30 s to start: a minute
    assert Estimate(loaded, folders[0]).seconds(loaded.runs[1]) == pytest.approx(60.0)
    assert Estimate(loaded, folders[0]).seconds(loaded.runs[1], 200) == pytest.approx(40.0)
    assert not Runner(loaded, *folders, Instant, time_limit=59.0).work_off()
    assert Instant.started == []
    assert Runner(loaded, *folders, Instant, time_limit=90.0).work_off()


def test_what_runs_at_the_time_limit_is_stopped_to_go_on_later(tmp_path: Path, capsys) -> None:
    loaded = suite.load(tiny(tmp_path))
    folders = tmp_path / "results", tmp_path / "scratch"
    runner = Runner(loaded, *folders, Endless, workers=2, time_limit=0.1, partial=True)
    assert not runner.work_off()
    assert Instant.started == [run.name for run in loaded.runs[:2]]
    assert [checkpoint_steps(run, folders[1]) for run in loaded.runs] == [100, 100, 0, 0]
    assert "the next call goes on with it" in capsys.readouterr().out


STEPS = (("steps", 300, 3000), ("evaluate_every", 100, 500), ("checkpoint_every", 100, 400))


def commands_suite(folder: Path) -> str:
    """Write a suite of three commands, the second of which fails, and return its path."""
    lines = ["description: Commands.", "commands:"]
    for name, statement in (("fine", ""), ("fails", "1 / 0"), ("later", "")):
        output = folder / name
        statement = statement or f"open('{output}', 'w').close()"
        lines.append(
            f'  {name}: {{module: timeit, arguments: [-n1, -r1, "{statement}"], '
            f"output: {output}, minutes: 1}}"
        )
    path = folder / "commands.yaml"
    path.write_text("\n".join(lines))
    return str(path)


def test_commands_run_as_subprocesses_and_their_tracebacks_are_kept(tmp_path: Path, capsys) -> None:
    arguments = [commands_suite(tmp_path), "--scratch", str(tmp_path / "scratch")]
    assert cli.main(["run", *arguments, "--workers", "0"]) == 2
    assert "--workers=0 must be at least 1" in capsys.readouterr().err
    assert cli.main(["run", *arguments, "--workers", "2"]) == 1
    assert (tmp_path / "fine").exists()
    assert (tmp_path / "later").exists()
    assert cli.main(["status", *arguments]) == 1
    shown = capsys.readouterr().out
    assert "ZeroDivisionError: division by zero" in shown
    assert "2/3 done" in shown


def test_what_the_runner_starts_ends_with_it(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as log:
        process = start([sys.executable, "-c", "import benchmarks, time; time.sleep(600)"], log)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.0)
        assert process.stdin is not None
        process.stdin.close()  # as where the runner is killed
        assert process.wait(60.0) == 1


def test_unknown_suites_are_answered_in_a_line(capsys) -> None:
    assert cli.main(["status", "pilots"]) == 2
    assert "close: pilot" in capsys.readouterr().err


def do_job(run: TrainingRun, results_folder: Path, scratch: Path) -> None:
    """Do a run in a forked process, so that nothing is imported here."""
    folders = "--results", str(results_folder), "--scratch", str(scratch)
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        pool.submit(_main_of_job, run.suite, run.name, *folders).result()


def _main_of_job(*arguments: str) -> None:
    # brings rl_zoo3, which replaces gymnasium's TimeLimit: other tests would notice
    from benchmarks import job

    job.main(arguments)


def test_after_a_kill_a_suite_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    barely_trained = (
        "algo: sac_era, params: {learning_starts: 2990, policy_kwargs: {net_arch: [8]}}"
    )
    changes = [("algo: sac_era", barely_trained), ("seeds: [0, 1]", "seeds: [1]")]
    changes += [(f"{key}: {old}", f"{key}: {new}") for key, old, new in STEPS]
    changes += [("  sac: {algo: sac, about: stock}\n", ""), ("baseline: sac", "baseline: era")]
    changes += [("Pendulum-v1", "benchmarks/reach-4-v0")]
    changes += [("description: Tiny.", "description: Tiny.\ngradient_conflict: true")]
    path = tiny(tmp_path, *changes)
    (run,) = suite.load(path).runs
    results_folder, scratch = tmp_path / "results", tmp_path / "scratch"
    # forked, so that it need not import everything again
    runner = get_context("fork").Process(
        target=Runner(suite.load(path), results_folder, scratch).work_off
    )
    runner.start()
    _wait_for(lambda: checkpoint_steps(run, scratch) >= 400)
    runner.kill()
    runner.join()
    with (run.folder(scratch) / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the run's own process ends with the runner's
    assert not run.result(results_folder).exists()
    reached = checkpoint_steps(run, scratch)
    do_job(run, results_folder, scratch)
    result = run.read(results_folder)
    assert result is not None
    assert result["resumed_at"] == [reached]
    assert result["evaluation"]["timesteps"] == list(range(500, 3001, 500))
    assert result["trace"]["timesteps"] == sorted(set(result["trace"]["timesteps"]))
    assert result["trace"]["timesteps"][-1] == 3000
    assert min(result["trace"]["margin_min"]) > -1e-4
    assert set(result["trace"]["floor"]) == {-0.5 * 4}
    seconds = result["trace"]["seconds"]
    assert all(a < b for a, b in pairwise(seconds))
    assert result["wall_seconds"] == pytest.approx(seconds[-1], abs=0.051)
    assert result["gradient_conflict"]["timesteps"] == [2991]
    assert {way: len(returns) for way, returns in result["acting"].items()} == dict.fromkeys(
        WAYS, 1
    )
    (record,) = run.folder(scratch).rglob("args.yml")
    assert yaml.safe_load(record.read_text())["seed"] == 1
    assert checkpoint_steps(run, scratch) == 0


def _wait_for(condition, seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_ray_cluster_does_the_same(tmp_path: Path, capsys) -> None:
    ray = pytest.importorskip("ray")
    path, scratch = commands_suite(tmp_path), str(tmp_path / "scratch")
    try:
        assert cli.main(["run", path, "--scratch", scratch, "--ray", "local"]) == 1
    finally:
        ray.shutdown()
    assert (tmp_path / "fine").exists()
    assert (tmp_path / "later").exists()
    assert "ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_a_run_that_is_worked_on_elsewhere_is_refused(tmp_path: Path) -> None:
    run = suite.load(tiny(tmp_path)).runs[0]
    with locked(run.folder(tmp_path)), pytest.raises(ValueError, match="by another process"):
        do_job(run, tmp_path, tmp_path)


def test_a_run_does_not_replace_a_result_of_another_config(tmp_path: Path) -> None:
    run = suite.load(tiny(tmp_path)).runs[0]
    other = {**made_up(run, 0.0), "config_hash": "0" * 12}
    write_json(run.result(tmp_path), other)
    with pytest.raises(SettingsError, match=r"is of other settings \(config_hash: '0{12}', now"):
        do_job(run, tmp_path, tmp_path)
    assert run.result(tmp_path).read_text() == json.dumps(other, indent=1) + "\n"
