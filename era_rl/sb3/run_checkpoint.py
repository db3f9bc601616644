"""Checkpoints from which a killed run goes on: model, replay buffer, statistics and logs as one set."""

import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import Tensor

from era_rl.runs.folder import checkpoints, new_checkpoint, read_json, step_of, write_json
from era_rl.runs.settings import SettingsError

BEST = "best"
"""In the folder of settings: what the best model was normalised by, beside what the last one was."""

ENTROPY = "entropy.csv"
"""In a run's folder: the figures of its EntropyMonitor."""

# what training writes to a run's folder, and replays from the last checkpoint on
LOGS = (
    *("*.monitor.csv", "evaluations.npz", "tensorboard/*", ENTROPY),
    *("best_model.zip", f"*/{BEST}/vecnormalize.pkl"),
)

# what SB3's logger has been given since it last wrote
PENDING = ("name_to_value", "name_to_count", "name_to_excluded")

# in a buffer's file: what is no array, as JSON
PLAIN = "plain"

# what a buffer's constructor sets from its arguments, and nothing changes
CONSTRUCTED = (spaces.Space, VecEnv, Enum, torch.device, torch.dtype, np.dtype, type)


class CheckpointCallback(BaseCallback):
    """Saves checkpoints into a run's folder, between two rollouts.

    There every step taken has been trained on and logged. With off-policy algorithms it waits for
    a moment at which all environments have just ended an episode, up to another ``save_freq``
    steps, so that no episode is cut in two.

    Args:
        params_path: The folder of settings in the run's folder.
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
    """Save ``checkpoint-<steps>`` beside ``params_path``, in the place of those before.

    Raises:
        FloatingPointError: If the networks are not finite; the checkpoint before stays.
        SettingsError: If the replay buffer holds what cannot be saved as data, by name.
    """
    run = params_path.parent
    check_finite(model, run)
    with new_checkpoint(run, model.num_timesteps) as folder:
        _copy_logs(run, folder / "logs")
        model.save(folder / "model.zip")
        save_statistics(model, folder / params_path.name)
        if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
            _save_buffer(model.replay_buffer, folder / "replay_buffer.npz")
        write_json(folder / "logger.json", _pending(model.logger))


def save_statistics(model: BaseAlgorithm, folder: Path) -> None:
    """Save what a model's observations are normalised by, if they are."""
    normalize = model.get_vec_normalize_env()
    if normalize is not None:
        folder.mkdir(parents=True, exist_ok=True)
        normalize.save(str(folder / "vecnormalize.pkl"))


def check_finite(model: BaseAlgorithm, run: Path) -> None:
    """Raise FloatingPointError, naming the checkpoint that stays, unless the networks are finite."""
    if all(p.isfinite().all() for p in model.policy.parameters()):
        return
    names = [checkpoint.name for checkpoint in checkpoints(run)]
    kept = f"{names[-1]} in {run} stays, to go on from" if names else f"{run} has no checkpoint"
    raise FloatingPointError(f"the networks are not finite at step {model.num_timesteps}: {kept}")


def restore_logs(checkpoint: Path) -> None:
    """Put the run's logs back to what they were at the checkpoint."""
    run = checkpoint.parent
    for log in _logs(run):
        log.unlink()
    _copy_logs(checkpoint / "logs", run)
    set_aside_episodes(run, step_of(checkpoint))


def set_aside_episodes(run: Path, step: int) -> None:
    """Have episodes logged on to a new file, as SB3's Monitor overwrites the one it finds.

    Readers of such folders merge all ``*.monitor.csv``.
    """
    for log in list(run.glob("*.monitor.csv")):
        if log.name.removesuffix(".monitor.csv").isdigit():
            log.rename(log.with_name(f"{step}.{log.name}"))


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
    _put_back(vars(buffer), _saved_state(checkpoint / "replay_buffer.npz"))
    if isinstance(buffer, HerReplayBuffer):
        buffer.truncate_last_trajectory()
    elif buffer.size() > 0 and buffer.optimize_memory_usage:
        # the first observation of the next episode will take the place of the last next one
        buffer.dones[buffer.pos - 1] = 1.0
    elif buffer.size() > 0 and hasattr(buffer, "timeouts"):  # else it keeps no episodes
        last = buffer.pos - 1
        buffer.timeouts[last] = np.logical_or(buffer.timeouts[last], buffer.dones[last] == 0)


