"""Checkpoints: one file each, written in one piece, read without running code from it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from era_rl.runs.folder import in_one_piece, read_state
from era_vision.config import FIXED_SIZE, Config, config_from

_FREE = {"root", "out", "resume", "progress", "compile"}
"""Settings that may change on resuming, for they do not change what is learned."""


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint; an interruption leaves the one before."""
    # a file, for a full disk is an OSError then
    with in_one_piece(path) as part, part.open("wb") as file:
        torch.save(dict(state), file)


def load(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content on the CPU.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is truncated or not a checkpoint of this trainer.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint={str(path)!r} does not exist")
    return read_state(path, {"config", "classes", "weights"}, "era_vision")


def check_same(saved: Mapping[str, Any], asked: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError unless a run can go on from a checkpoint with the settings asked for."""
    changed = {
        name: (saved.get(name), value)
        for name, value in asked.items()
        if name not in _FREE and saved.get(name) != value
    }
    if changed:
        listed = ", ".join(f"{name}: {old!r}, now {new!r}" for name, (old, new) in changed.items())
        raise ValueError(f"cannot resume {path} with other settings ({listed})")


def config_of(state: Mapping[str, Any], **changes: Any) -> Config:
    """Return the configuration in a checkpoint, with changes."""
    if changes.get("data") in FIXED_SIZE:
        changes["image_size"] = None
    return replace(config_from(state["config"]), pretrained=None, **changes)


def load_weights(model: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """Return the model in evaluation mode, with a checkpoint's evaluated weights."""
    model.load_state_dict(state["weights"])
    return model.eval()
