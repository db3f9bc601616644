"""The vision trainer under faults: kills, a full disk, damaged files, two processes in one folder."""

import errno
import math
import os
import random
import time
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from era_rl.runs.folder import locked, save_state
from era_vision import Trainer, checkpoint, train
from era_vision.cli import main
from era_vision.config import Config, load_recipe

TRAIN = ["train", "--data", "fake", "--image-size", "8"]


def go_on(config: Config) -> None:
    Trainer(replace(config, resume=True)).fit()


@pytest.mark.usefixtures("_forkserver")
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(
    config: Config, tmp_path: Path
) -> None:
    """SIGKILL within an epoch after a checkpoint: between its files, and while one is written."""
    config = replace(config, epochs=5)
    whole = Trainer(replace(config, out=str(tmp_path / "whole"))).fit()
    last, moments, kills = Path(config.out) / "last.pt", random.Random(1), 0
    for _ in range(3):
        before = _epochs(last)
        process = get_context("forkserver").Process(target=go_on, args=(config,))
        process.start()
        while process.is_alive() and not (last.parent / "best.pt.part").exists():
            if _epochs(last) > before:
                break
        process.join(moments.uniform(0.0, 0.3))
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills >= 1
    rows = Trainer(replace(config, resume=True)).fit()
    for row, expected in zip(rows, whole, strict=True):
        assert {**row, "images_per_second": 0} == {**expected, "images_per_second": 0}
    # what was best is kept, whichever of its files the kills came between
    best = checkpoint.load(last.with_name("best.pt"))["history"]
    assert best[-1]["top1"] == max(row["top1"] for row in whole)
    assert not list(last.parent.glob("*.part"))


def _epochs(last: Path) -> int:
    time.sleep(0.01)
    return len(checkpoint.load(last)["history"]) if last.exists() else 0


def test_a_kill_between_the_two_checkpoints_loses_no_best_weights(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = train.save_state

    def killed_before_last(path: Path, state: dict) -> None:
        if path.name == "last.pt":
            raise KeyboardInterrupt
        save(path, state)

    monkeypatch.setattr(train, "save_state", killed_before_last)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config).fit()
    monkeypatch.undo()
    best = checkpoint.load(Path(config.out) / "best.pt")
    resumed = Trainer(replace(config, resume=True))
    assert resumed.epoch == 0
    assert resumed.fit()[0]["top1"] == best["history"][0]["top1"]


def test_a_full_disk_ends_a_run_with_a_line_and_its_checkpoint(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = torch.save

    def full(state: dict, file: object) -> None:
        if len(state["history"]) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    settings = ["--batch-size", "128", "--epochs", "3", "--no-progress"]
    arguments = [*TRAIN, "--device", "cpu", *settings, "--out", config.out]
    assert main(arguments) == 1
    assert "era-vision: [Errno 28] No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert len(checkpoint.load(Path(config.out) / "last.pt")["history"]) == 1
    assert not list(Path(config.out).glob("*.part"))
    assert main([*arguments, "--resume"]) == 0


def test_a_folder_that_cannot_be_written_to_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([*TRAIN, "--device", "cpu", "--out", str(tmp_path / "file")]) == 2
    assert "must be a writable folder" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_not_resumed(config: Config) -> None:
    last = Path(config.out) / "last.pt"
    Trainer(replace(config, epochs=1)).fit()
    content = last.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"PK\x03\x04", b"epoch,loss\n"):
        last.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"last\.pt' is truncated or no checkpoint: without it"
        ):
            Trainer(replace(config, epochs=1, resume=True))
    last.write_bytes((last.parent / "best.pt").read_bytes())
    with pytest.raises(ValueError, match=r"last\.pt' has weights alone"):
        Trainer(replace(config, epochs=1, resume=True))