def refill_buffer(model: BaseAlgorithm, most: int) -> None:
    """Collect ``learning_starts`` steps, at most ``most``, by the policy's own actions.

    A run that has ended keeps no replay buffer: one that goes on would train on its first few steps.
    """
    if isinstance(model, OffPolicyAlgorithm):
        _, callback = model._setup_learn(0, None, reset_num_timesteps=False)
        steps = min(max(model.learning_starts, model.batch_size), most) // model.n_envs
        every = TrainFreq(max(steps, 1), TrainFrequencyUnit.STEP)
        assert model.env is not None
        assert model.replay_buffer is not None
        model.collect_rollouts(model.env, callback, every, model.replay_buffer, learning_starts=0)


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
    state = dict(_state(vars(buffer), buffer.buffer_size, used))
    plain = {name: value for name, value in state.items() if not isinstance(value, np.ndarray)}
    arrays: dict[str, Any] = {name: value for name, value in state.items() if name not in plain}
    arrays[PLAIN] = json.dumps(plain)
    np.savez(path, **arrays)


def _state(
    values: Mapping[Any, Any], rows: int, used: int, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield state by path: arrays, of those with a row a step the rows used, and else plain data.

    Raises:
        SettingsError: For state that is neither, which a resumed run would lack.
    """
    for name, value in values.items():
        path = f"{prefix}{name}"
        if _is_constructed(value):
            continue
        if not isinstance(name, str) or "/" in path.removeprefix(prefix):
            _refuse(path, f"its name is {name!r}")
        if isinstance(value, Mapping):  # which a TensorDict is too
            yield from _state(dict(value.items()), rows, used, f"{path}/")
        elif isinstance(value, Tensor | np.ndarray):
            part = value[:used] if tuple(value.shape[:1]) == (rows,) else value
            part = part.cpu().numpy() if isinstance(part, Tensor) else part
            # HER's infos are dicts: arrays of objects would be pickled
            yield path, _data(path, part.tolist()) if part.dtype == object else part
        else:
            yield path, _data(path, list(value) if isinstance(value, deque) else value)


def _is_constructed(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else [value]
    return any(isinstance(part, CONSTRUCTED) for part in parts)


def _data(path: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, default=_plain))
    except TypeError as error:
        _refuse(path, str(error))


def _refuse(path: str, why: str) -> NoReturn:
    raise SettingsError(
        f"{path} of the replay buffer cannot be saved, and a resumed run would lack it ({why}): "
        "numbers, texts, lists, dicts by name, arrays and tensors can"
    )


def _plain(value: Any) -> Any:
    """Return a scalar or an array of numpy's as json can write it; TypeError for other objects."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"it holds {value!r:.80}")


def _saved_state(path: Path) -> dict[str, Any]:
    """Return the state that :func:`_save_buffer` wrote; earlier versions wrote each number apart."""
    with np.load(path, allow_pickle=False) as file:
        state = {name: value if value.ndim else value.item() for name, value in file.items()}
    texts = {name: json.loads(value) for name, value in state.items() if isinstance(value, str)}
    plain = texts.pop(PLAIN, {})
    state.pop(PLAIN, None)
    return {**state, **texts, **plain}


def _put_back(values: dict[str, Any], state: Mapping[str, Any]) -> None:
    """Undo :func:`_state`, in place."""
    for path, new in state.items():
        *parents, name = path.split("/")
        target = reduce(lambda holder, key: holder.setdefault(key, {}), parents, values)
        old = target.get(name)
        if isinstance(old, np.ndarray) and old.dtype == object:
            for row, entries in enumerate(new):
                old[row] = entries
        elif isinstance(old, Tensor | np.ndarray):
            part = old[: len(new)] if old.ndim else old
            part[...] = torch.as_tensor(new) if isinstance(part, Tensor) else new
        elif isinstance(old, deque):
            old.extend(new)
        elif not _is_constructed(old):
            target[name] = tuple(new) if isinstance(old, tuple) else new


def _logs(folder: Path) -> Iterator[Path]:
    for pattern in LOGS:
        yield from folder.glob(pattern)


def _copy_logs(source: Path, target: Path) -> None:
    for log in _logs(source):
        copy = target / log.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(log, copy)
