"""Checkpoints of a run: one file, written in one piece, read without running code from it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from era_rl.runs.folder import in_one_piece, read_state
from era_rl.torchrl.config import Config

_FREE = {"total_steps", "out", "resume", "compile", "log_interval"}
_FREE |= {"eval_interval", "eval_episodes", "env_processes"}
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
    state = read_state(path, {"algorithm", "config", "learner"}, "era_rl.torchrl")
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
