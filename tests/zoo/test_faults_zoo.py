"""The zoo under faults: kills, a full disk, damaged files, absent devices, two processes on one run."""

import errno
import os
import random
import re
import shutil
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from stable_baselines3.common.env_util import make_vec_env
from zoo_runs import SMALL, episode_lengths, evaluated_at, killed_after, train

from era_rl.runs.folder import (
    FolderError,
    checkpoints,
    damaged_file,
    discard,
    locked,
    newest_intact,
)
from era_rl.runs.settings import SettingsError
from era_rl.sb3 import SACERA, run_checkpoint
from era_rl.sb3.run_checkpoint import save_checkpoint
from era_rl.zoo import cli, plot

NAMES = ["--algo", "sac_era", "--env", "Pendulum-v1"]
RUN = Path("sac_era", "Pendulum-v1_1")


def stopped_run(folder: Path, steps: int = 45, error: BaseException | None = None) -> Path:
    """Return the folder of a run of 60 steps, evaluated every 10, that ended at one of them."""
    with killed_after(steps + steps // 10 * 40, error):
        train(folder, "sac_era", 60)
    return folder / RUN


def test_killed_at_random_moments_a_run_goes_on_and_ends(tmp_path: Path) -> None:
    """SIGKILL soon after a checkpoint has appeared; the next ones are being written all the time."""
    run, moments, kills, reached = tmp_path / RUN, random.Random(0), 0, 0
    new = [*NAMES, "-f", str(tmp_path), "-n", "400", "--eval-freq", "100", "--eval-episodes", "1"]
    new += ["--save-freq", "20", "--verbose", "0", "--env-kwargs", "max_episode_steps=20"]
    new += ["--device", "cpu"]  # CUDA cannot be used in a forked process
    command = ["train", *new, "--params", *SMALL["sac_era"]]
    while kills < 4:
        process = get_context("fork").Process(target=cli.main, args=(command,))
        process.start()
        while process.is_alive() and _newest(run) in (0, reached):
            time.sleep(0.002)
        process.join(moments.uniform(0.0, 0.3))
        if not process.is_alive():
            break
        process.kill()
        process.join()
        kills += 1
        command = ["train", "--resume", str(run)]
        found = checkpoints(run)
        if not found:  # killed when it had ended
            break
        assert damaged_file(found[-1]) is None
        assert _newest(run) >= reached
        reached = _newest(run)
    assert kills >= 1
    assert cli.main(command) == 0
    assert evaluated_at(run) == [100, 200, 300, 400]
    assert episode_lengths(run) == [20] * 20
    assert (run / "Pendulum-v1.zip").exists()
    assert not checkpoints(run)


def _newest(run: Path) -> int:
    found = checkpoints(run)
    return int(found[-1].name.split("-")[1]) if found else 0


def test_a_full_disk_ends_a_run_with_a_line_and_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_buffer, run = run_checkpoint._save_buffer, tmp_path / RUN

    def full(buffer: Any, path: Path) -> None:
        if (run / "checkpoint-20").exists():
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_buffer(buffer, path)

    monkeypatch.setattr(run_checkpoint, "_save_buffer", full)
    assert train(tmp_path, "sac_era", 60) == 1
    assert "No space left on device; the last checkpoint is whole; to go on" in (
        capsys.readouterr().err
    )
    monkeypatch.undo()
    assert [path.name for path in checkpoints(run)] == ["checkpoint-20"]
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert episode_lengths(run) == [20, 20, 20]


def test_a_log_folder_that_cannot_be_written_to_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert train(tmp_path / "file", "sac_era", 20) == 2
    error = capsys.readouterr().err
    assert "era-zoo: --out" in error
    assert "must be a writable folder" in error


@pytest.mark.parametrize(
    "name", ["model.zip", "replay_buffer.npz", "logger.json", "checksums.json"]
)
@pytest.mark.parametrize("damage", ["truncated", "changed", "removed"])
def test_a_damaged_checkpoint_is_told_from_a_whole_one(
    name: str, damage: str, saved: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(saved, tmp_path / saved.name)
    assert damaged_file(copy) is None
    _damage(copy / name, damage)
    assert damaged_file(copy) == name


def _damage(path: Path, damage: str) -> None:
    content = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
        return
    if damage == "truncated":
        del content[len(content) // 2 :]
    else:
        content[0] ^= 0x55
    path.write_bytes(content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = {"learning_starts": 10, "batch_size": 8, "policy_kwargs": {"net_arch": [4]}}
    model = SACERA("MlpPolicy", make_vec_env("Pendulum-v1", seed=0), buffer_size=100, **options)
    save_checkpoint(model.learn(20), folder / "Pendulum-v1")
    return folder / "checkpoint-20"


def test_a_run_goes_on_from_the_newest_checkpoint_that_is_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped_run(tmp_path)
    newer = shutil.copytree(run / "checkpoint-40", run / "checkpoint-50")
    _damage(newer / "replay_buffer.npz", "truncated")
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert "checkpoint-50 is damaged (replay_buffer.npz): looking for an older checkpoint" in (
        capsys.readouterr().err
    )
    assert episode_lengths(run) == [20, 20, 20]
    assert not checkpoints(run)


def test_a_run_killed_before_its_second_checkpoint_goes_on(tmp_path: Path) -> None:
    run = stopped_run(tmp_path, steps=15)
    assert [path.name for path in checkpoints(run)] == ["checkpoint-0"]
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert episode_lengths(run) == [20, 20, 20]


def test_a_checkpoint_takes_the_place_of_a_damaged_one_of_the_same_step(tmp_path: Path) -> None:
    model = SACERA("MlpPolicy", "Pendulum-v1", buffer_size=10, policy_kwargs={"net_arch": [4]})
    model.learn(5)
    for _ in range(2):
        save_checkpoint(model, tmp_path / "Pendulum-v1")
        assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-5"]
        assert damaged_file(tmp_path / "checkpoint-5") is None
        _damage(tmp_path / "checkpoint-5" / "model.zip", "changed")


def test_a_run_without_a_whole_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped_run(tmp_path)
    _damage(run / "checkpoint-40" / "model.zip", "changed")
    assert cli.main(["train", "--resume", str(run)]) == 2
    assert "has no checkpoint to go on from: begin a new run" in capsys.readouterr().err
    # killed before the first checkpoint: neither ended nor to be resumed
    discard(run / "checkpoint-40")
    assert cli.main(["train", "--resume", str(run)]) == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("args.yml", "algo: [", "args.yml: not plain YAML"),
        ("args.yml", "algo: sac_era\nenv: Pendulum-v1\n", "args.yml is damaged, device,"),
        ("config.yml", "policy: MlpPolicy\nn_times", "config.yml: not plain YAML"),
        ("config.yml", "- 1", "config.yml must be a mapping"),
        ("config.yml", "n_timesteps: 10\n", "'policy' is missing"),
    ],
    ids=["args-syntax", "args-short", "config-cut", "config-list", "config-short"],
)
def test_damaged_settings_of_a_run_are_named(
    name: str, text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "sac_era", 10) == 0
    (tmp_path / RUN / "Pendulum-v1" / name).write_text(text)
    assert cli.main(["train", "--resume", str(tmp_path / RUN)]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_configuration_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yml"
    for content in (b"Pendulum-v1: {policy: [", b"\xff\xfe\x00", b"just words"):
        path.write_bytes(content)
        assert cli.main(["train", *NAMES, "-f", str(tmp_path), "--config", str(path)]) == 2
        assert str(path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_models_and_evaluations_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "sac_era", 20) == 0
    names = [*NAMES, "-f", str(tmp_path)]
    for name, damage, command in (
        ("Pendulum-v1.zip", "truncated", ["evaluate", *names]),
        ("best_model.zip", "truncated", ["evaluate", *names, "--best"]),
        ("evaluations.npz", "truncated", ["plot", *names]),
        ("evaluations.npz", "removed", ["plot", *names]),
    ):
        _damage(tmp_path / RUN / name, damage)
        assert cli.main(command) == 2
        error = capsys.readouterr().err
        assert name in error or "no evaluations of sac_era" in error


def test_evaluations_are_read_without_running_code(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.npz"
    np.savez(path, timesteps=np.array([1]), results=np.array([{}], dtype=object))
    with pytest.raises(SettingsError, match="truncated or damaged"):
        plot.returns_of_runs([path])


def test_networks_that_are_not_finite_replace_no_checkpoint(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / saved.name)
    options = {"policy_kwargs": {"net_arch": [4]}, "buffer_size": 10}
    model = SACERA("MlpPolicy", make_vec_env("Pendulum-v1"), **options)
    next(model.actor.parameters()).data.fill_(np.nan)
    with pytest.raises(
        FloatingPointError, match=r"not finite at step 0: checkpoint-20 in .* stays"
    ):
        save_checkpoint(model, tmp_path / "Pendulum-v1")
    assert newest_intact(tmp_path) == tmp_path / "checkpoint-20"


def test_a_run_that_ends_with_networks_that_are_not_finite_keeps_its_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last update, of which no log and no checkpoint followed, broke them."""
    params = ["learning_starts=60", "train_freq=50", "gradient_steps=5", "learning_rate=1e30"]
    params += ["batch_size=8", "policy_kwargs.net_arch=[4]"]
    options = ["-f", str(tmp_path), "-n", "100", "--save-freq", "50", "--eval-freq", "-1"]
    assert cli.main(["train", *NAMES, *options, "--verbose", "0", "--params", *params]) == 1
    error = capsys.readouterr().err
    assert re.search(r"era-zoo: the networks are not finite at step 100: checkpoint-\d+ in", error)
    assert len(checkpoints(tmp_path / RUN)) == 1
    assert not any((tmp_path / RUN).glob("*.zip"))


def test_a_run_that_is_worked_on_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped_run(tmp_path)
    logs = sorted(path.name for path in run.rglob("*"))
    with locked(run):
        assert cli.main(["train", "--resume", str(run)]) == 2
    assert "is being worked on by another process" in capsys.readouterr().err
    assert sorted(path.name for path in run.rglob("*")) == logs


def test_a_new_run_holds_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def try_to_hold(self: Any, model: Any, callbacks: Any, folder: Path, _: Any) -> None:
        with pytest.raises(FolderError, match="another process"), locked(folder):
            pass
        seen.append(folder)

    monkeypatch.setattr("era_rl.sb3.run.Run._learn", try_to_hold)
    assert train(tmp_path, "sac_era", 10) == 0
    assert len(seen) == 1


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_device_that_is_absent_is_a_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [*NAMES, "-f", str(tmp_path)]
    if command == "evaluate":
        assert train(tmp_path, "sac_era", 10) == 0
    before = sorted(tmp_path.rglob("*_*"))
    assert cli.main([command, *names, "--device", "cuda:99"]) == 2
    assert "device='cuda:99' must be a usable torch device" in capsys.readouterr().err
    assert sorted(path for path in tmp_path.rglob("*_*") if path.name != "sac_era") == [
        path for path in before if path.name != "sac_era"
    ]


def test_an_environment_that_raises_leaves_the_checkpoint(tmp_path: Path) -> None:
    """The error is the environment's own."""
    run = stopped_run(tmp_path, error=ZeroDivisionError("in the environment"))
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert episode_lengths(run) == [20, 20, 20]


def test_an_environment_process_that_dies_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe's EOFError says nothing; the message says what it means and how to go on."""

    def died(self: Any, action: Any) -> Any:
        raise EOFError

    monkeypatch.setattr(PendulumEnv, "step", died)
    with pytest.raises(RuntimeError, match=r"process of an environment died.*--resume .*v1_1"):
        train(tmp_path, "sac_era", 60)
