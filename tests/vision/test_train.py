import csv
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torchvision.transforms import v2

from era_rl.runs.folder import save_state
from era_vision import ERAHead, Trainer, checkpoint, evaluate
from era_vision.checkpoint import restore
from era_vision.cli import main
from era_vision.export import with_pixels
from era_vision.head import last_layer


def run_cli(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The checkpoint of `era-vision train --data digits` with default settings."""
    out = tmp_path_factory.mktemp("digits")
    assert (
        main(["train", "--data", "digits", "--device", "cpu", "--no-progress", "--out", str(out)])
        == 0
    )
    return out


def test_digits_above_95_percent_with_the_floor_on_every_batch(digits):
    with (digits / "metrics.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows[-1]["top1"] > 0.95
    assert rows[-1]["top5"] > 0.99
    for row in rows:
        # the least entropy over every row of every batch of the epoch
        assert row["train_entropy_min"] >= ERAHead(10, 0.6).entropy_floor - 1e-5
        assert row["entropy_min"] >= ERAHead(10, 0.6).entropy_floor - 1e-5
        assert row["excess_nll"] >= 0.0
        assert 0.0 <= row["raw_ece"] <= 1.0


def test_outputs_of_a_run(digits):
    state = torch.load(digits / "best.pt", weights_only=True)
    last = checkpoint.load(digits / "last.pt")
    best = max(row["top1"] for row in last["history"])
    assert state["history"][-1]["top1"] == best
    events = EventAccumulator(str(digits / "tensorboard")).Reload()
    logged = [event.value for event in events.Scalars("top1")]
    assert logged == pytest.approx([row["top1"] for row in last["history"]])
    assert not list(digits.glob("*.part"))


def test_eval_repeats_the_metrics_of_training(digits, capsys):
    row = run_cli(capsys, "eval", digits / "last.pt", "--device", "cpu")
    history = checkpoint.load(digits / "last.pt")["history"]
    assert row == pytest.approx({name: history[-1][name] for name in row}, abs=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("suffix", "raw"), [("pt2", False), ("pt2", True), ("onnx", False)])
def test_export_gives_the_same_logits(digits, tmp_path, suffix, raw, capsys):
    path = tmp_path / f"model.{suffix}"
    assert main(["export", str(digits / "best.pt"), str(path), *["--raw"] * raw]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    images = torch.rand(5, 3, 8, 8)
    state = checkpoint.load(digits / "best.pt")
    classifier = restore(state)
    expected = with_pixels(classifier.model if raw else classifier, state)(images)
    if suffix == "onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (out,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        actual = torch.from_numpy(out)
    else:
        actual = torch.export.load(path).module()(images)
    torch.testing.assert_close(actual, expected.detach(), atol=1e-4, rtol=1e-4)


def test_an_export_that_cannot_be_written_is_a_line_before_the_work(
    digits, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(torch.export, "export", None)
    assert main(["export", str(digits / "best.pt"), str(tmp_path / "file" / "m.pt2")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line


def test_an_export_without_its_packages_is_a_line(digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("era_vision.export.find_spec", lambda name: None)
    assert main(["export", str(digits / "best.pt"), str(tmp_path / "m.onnx")]) == 2
    assert "needs the extra export: pip install 'era-rl[export]'" in capsys.readouterr().err


def test_floor_command(capsys):
    row = run_cli(capsys, "floor", "--num-classes", 1000, "--target-entropy", 0.6)
    head = ERAHead(1000, 0.6)
    assert row["entropy_floor"] == head.entropy_floor
    assert row["max_prob"] == head.max_prob


BUSY = {
    "optimizer": "adamw",
    "lr": 1e-3,
    "dropout": 0.3,
    "crop": True,
    "flip": True,
    "erase": 0.5,
    "ema": 0.8,
    "policy": "trivialaugment",
    "epochs": 3,
}


def write_pictures(root):
    rng = np.random.default_rng(0)
    for name in ("train/ants", "train/bees", "val/ants", "val/bees"):
        (root / name).mkdir(parents=True)
        for index in range(4):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")


@pytest.mark.usefixtures("_forkserver")
@pytest.mark.parametrize("workers", [0, 1])
def test_resume_equals_an_uninterrupted_run(config, tmp_path, monkeypatch, workers):
    config = replace(config, **BUSY)
    if workers:
        write_pictures(tmp_path)
        folder = {"data": f"imagefolder:{tmp_path}", "image_size": 16, "target_entropy": 0.2}
        config = replace(config, **folder, batch_size=4, workers=workers)
    whole = Trainer(config).fit()
    interrupted = replace(config, out=str(tmp_path / "second"))
    trainer = Trainer(interrupted)
    one_epoch = trainer.train_epoch

    def stop_in_the_second():
        row = one_epoch()
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return row

    monkeypatch.setattr(trainer, "train_epoch", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    resumed = Trainer(replace(interrupted, resume=True))
    assert resumed.epoch == 1
    rows = resumed.fit()
    for row, expected in zip(rows, whole, strict=True):
        assert {**row, "images_per_second": 0} == {**expected, "images_per_second": 0}
    first, second = (
        checkpoint.load(p / "last.pt") for p in (tmp_path / "out", tmp_path / "second")
    )
    for part in ("weights", "resume"):
        torch.testing.assert_close(first[part], second[part], atol=0.0, rtol=0.0)


def test_resume_refuses_other_settings(config):
    Trainer(replace(config, epochs=1)).fit()
    with pytest.raises(ValueError, match=r"workers: 0, now 1, lr: 0\.01, now 0\.02"):
        Trainer(replace(config, lr=0.02, workers=1, resume=True))
    last = Path(config.out) / "last.pt"
    save_state(last, {**checkpoint.load(last), "processes": 2})
    with pytest.raises(ValueError, match="processes: 2, now 1"):
        Trainer(replace(config, epochs=1, resume=True))


def test_a_resumed_run_normalises_as_it_began(config):
    """By the statistics in its checkpoint, though the data's are others by now."""
    Trainer(replace(config, epochs=1)).fit()
    last = Path(config.out) / "last.pt"
    save_state(last, {**checkpoint.load(last), "mean": (0.25,) * 3})
    resumed = Trainer(replace(config, resume=True))
    assert resumed.normalise.mean.flatten().tolist() == [0.25] * 3
    resumed.fit()
    assert checkpoint.load(last)["mean"] == (0.25,) * 3


def test_the_settings_reach_the_augmentation_and_the_model(config):
    trainer = Trainer(replace(config, **BUSY))
    assert trainer.erase.transform.p == BUSY["erase"]
    base, policy = trainer.views.base, trainer.views.policy
    assert {v2.RandomCrop, v2.RandomHorizontalFlip} <= set(map(type, base.transform.transforms))
    assert isinstance(policy.transform, v2.TrivialAugmentWide)
    (drop,) = last_layer(trainer.model)[1]._forward_pre_hooks.values()
    assert isinstance(drop, partial)
    assert drop.keywords == {"p": BUSY["dropout"]}
    plain = Trainer(config)
    assert type(plain.views.base.transform) is type(plain.views.policy.transform) is v2.Identity
    assert not last_layer(plain.model)[1]._forward_pre_hooks


def test_a_line_an_epoch_says_where_a_run_is(config, capsys):
    """On stderr, without a terminal too: epoch, accuracy, loss, lowest entropy, speed, folder."""
    (row,) = Trainer(replace(config, epochs=1, progress=True)).fit()
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("epoch 1 of 1: ")]
    assert f"top-1 {row['top1']:.1%}, loss {row['train_loss']:.3f}, lowest entropy" in line
    assert line.endswith(f" images a second, to {config.out}")
    assert shown.out == ""


