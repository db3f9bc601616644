"""Checkpoints of a run: one file, written in one piece, read without running code from it."""

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from era_rl.files import in_one_piece
from era_rl.torchrl.config import Config

_FREE = {"total_steps", "out", "resume", "device", "compile", "log_interval"}
"""Settings that may change on resuming, for they do not change what is learned."""


def save_checkpoint(path: Path, config: Config, state: dict[str, Any]) -> None:
    """Write a checkpoint; an interruption leaves the one before."""
    # a file, for a full disk is an OSError then
    with in_one_piece(path) as part, part.open("wb") as file:
        torch.save({"algorithm": type(config).__name__, "config": asdict(config), **state}, file)


def load_checkpoint(path: Path, config: Config) -> dict[str, Any]:
    """Return the content, on the CPU, of a checkpoint that was written with the same settings.

    Raises:
        ValueError: If the file is no checkpoint, or a setting that matters differs.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"checkpoint={str(path)!r} is truncated or no checkpoint: remove it to begin anew"
        ) from error
    if not isinstance(state, dict) or not {"algorithm", "config", "learner"} <= state.keys():
        raise ValueError(f"checkpoint={str(path)!r} was not written by this trainer")
    asked = {"algorithm": type(config).__name__, **asdict(config)}
    saved = {"algorithm": state["algorithm"], **state["config"]}
    changed = [
        f"{name}: {saved.get(name)!r}, now {value!r}"
        for name, value in asked.items()
        if name not in _FREE and saved.get(name) != value
    ]
    if changed:
        raise ValueError(f"cannot resume {str(path)!r} with other settings ({', '.join(changed)})")
    return state
