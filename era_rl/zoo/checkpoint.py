"""Checkpoints from which a killed run goes on: model, replay buffer, statistics and logs as one set."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from tensordict import TensorDictBase
from torch import Tensor

from era_rl.runs.folder import read_json, write_json

# in the folder of settings: what the best model was normalised by, beside what the last one was
BEST = "best"

# what training writes to a run's folder, and replays from the last checkpoint on
LOGS = (
    *("*.monitor.csv", "evaluations.npz", "tensorboard/*"),
    *("best_model.zip", f"*/{BEST}/vecnormalize.pkl"),
)

# CRC-32 by file: what is not as it was written is not gone on from
CHECKSUMS = "checksums.json"

# what SB3's logger has been given since it last wrote
PENDING = ("name_to_value", "name_to_count", "name_to_excluded")


class CheckpointCallback(BaseCallback):
    """Saves checkpoints into a run's folder, between two rollouts.

    There every step taken has been trained on and logged. With off-policy algorithms it waits for
    a moment at which all environments have just ended an episode, up to another ``save_freq``
    steps, so that no episode is cut in two.

    Args:
        params_path: The folder of settings in the run's folder (rl_zoo3's params_path).
        save_freq: Environment steps between checkpoints, over all environments, at least 1.
    """

    def __init__(self, params_path: Path, save_freq: int) -> None:
        super().__init__()
        self.params_path = params_path
        self.save_freq = save_freq
        self._saved_at: int | None = None

    def _on_rollout_start(self) -> None:
        if self._saved_at is None:
            self._saved_at = self.num_timesteps
            if not checkpoints(self.params_path.parent):  # a resumed run has one already
                save_checkpoint(self.model, self.params_path)
            return
        waited = self.num_timesteps - self._saved_at - self.save_freq
        may_wait = isinstance(self.model, OffPolicyAlgorithm) and waited < self.save_freq
        if waited >= 0 and (not may_wait or np.all(self.locals["dones"])):
            save_checkpoint(self.model, self.params_path)
            self._saved_at = self.num_timesteps

    def _on_step(self) -> bool:
        return True


def save_checkpoint(model: BaseAlgorithm, params_path: Path) -> None:
    """Save ``checkpoint-<steps>`` beside ``params_path`` and remove the one before.

    It is written under another name and renamed when whole: at every moment the newest folder of
    that name is complete.

    Raises:
        FloatingPointError: If the networks are not finite; the checkpoint before stays.
    """
    run = params_path.parent
    folder = run / f"checkpoint-{model.num_timesteps}"
    check_finite(model, run)
    unfinished = run / "checkpoint.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    for log in _logs(run):
        copy = unfinished / "logs" / log.relative_to(run)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(log, copy)
    unfinished.mkdir(parents=True, exist_ok=True)
    model.save(unfinished / "model.zip")
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        (unfinished / params_path.name).mkdir()  # where rl_zoo3 looks for it
        normalize.save(str(unfinished / params_path.name / "vecnormalize.pkl"))
    if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        _save_buffer(model.replay_buffer, unfinished / "replay_buffer.npz")
    write_json(unfinished / "logger.json", _pending(model.logger))
    write_json(unfinished / CHECKSUMS, dict(_checksums(unfinished)))
    older = checkpoints(run)
    if folder in older:  # damaged: the run went on from one before it
        discard(folder)
        older.remove(folder)
    os.rename(unfinished, folder)
    for checkpoint in older:
        discard(checkpoint)


def check_finite(model: BaseAlgorithm, run: Path) -> None:
    """Raise FloatingPointError, naming the checkpoint that stays, unless the networks are finite."""
    if not all(p.isfinite().all() for p in model.policy.parameters()):
        raise FloatingPointError(
            f"the networks are not finite at step {model.num_timesteps}: {_kept(run)}"
        )


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint: killed at any moment, none of its name is left that is not whole."""
    doomed = checkpoint.with_name("checkpoint.old")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest last."""
    return sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def newest_intact(run: Path) -> Path | None:
    """Return the newest checkpoint of a run that is as it was written, and say which are not."""
    for checkpoint in reversed(checkpoints(run)):
        damaged = damaged_file(checkpoint)
        if damaged is None:
            return checkpoint
        sys.stdout.write(f"{checkpoint} is damaged ({damaged}): looking for an older checkpoint\n")
    return None


def damaged_file(checkpoint: Path) -> str | None:
    """Return the name of a file that is not as the checkpoint was written with it, or None."""
    try:
        expected = read_json(checkpoint / CHECKSUMS)
    except (OSError, ValueError):
        return CHECKSUMS
    found = dict(_checksums(checkpoint))
    return next((name for name, value in expected.items() if found.get(name) != value), None)


def restore_logs(checkpoint: Path) -> None:
    """Put the run's logs back to what they were at the checkpoint.

    Episodes are logged on to a new file, as SB3's Monitor overwrites the one it finds; readers of
    such folders merge all ``*.monitor.csv``.
    """
    run = checkpoint.parent
    for log in _logs(run):
        log.unlink()
    steps = checkpoint.name.split("-")[1]
    for log in _logs(checkpoint / "logs"):
        target = run / log.relative_to(checkpoint / "logs")
        if log.name.removesuffix(".monitor.csv").isdigit():
            target = target.with_name(f"{steps}.{log.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(log, target)


def restore_logger(model: BaseAlgorithm, checkpoint: Path) -> None:
    """Give a model's logger the values that were still to be written at the checkpoint."""
    for name, values in read_json(checkpoint / "logger.json").items():
        getattr(model.logger, name).update(values)