def test_infeasible_floor(config):
    with pytest.raises(ValueError, match=r"target_entropy=2\.4 must be in .* for num_classes=10"):
        Trainer(replace(config, target_entropy=2.4))


def test_diverging_run_says_so_and_keeps_the_last_checkpoint(config):
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in epoch 1; .*lower lr="):
        Trainer(replace(config, lr=1e30, head="none", warmup_epochs=0)).fit()


@pytest.mark.parametrize("damage", ["truncated", "foreign", "missing"])
def test_damaged_checkpoints(damage, digits, tmp_path, capsys):
    path = tmp_path / "last.pt"
    content = (digits / "last.pt").read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "foreign":
        torch.save({"weights": {}}, path)
    messages = {"truncated": "is truncated", "foreign": "not written by", "missing": "not exist"}
    assert main(["eval", str(path)]) == 2
    assert messages[damage] in capsys.readouterr().err


def test_checkpoints_run_no_code(tmp_path):
    torch.save({"config": {}, "classes": (), "weights": print}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="is truncated or no checkpoint"):
        checkpoint.load(tmp_path / "last.pt")


def calibration_error(probs, labels):
    """The mean over 15 bins of the confidence, by their share, of |accuracy - mean confidence|."""
    confidence, right = probs.max(1), probs.argmax(1) == labels
    place = np.digitize(confidence, np.linspace(0.0, 1.0, 16)[1:-1])
    return sum(
        abs(right[place == b].sum() - confidence[place == b].sum()) / len(labels) for b in range(15)
    )


