import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from era_vision.models import resnet8
from era_vision.objective import build_optimizer, mixing, view_loss, warmup_cosine


def test_one_view_is_the_cross_entropy():
    logits, targets = torch.randn(1, 8, 5), torch.randint(0, 5, (8,))
    expected = nn.functional.cross_entropy(logits[0], targets, label_smoothing=0.1)
    assert torch.equal(view_loss(logits, targets, smoothing=0.1), expected)


def test_views_without_divergence_count_alike():
    logits, targets = torch.randn(3, 8, 5), torch.randint(0, 5, (8,))
    expected = torch.stack([nn.functional.cross_entropy(view, targets) for view in logits]).mean()
    torch.testing.assert_close(view_loss(logits, targets), expected)


def test_divergence_is_the_mean_kl_to_the_mixture():
    logits, targets = 3 * torch.randn(3, 8, 5).double(), torch.randint(0, 5, (8,))
    probs = logits.softmax(-1)
    mixture = probs.mean(0)
    kl = sum((p * (p.log() - mixture.log())).sum(-1).mean() for p in probs) / 3
    expected = nn.functional.cross_entropy(logits[0], targets) + 12.0 * kl
    torch.testing.assert_close(view_loss(logits, targets, jsd=12.0), expected)


def test_divergence_of_equal_views_is_zero_and_stays_finite_at_extremes():
    logits = (100.0 * torch.randn(1, 8, 5)).repeat(3, 1, 1).requires_grad_()
    targets = logits[0].argmax(-1)
    loss = view_loss(logits, targets, jsd=12.0)
    plain = nn.functional.cross_entropy(logits[0], targets)
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=0.0)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_learning_rate_rises_then_falls_to_zero():
    factor = warmup_cosine(10, 110)
    values = [factor(step) for step in range(111)]
    assert values[0] == pytest.approx(1 / 11)
    assert values[10] == 1.0
    assert values[60] == pytest.approx(0.5)
    assert values[110] == pytest.approx(0.0, abs=1e-12)
    assert all(a < b for a, b in pairwise(values[:11]))
    assert all(a > b for a, b in pairwise(values[10:]))
    assert math.isfinite(warmup_cosine(5, 5)(5))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_do_not_decay(config, name):
    model = resnet8(10)
    decayed, free = build_optimizer(model, replace(config, optimizer=name)).param_groups
    assert decayed["weight_decay"] == config.weight_decay
    assert free["weight_decay"] == 0.0
    names = {id(p): n for n, p in model.named_parameters()}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    layers = {n: type(m) for n, m in model.named_modules()}
    for p in free["params"]:
        layer, _, kind = names[id(p)].rpartition(".")
        assert kind == "bias" or layers[layer] is nn.BatchNorm2d


def test_mixing_gives_probabilities_and_warns_of_a_high_floor(config):
    with pytest.warns(UserWarning, match=r"target_entropy=0\.6 fits the two-hot targets"):
        mix = mixing(replace(config, mixup=0.2, cutmix=1.0), 10)
    images, targets = mix(torch.randn(8, 3, 8, 8), torch.arange(8))
    assert images.shape == (8, 3, 8, 8)
    torch.testing.assert_close(targets.sum(-1), torch.ones(8))
    assert targets.shape == (8, 10)
    labels = torch.arange(8)
    assert mixing(config, 10)(images, labels) == (images, labels)
