"""The TorchRL trainer under faults: a full disk, damaged files, two processes in one folder, NaN."""

import errno
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensordict import TensorDict, TensorDictBase

from era_rl.runs.folder import locked
from era_rl.torchrl.checkpoint import load_checkpoint
from era_rl.torchrl.config import Config, SACConfig
from era_rl.torchrl.learner import ACTOR
from era_rl.torchrl.sac import SACLearner
from era_rl.torchrl.train import main
from era_rl.torchrl.trainer import Trainer, episode_rollouts, make_collector

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

SAC = SACConfig(
    total_steps=40, hidden=(8,), learning_starts=10, batch_size=8, buffer_size=40, eval_episodes=1
)
COMMAND = [
    "sac",
    "--total-steps",
    "40",
    "--hidden",
    "8",
    "--eval-episodes",
    "1",
    "--batch-size",
    "8",
]
COMMAND += ["--learning-starts", "10", "--buffer-size", "40", "--checkpoint-interval", "20"]


def test_a_full_disk_ends_a_run_with_a_line_and_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save, path = torch.save, tmp_path / "checkpoint.pt"

    def full(state: dict, file: object) -> None:
        if path.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    assert main([*COMMAND, "--out", str(tmp_path)]) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.part"))
    assert main([*COMMAND, "--out", str(tmp_path), "--resume"]) == 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"words"], ids=range(3))
def test_a_damaged_checkpoint_is_not_resumed(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"checkpoint\.pt' is truncated or no checkpoint: remove it"
    ):
        load_checkpoint(path, SAC)
    torch.save({"weights": 1}, path)
    with pytest.raises(ValueError, match=r"was not written by era_rl\.torchrl"):
        load_checkpoint(path, SAC)
    torch.save({"algorithm": print, "config": {}, "learner": {}}, path)
    with pytest.raises(ValueError, match="truncated or no checkpoint"):
        load_checkpoint(path, SAC)


def test_a_folder_is_held_from_the_start_to_the_close(tmp_path: Path) -> None:
    config = replace(SAC, out=str(tmp_path))
    with locked(tmp_path), pytest.raises(ValueError, match="worked on by another process"):
        Trainer(config)
    trainer = Trainer(config)
    with pytest.raises(ValueError, match="worked on by another process"):
        locked(tmp_path).__enter__()
    trainer.close()
    with locked(tmp_path):
        pass


def test_a_folder_or_a_device_that_cannot_be_used_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([*COMMAND, "--out", str(tmp_path / "file")]) == 2
    assert "must be a writable folder" in capsys.readouterr().err
    assert main([*COMMAND, "--out", str(tmp_path), "--device", "cuda:99"]) == 2
    assert "device='cuda:99' must be a usable torch device, here one of" in capsys.readouterr().err


class _NaNRewards:
    """Two environments whose episodes end after their second step with a return that is NaN."""

    batch_size = torch.Size([2])
    steps = 0

    def set_seed(self, seed: int, static_seed: bool) -> None:
        assert static_seed

    def reset(self) -> TensorDictBase:
        return TensorDict({}, [2])

    def step_and_maybe_reset(self, data: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        self.steps += 1
        assert self.steps < 10
        done = torch.full((2, 1), self.steps == 2)
        after = {"done": done, "episode_reward": torch.full((2, 1), math.nan)}
        return TensorDict({"next": after}, [2]), data


def test_an_evaluation_ends_where_returns_are_nan() -> None:
    envs = _NaNRewards()
    assert episode_rollouts(envs, lambda data: data, seed=0).isnan().all()
    assert envs.steps == 2


def test_networks_that_are_not_finite_leave_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def learn(learner: SACLearner, data: TensorDictBase) -> dict[str, torch.Tensor]:
        learner.steps += 1
        if learner.steps > 30:
            next(iter(learner.params[ACTOR].data.values(True, True)))[0] = math.nan
        return {}

    monkeypatch.setattr(SACLearner, "learn", learn)
    assert main([*COMMAND, "--out", str(tmp_path)]) == 2
    path = tmp_path / "checkpoint.pt"
    message = f"the networks are not finite at step 40: {path} stays as it was"
    assert message in capsys.readouterr().err
    state = load_checkpoint(path, replace(SAC, checkpoint_interval=20))
    assert state["learner"]["steps"] == 20


@pytest.mark.usefixtures("no_evaluation")
def test_a_finished_run_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    content = (tmp_path / "checkpoint.pt").read_bytes()
    assert main([*COMMAND, "--out", str(tmp_path)]) == 2
    assert f"out={str(tmp_path)!r} holds a checkpoint.pt" in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == content


@pytest.mark.usefixtures("no_evaluation")
def test_steps_that_are_done_again_are_logged_once(tmp_path: Path) -> None:
    config = replace(SAC, out=str(tmp_path), log_interval=10, checkpoint_interval=20)
    trainer = Trainer(replace(config, total_steps=20))
    trainer.run()
    trainer.learner.steps = 30  # it is killed here, ten steps after its checkpoint
    trainer._log({"loss_actor": torch.zeros(1)})
    trainer.close()
    trainer = Trainer(replace(config, resume=True))
    trainer.run()
    trainer.close()
    (path,) = tmp_path.rglob("loss_actor.csv")
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert [int(float(step)) for step, _ in rows] == [10, 20, 30, 40]
    assert float(rows[2][1]) != 0.0


def test_a_failed_start_lets_go_of_the_folder_and_the_processes(tmp_path: Path) -> None:
    collectors = []

    def broken(config: Config, policy: object) -> object:
        collectors.append(make_collector(config, policy))
        collectors[0].set_seed = lambda *_, **__: 1 / 0
        return collectors[0]

    with pytest.raises(ZeroDivisionError) as error:
        Trainer(replace(SAC, out=str(tmp_path)), broken)
    with locked(tmp_path):  # while the error holds on to the trainer
        assert collectors[0].closed
    assert error


@pytest.mark.usefixtures("no_evaluation")
def test_a_checkpoint_is_checked_before_a_collector_is_made(tmp_path: Path) -> None:
    config = replace(SAC, out=str(tmp_path), total_steps=10)
    trainer = Trainer(config)
    trainer.run()
    trainer.close()
    made = []
    with pytest.raises(ValueError, match="gamma"):
        Trainer(replace(config, gamma=0.5, resume=True), lambda *_: made.append(1))
    assert not made


def test_close_closes_the_logs(tmp_path: Path) -> None:
    trainer = Trainer(replace(SAC, out=str(tmp_path)))
    trainer._log({"entropy": torch.zeros(1)})
    files = trainer.loggers[0].experiment.files.values()
    assert files
    trainer.close()
    assert all(file.closed for file in files)