@pytest.mark.parametrize("head", [ERAHead(10, 0.6), None], ids=["era", "none"])
def test_the_published_metrics_are_numpys(head):
    raw, labels = 3.0 * torch.randn(20, 10), torch.randint(10, (20,))
    model = nn.Linear(10, 10, bias=False)
    nn.init.eye_(model.weight)
    batches = [(raw[:13], labels[:13]), (raw[13:], labels[13:])]
    row = evaluate(model, head, batches, 10, nn.Identity())
    out = raw if head is None else head(raw)
    raw_p, p = (logits.double().softmax(-1).numpy() for logits in (raw, out))
    of_label, raw_of_label = (values[range(20), labels] for values in (p, raw_p))
    ranks = (raw_p > raw_of_label[:, None]).sum(1)
    entropy = -(p * np.log(p)).sum(1)
    assert len({(ranks < k).mean() for k in (1, 4, 5, 6, 9)}) == 5
    nll, floor = -np.log(of_label).mean(), 0.0 if head is None else head.cross_entropy_floor
    assert row == pytest.approx(
        {
            "top1": (ranks < 1).mean(),
            "top5": (ranks < 5).mean(),
            "nll": nll,
            "raw_nll": -np.log(raw_of_label).mean(),
            "ece": calibration_error(p, labels.numpy()),
            "raw_ece": calibration_error(raw_p, labels.numpy()),
            "entropy_min": entropy.min(),
            "entropy_mean": entropy.mean(),
            "excess_nll": nll - floor,
        },
        abs=1e-6,
    )


def test_wrong_class_counts(config):
    trainer = Trainer(config)
    images = torch.rand(4, 3, 8, 8)
    batch = [(images, torch.tensor([0, 1, 2, 10]))]
    with pytest.raises(ValueError, match="labels from 0 to 10 are not within 10 classes"):
        evaluate(trainer.model, trainer.head, batch, 10, trainer.normalise)
    with pytest.raises(ValueError, match="the model gives 10 classes, the data has 9"):
        evaluate(trainer.model, trainer.head, batch, 9, trainer.normalise)


def test_nan_images_are_named(config):
    trainer = Trainer(config)
    images = torch.rand(4, 3, 8, 8)
    images[2, 1, 0, 0] = torch.nan
    batch = [(images, torch.arange(4))]
    with pytest.raises(ValueError, match="not finite, because of NaN or infinite images"):
        evaluate(trainer.model, trainer.head, batch, 10, trainer.normalise)


def test_missing_data_is_one_line_on_the_command_line(tmp_path, capsys):
    assert main(["train", "--data", "cifar10", "--root", str(tmp_path), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("era-vision: cifar10: none in ")
    assert error.count("\n") == 1
