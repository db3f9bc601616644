"""What is minimised, and how: loss, mixing of images, optimizer and learning rate."""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
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
    options = (("mixup", v2.MixUp), ("cutmix", v2.CutMix))
    chosen = [
        make(alpha=getattr(config, name), num_classes=num_classes)
        for name, make in options
        if getattr(config, name)
    ]
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
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0.0,
    )


def warmup_cosine(warmup: int, total: int) -> Callable[[int], float]:
    """Return the factor of the learning rate: linear up to step ``warmup``, a half cosine to zero.

    factor(t) = (t + 1) / (warmup + 1) before, then (1 + cos(pi (t - warmup) / (total - warmup))) / 2.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return factor
