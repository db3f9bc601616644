"""What is minimised, and how: loss, mixing of images, optimizer, learning rate and average."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from era_rl.core import categorical_entropy
from era_vision.config import Config


def view_loss(
    logits: Tensor, targets: Tensor, *, smoothing: float = 0.0, jsd: float = 0.0
) -> Tensor:
    """Return the cross-entropy of the first view plus jsd times the divergence of all of them.

    JSD = H(mean_v p_v) - mean_v H(p_v), averaged over the batch, the consistency loss of AugMix
    (arXiv 1912.02781). Without it every view counts alike in the cross-entropy.

    Args:
        logits: Shape (views, B, num_classes).
        targets: Classes (B,) or probabilities (B, num_classes).
        smoothing: Label smoothing.
        jsd: Weight of the divergence, 12 in AugMix.
    """
    if not jsd:
        repeated = targets.repeat(len(logits), *[1] * (targets.dim() - 1))
        flat = logits.flatten(0, 1)
        return nn.functional.cross_entropy(flat, repeated, label_smoothing=smoothing)
    loss = nn.functional.cross_entropy(logits[0], targets, label_smoothing=smoothing)
    mean = logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))
    divergence = categorical_entropy(mean) - categorical_entropy(logits).mean(0)
    return loss + jsd * divergence.mean()


def mixing(config: Config, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return torchvision's MixUp, CutMix or a choice of the two for a batch; else the identity."""
    alphas = {v2.MixUp: config.mixup, v2.CutMix: config.cutmix}
    chosen = [make(alpha=a, num_classes=num_classes) for make, a in alphas.items() if a]
    if not chosen:
        return lambda images, labels: (images, labels)
    if config.head == "era" and config.target_entropy >= 0.5 and config.method != "temperature":
        warnings.warn(
            f"target_entropy={config.target_entropy} fits the two-hot targets of MixUp and CutMix"
            " badly: lower it, or leave out the mixing",
            stacklevel=2,
        )
    return v2.RandomChoice(chosen)


def build_optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Return SGD (Nesterov) or AdamW, without weight decay on norms and biases."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    shared: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, **shared)
    nesterov = config.momentum > 0.0
    return torch.optim.SGD(groups, momentum=config.momentum, nesterov=nesterov, **shared)


def warmup_cosine(warmup: int, total: int) -> Callable[[int], float]:
    """Return the factor of the learning rate: linear up to step ``warmup``, a half cosine to zero.

    factor(t) = (t + 1) / (warmup + 1) before, then (1 + cos(pi (t - warmup) / (total - warmup))) / 2.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor


def averaged(model: nn.Module, decay: float, steps: int) -> AveragedModel | None:
    """Return the moving average of a model's weights, None for decay 0.

    The decay of step t is min(decay, (1 + t) / (10 + t)): the first weights, which are random, are
    forgotten however short the run is.
    """
    if not decay:
        return None
    if (1.0 - decay) * steps < 1.0:
        warnings.warn(
            f"ema={decay} averages more steps than the {steps} of the run: lower it", stacklevel=2
        )

    def update(average: Any, current: Any, step: Tensor | int) -> None:
        warm = (1 + int(step)) / (10 + int(step))
        get_ema_multi_avg_fn(min(decay, warm))(average, current, step)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
