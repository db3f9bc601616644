"""Checkpoints from which a killed run goes on: model, replay buffer, statistics and logs as one set."""

import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

# what training writes to a run's folder, and replays from the last checkpoint on
LOGS = ("*.monitor.csv", "evaluations.npz", "best_model.zip", "*/vecnormalize.pkl", "tensorboard/*")

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
            # a resumed run has its checkpoint already
            self._saved_at = self.num_timesteps
            if self.num_timesteps == 0:
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
    """
    run = params_path.parent
    folder = run / f"checkpoint-{model.num_timesteps}"
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
        _save_buffer(model.replay_buffer, unfinished / "replay_buffer.pkl")
    pending = {name: dict(getattr(model.logger, name)) for name in PENDING}
    (unfinished / "logger.pkl").write_bytes(pickle.dumps(pending))
    older = checkpoints(run)
    os.rename(unfinished, folder)
    for checkpoint in older:
        shutil.rmtree(checkpoint)


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, the newest last."""
    return sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


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
    for name, values in pickle.loads((checkpoint / "logger.pkl").read_bytes()).items():
        getattr(model.logger, name).update(values)


def restore_buffer(model: BaseAlgorithm, checkpoint: Path) -> None:
    """Fill an off-policy model's replay buffer as it was at the checkpoint.

    The environments begin new episodes, so the last transitions are marked as cut off.
    """
    if not isinstance(model, OffPolicyAlgorithm) or model.replay_buffer is None:
        return
    buffer = model.replay_buffer
    with (checkpoint / "replay_buffer.pkl").open("rb") as file:
        _put_back(vars(buffer), pickle.load(file))
    if isinstance(buffer, HerReplayBuffer):
        buffer.truncate_last_trajectory()
    elif buffer.size() > 0:
        last = buffer.pos - 1
        buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], buffer.dones[last] == 0)


def _save_buffer(buffer: ReplayBuffer, path: Path) -> None:
    """Pickle a replay buffer's state without its unused rows, which are most of it at first."""
    with path.open("wb") as file:
        state = _state(vars(buffer), buffer.buffer_size, buffer.size())
        pickle.dump(state, file, protocol=pickle.HIGHEST_PROTOCOL)


def _state(values: dict[str, Any], rows: int, used: int) -> dict[str, Any]:
    """Return counters and arrays; of arrays with a row per step, the rows used."""
    state: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            state[name] = _state(value, rows, used)
        elif isinstance(value, np.ndarray):
            state[name] = value[:used] if value.shape[:1] == (rows,) else value
        elif isinstance(value, int):
            state[name] = value
    return state


def _put_back(values: dict[str, Any], state: dict[str, Any]) -> None:
    """Undo :func:`_state`, in place."""
    for name, value in state.items():
        if isinstance(value, dict):
            _put_back(values[name], value)
        elif isinstance(value, np.ndarray):
            values[name][: len(value)] = value
        else:
            values[name] = value


def _logs(folder: Path) -> Iterator[Path]:
    for pattern in LOGS:
        yield from folder.glob(pattern)
