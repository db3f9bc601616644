"""The TorchRL trainer under faults: a full disk, damaged files, two processes in one folder."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from era_rl.files import locked
from era_rl.torchrl.checkpoint import load_checkpoint
from era_rl.torchrl.config import SACConfig
from era_rl.torchrl.train import main
from era_rl.torchrl.trainer import Trainer

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
