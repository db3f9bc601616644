"""The metrics of a classifier, with the entropy floor and without."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MinMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from era_rl.core import categorical_entropy

Row = dict[str, float]


@torch.no_grad()
def evaluate(
    model: nn.Module, head: nn.Module | None, batches: Iterable[tuple[Tensor, Tensor]],
    num_classes: int, normalise: nn.Module,
) -> Row:  # fmt: skip
    """Return a classifier's metrics over labelled images, with the head ("era") and without ("raw").

    top1 and top5 (from raw logits: the head keeps the order), nll and ece of both, entropy_min and
    entropy_mean of the output, excess_nll = nll - cross_entropy_floor, raw_nll and raw_ece. NLL and
    entropies are in nats. Without a head, the output is the raw one.

    Raises:
        ValueError: If a batch gives logits that are not finite, or a class outside num_classes.
    """
    device = next(model.parameters()).device
    meters = {name: meter.to(device) for name, meter in _meters(num_classes).items()}
    model.eval()
    for images, labels in batches:
        images, labels = normalise(images.to(device)), labels.to(device)
        raw = model(images).float()
        _check_batch(images, raw, labels, num_classes)
        out = raw if head is None else head(raw)
        meters["top1"].update(raw, labels)
        meters["top5"].update(raw, labels)
        entropy = categorical_entropy(out)
        meters["entropy_min"].update(entropy)
        meters["entropy_mean"].update(entropy)
        for prefix, logits in (("", out), ("raw_", raw)):
            nll = nn.functional.cross_entropy(logits, labels, reduction="none")
            meters[f"{prefix}nll"].update(nll)
            meters[f"{prefix}ece"].update(logits.softmax(-1), labels)
    row = {name: meter.compute().item() for name, meter in meters.items()}
    return {**row, "excess_nll": row["nll"] - getattr(head, "cross_entropy_floor", 0.0)}


def _meters(num_classes: int) -> dict[str, Metric]:
    return {
        "top1": MulticlassAccuracy(num_classes, average="micro"),
        "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
        "nll": MeanMetric(),
        "raw_nll": MeanMetric(),
        "ece": MulticlassCalibrationError(num_classes),
        "raw_ece": MulticlassCalibrationError(num_classes),
        "entropy_min": MinMetric(),
        "entropy_mean": MeanMetric(),
    }


def _check_batch(images: Tensor, logits: Tensor, labels: Tensor, num_classes: int) -> None:
    if logits.shape[-1] != num_classes:
        raise ValueError(f"the model gives {logits.shape[-1]} classes, the data has {num_classes}")
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f"labels from {labels.min()} to {labels.max()} are not within {num_classes} classes"
        )
    if not logits.isfinite().all():
        cause = "the weights" if images.isfinite().all() else "NaN or infinite images"
        raise ValueError(f"the logits are not finite, because of {cause}")
