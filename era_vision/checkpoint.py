"""Checkpoints: last.pt and best.pt of a run, and the classifier in them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from era_rl.runs.folder import read_state
from era_vision.config import FIXED_SIZE, Config
from era_vision.head import ERAClassifier
from era_vision.models import head_of, model_of


def load(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content on the CPU.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is truncated or not a checkpoint of this trainer.
    """
    return read_state(path, {"config", "classes", "weights"}, "era_vision")


def config_of(state: Mapping[str, Any], **changes: Any) -> Config:
    """Return the configuration in a checkpoint, with changes."""
    if changes.get("data") in FIXED_SIZE:
        changes["image_size"] = None
    # older checkpoints have cpu in the place of device
    saved = {name: value for name, value in state["config"].items() if name != "cpu"}
    return replace(Config.of(saved), pretrained=None, **changes)


def restore(state: Mapping[str, Any]) -> nn.Module:
    """Return a checkpoint's classifier, in evaluation mode, with its head if it has one."""
    config, num_classes = config_of(state), len(state["classes"])
    model = model_of(config, num_classes, state["image_size"])
    model.load_state_dict(state["weights"])
    head = head_of(config, num_classes)
    return (model if head is None else ERAClassifier(model, head)).eval()