@pytest.mark.parametrize(
    "content", [b"lr: [", b"\xff\xfe\x00", b"- 1", b"", b"words"], ids=range(5)
)
def test_a_damaged_recipe_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.yaml(: | must be a mapping of names)"):
        load_recipe(str(path))
    assert main(["train", "--recipe", str(path)]) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": "many"}, r"epochs='many' must be a whole number"),
        ({"epochs": True}, "epochs=True must be a whole number"),
        ({"seed": -1}, r"seed=-1 must be a whole number in \[0, 4294967295\]"),
        ({"lr": "1e-3"}, r"lr='1e-3' must be a finite number of at least 0"),
        ({"image_size": 8.5}, "image_size=8.5 must be a whole number of at least 1 or none"),
        ({"flip": 1}, "flip=1 must be true or false"),
        ({"data": None}, "data=None must be a text"),
        ({"method": ["lambert"]}, r"method=\('lambert',\) must be one of"),
    ],
    ids=["text", "bool", "seed", "yaml-float", "fraction", "int", "null", "list"],
)
def test_settings_of_another_type_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.of(settings)


def test_a_run_is_gone_on_with_or_kept(config: Config) -> None:
    """A folder with a run is not written over, and more epochs than it has done go on with it."""
    rows = Trainer(config).fit()
    before = (Path(config.out) / "last.pt").read_bytes()
    with pytest.raises(
        ValueError, match=r"out='.*' holds a run: resume it, or take another folder"
    ):
        Trainer(config).fit()
    with pytest.raises(ValueError, match=r"epochs=1 must be at least the 2 that .* has done"):
        Trainer(replace(config, epochs=1, resume=True))
    assert (Path(config.out) / "last.pt").read_bytes() == before
    longer = Trainer(replace(config, epochs=4, resume=True))
    # the second half of a cosine over four epochs of four steps, one of them the warm-up
    rate = config.lr * 0.5 * (1.0 + math.cos(math.pi * (8 - 4) / (16 - 4)))
    assert [group["lr"] for group in longer.optimizer.param_groups] == pytest.approx([rate] * 2)
    more = longer.fit()
    assert more[:2] == rows
    assert len(more) == 4


def test_a_checkpoint_from_before_device_is_gone_on_from(config: Config) -> None:
    Trainer(replace(config, epochs=1)).fit()
    last = Path(config.out) / "last.pt"
    state = checkpoint.load(last)
    names = ("device", "limit", "accumulate", "freeze", "group", "magnitude")
    older = {name: value for name, value in state["config"].items() if name not in names}
    save_state(last, {**state, "config": {**older, "cpu": True}})
    assert len(Trainer(replace(config, resume=True)).fit()) == 2


def test_data_of_other_classes_is_not_evaluated(
    config: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many classes of other names would give a number that means nothing."""
    Trainer(replace(config, epochs=1)).fit()
    last = Path(config.out) / "last.pt"
    save_state(last, {**checkpoint.load(last), "classes": tuple("ABCDEFGHIJ")})
    assert main(["eval", str(last)]) == 2
    assert "data='fake' has other classes than" in capsys.readouterr().err


def test_a_model_that_does_not_fit_the_images_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TRAIN, "--device", "cpu", "--out", str(tmp_path), "--model", "alexnet"]
    assert main(command) == 2
    assert "model does not take images of image_size=8: " in capsys.readouterr().err


def test_labels_of_several_classes_an_image_are_refused(config: Config) -> None:
    trainer = Trainer(config)
    with pytest.raises(
        ValueError, match=r"labels are torch\.float32 of shape \(4, 10\), not integers"
    ):
        trainer.step(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, 10))


def test_trainers_of_several_precisions_share_a_process(config: Config) -> None:
    """Each computes as it does alone."""
    trainers = {p: Trainer(replace(config, precision=p, lr=0.0)) for p in ("no", "bf16")}
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    logits = {p: t.step(images, torch.arange(8))[1] for p, t in trainers.items()}
    with torch.autocast("cpu", torch.bfloat16):
        halved = trainers["no"].network(trainers["no"].normalise(images))
    assert torch.equal(logits["bf16"], halved)
    torch.testing.assert_close(
        logits["no"], trainers["no"].network(trainers["no"].normalise(images)), atol=1e-5, rtol=0.0
    )
    assert not torch.equal(logits["no"], halved)


def test_a_folder_that_is_worked_in_is_refused(config: Config) -> None:
    with locked(config.out), pytest.raises(ValueError, match="worked on by another process"):
        Trainer(config).fit()
    assert not (Path(config.out) / "last.pt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for what needs a GPU, and there is one")
def test_half_precision_without_a_gpu_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "--precision", "fp16", "--out", str(tmp_path)]) == 2
    assert "era-vision: precision='fp16' needs an accelerator" in capsys.readouterr().err