def restore_buffer(model: BaseAlgorithm, checkpoint: Path) -> None:
    """Fill an off-policy model's replay buffer as it was at the checkpoint.

    The environments begin new episodes, so the last transitions are marked as cut off.
    """
    if not isinstance(model, OffPolicyAlgorithm) or model.replay_buffer is None:
        return
    buffer = model.replay_buffer
    with np.load(checkpoint / "replay_buffer.npz", allow_pickle=False) as state:
        _put_back(vars(buffer), state)
    if isinstance(buffer, HerReplayBuffer):
        buffer.truncate_last_trajectory()
    elif buffer.size() > 0 and buffer.optimize_memory_usage:
        # the first observation of the next episode will take the place of the last next one
        buffer.dones[buffer.pos - 1] = 1.0
    elif buffer.size() > 0 and hasattr(buffer, "timeouts"):  # else it keeps no episodes
        last = buffer.pos - 1
        buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], buffer.dones[last] == 0)


def _pending(logger: Logger) -> dict[str, dict[str, Any]]:
    """Return what the logger is still to write, but for figures and the like, as plain data."""
    return {
        name: {
            key: _plain(value) if isinstance(value, np.generic) else value
            for key, value in getattr(logger, name).items()
            if value is None or isinstance(value, bool | int | float | str | tuple | np.generic)
        }
        for name in PENDING
    }


def _save_buffer(buffer: ReplayBuffer, path: Path) -> None:
    """Write a replay buffer's state without its unused rows, which are most of it at first."""
    # next observations are, where memory is saved, the observations of the next row
    used = min(buffer.size() + buffer.optimize_memory_usage, buffer.buffer_size)
    np.savez(path, **_state(vars(buffer), buffer.buffer_size, used))


def _state(values: dict[str, Any], rows: int, used: int, prefix: str = "") -> dict[str, Any]:
    """Return counters and arrays by path; of arrays with a row per step, the rows used."""
    state: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict | TensorDictBase):
            state |= _state(dict(value.items()), rows, used, f"{prefix}{name}/")
        elif isinstance(value, Tensor):
            state[f"{prefix}{name}"] = value[:used].cpu().numpy()
        elif isinstance(value, np.ndarray):
            part = value[:used] if value.shape[:1] == (rows,) else value
            # HER's infos are dicts: text, for arrays of objects would be pickled
            text = json.dumps(part.tolist(), default=_plain) if part.dtype == object else None
            state[f"{prefix}{name}"] = part if text is None else np.array(text)
        elif isinstance(value, int):
            state[f"{prefix}{name}"] = value
    return state


def _plain(value: Any) -> Any:
    """Return a scalar or an array of numpy's as json can write it; TypeError for other objects."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"an info holds {value!r}: numbers, texts and arrays can be saved")


def _put_back(values: dict[str, Any], state: Mapping[str, np.ndarray]) -> None:
    """Undo :func:`_state`, in place."""
    for path, value in state.items():
        *parents, name = path.split("/")
        target = reduce(getitem, parents, values)
        if isinstance(target[name], Tensor):
            target[name][: len(value)] = torch.from_numpy(value)
        elif not isinstance(target[name], np.ndarray):
            target[name] = value.item()
        elif target[name].dtype == object:
            objects = json.loads(value.item())
            for row, entries in enumerate(objects):
                target[name][row] = entries
        else:
            target[name][: len(value)] = value


def _checksums(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield path and CRC-32 of every file of a checkpoint but that of the checksums."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != CHECKSUMS:
            checksum = 0
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    checksum = crc32(block, checksum)
            yield name, checksum


def _kept(run: Path) -> str:
    names = [checkpoint.name for checkpoint in checkpoints(run)]
    return f"{names[-1]} in {run} stays, to go on from" if names else f"{run} has no checkpoint"


def _logs(folder: Path) -> Iterator[Path]:
    for pattern in LOGS:
        yield from folder.glob(pattern)
