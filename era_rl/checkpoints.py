"""Checkpoints of torch, read without running code from them."""

import pickle
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch


def read_checkpoint(path: Path, needed: Collection[str], writer: str) -> dict[str, Any]:
    """Return what ``torch.save`` wrote, on the CPU, read without running code from it.

    Args:
        path: The file.
        needed: Keys that it must have.
        writer: What writes such checkpoints, for the message.

    Raises:
        ValueError: If the file is truncated, no checkpoint, or one of another writer.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"checkpoint={str(path)!r} is truncated or no checkpoint: remove it to begin anew"
        ) from error
    if not isinstance(state, dict) or not set(needed) <= state.keys():
        raise ValueError(f"checkpoint={str(path)!r} was not written by {writer}")
    return state
