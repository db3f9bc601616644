"""What the settings of training do: losses, averaged weights, parts of batches, frozen features."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from era_vision import Trainer, checkpoint, evaluate
from era_vision.objective import averaged, view_loss


@pytest.mark.parametrize(
    "settings",
    [
        {"head": "none"},
        {"method": "temperature", "target_entropy": 1.0, "mixup": 0.2, "cutmix": 1.0},
        {"views": 3, "jsd": 12.0, "policy": "randaugment", "smoothing": 0.1, "erase": 0.6},
        {"precision": "bf16", "channels_last": True, "clip": 0.5},
    ],
    ids=["plain", "mixed", "reference", "autocast"],
)
def test_settings_train(config, settings):
    rows = Trainer(replace(config, **settings)).fit()
    assert len(rows) == config.epochs
    if settings.get("head") != "none":
        assert min(r["entropy_min"] for r in rows) >= settings.get("target_entropy", 0.6) - 1e-5
    else:
        assert rows[-1]["nll"] == rows[-1]["raw_nll"] == rows[-1]["excess_nll"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"smoothing": 0.1},
        {"views": 3, "flip": True},
        {"views": 3, "flip": True, "jsd": 12.0},
        {"mixup": 1.0, "target_entropy": 0.2},
        {"cutmix": 1.0, "target_entropy": 0.2},
        {"crop": True, "erase": 0.5},
        {"policy": "trivialaugment", "dropout": 0.3},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)
def test_a_step_minimises_the_loss_of_the_settings(config, settings):
    config = replace(config, **settings)
    trainer = Trainer(config)
    images, labels = next(iter(trainer.batches))
    trainer.network.train()
    torch.manual_seed(1)
    augmented = trainer.augment(images)
    mixed, targets = trainer.mix(augmented, labels)
    logits = trainer.network(mixed).detach()
    torch.manual_seed(1)
    loss, found = trainer.step(images, labels)
    torch.testing.assert_close(found, logits)
    chosen = {"smoothing": config.smoothing, "jsd": config.jsd}
    expected = view_loss(logits.unflatten(0, (-1, len(labels))), targets, **chosen)
    torch.testing.assert_close(loss, expected)
    plain = view_loss(logits.unflatten(0, (-1, len(labels))), labels)
    if any(settings.get(name) for name in ("smoothing", "jsd", "mixup", "cutmix")):
        assert (loss - plain).abs() > 1e-3
    if any(settings.get(name) for name in ("mixup", "cutmix")):
        assert not torch.equal(mixed, augmented)


@pytest.mark.slow
def test_compiled_training_equals_eager(config):
    eager = Trainer(config).fit()
    compiled = Trainer(replace(config, compile=True, out=f"{config.out}-compiled")).fit()
    for row, expected in zip(compiled, eager, strict=True):
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-3)


def test_clipping_bounds_the_update(config):
    trainer = Trainer(replace(config, clip=1e-3, lr=1.0, momentum=0.0, weight_decay=0.0, epochs=1))
    before = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    lr = trainer.schedule.get_last_lr()[0]
    images, labels = next(iter(trainer.batches))
    trainer.network.train()
    trainer.step(images, labels)
    after = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    assert (after - before).norm() <= lr * 1e-3 * 1.01


def test_the_decay_of_averaged_weights_warms_up():
    """a_t = d_t a_(t-1) + (1 - d_t) w_t with d_t = min(d, (1 + t) / (10 + t)), and a_0 = w_0."""
    model = nn.Linear(1, 1, bias=False)
    average = averaged(model, 0.3, 1_000)
    assert average is not None
    expected, decays = None, []
    for step in range(6):
        model.weight.data.fill_(float(step))
        average.update_parameters(model)
        decays.append(min(0.3, (1 + step) / (10 + step)))
        expected = (
            float(step) if expected is None else (decays[-1] * expected + (1.0 - decays[-1]) * step)
        )
        assert average.module.weight.item() == pytest.approx(expected)
    assert decays[1] < decays[2] < decays[3] == decays[4] == 0.3


def test_an_average_over_more_steps_than_there_are_is_said(config):
    """1 / (1 - d) = 1000 steps of 8."""
    with pytest.warns(UserWarning, match=r"ema=0\.999 averages more steps than the 8 of the run"):
        trainer = Trainer(replace(config, ema=0.999))
    row = trainer.fit()[-1]
    plain = evaluate(trainer.model, trainer.head, trainer.test_batches, 10, trainer.normalise)
    assert row["unaveraged_top1"] == pytest.approx(plain["top1"])
    assert row["unaveraged_nll"] == pytest.approx(plain["nll"])
    assert row["nll"] != row["unaveraged_nll"]
    # what is left of the first weights is the product of the decays, here 2% and not 99%
    first, last = Trainer(replace(config, ema=0.5)).model.state_dict(), trainer.average
    assert last is not None
    kept = (last.module.state_dict()["0.weight"] - trainer.model.state_dict()["0.weight"]).norm()
    assert kept < (first["0.weight"] - trainer.model.state_dict()["0.weight"]).norm()


def test_parts_of_a_batch_give_the_gradient_of_the_whole(config):
    """sum_k (B_k / B) L_k, with group norm, which no other image has a part in."""
    settings = replace(config, norm="group", lr=0.1)
    images, labels = next(iter(Trainer(settings).batches))
    steps = [Trainer(replace(settings, accumulate=parts)) for parts in (1, 3)]
    results = [trainer.step(images, labels) for trainer in steps]
    for one, three in zip(*results, strict=True):
        torch.testing.assert_close(one, three)
    whole, parts = (list(trainer.model.parameters()) for trainer in steps)
    torch.testing.assert_close(whole, parts)


def test_frozen_features_stay_as_they_are(config):
    """A linear probe: neither weights nor batch norm's statistics move, but for the last layer's."""
    trainer = Trainer(replace(config, freeze=True, epochs=1))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.fit()
    after = trainer.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {"8.weight", "8.bias"}


def test_averaged_weights_are_evaluated(config):
    trainer = Trainer(replace(config, ema=0.5))
    trainer.fit()
    assert trainer.average is not None
    saved = checkpoint.load(trainer.last)
    averaged = trainer.average.module.state_dict()
    torch.testing.assert_close(saved["weights"], averaged, atol=0.0, rtol=0.0)
    assert not torch.equal(saved["weights"]["0.weight"], trainer.model.state_dict()["0.weight"])
