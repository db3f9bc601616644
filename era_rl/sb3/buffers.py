"""A replay buffer whose transitions stay on one device, where updates read them without a transfer."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor


class Column(NamedTuple):
    """Where a part of a transition lies: in columns [start, stop) of the rows of its dtype."""

    dtype: torch.dtype
    start: int
    stop: int
    shape: tuple[int, ...]


class DeviceReplayBuffer(ReplayBuffer):
    """SB3's replay buffer with its storage on the device of the policy, in a TensorDict.

    ``SACERA("MlpPolicy", env, replay_buffer_class=DeviceReplayBuffer)``. A transition is one row per
    dtype, so that adding one is one transfer and a batch one gather. Batches are those that SB3's
    buffer would draw; float64 is kept as float32. For vector observations it takes
    4 (2 obs_dim + action_dim + 2) bytes a transition, for images 1 byte a value; on CUDA that is
    checked against the free memory before it is allocated. Pickles load on any device.

    Instead of SB3's arrays there is ``storage``, and a transition at a time limit is stored as one
    that does not end its episode, unless ``handle_timeout_termination=False``.

    Args:
        buffer_size: Number of transitions, over all environments.
        observation_space: Any space that SB3 takes, Dict too.
        action_space: Any space that SB3 takes.
        device: Where the storage is; a CUDA device, if it is to be of use.
        n_envs: Number of parallel environments.
        optimize_memory_usage: Must be False: a row holds the next observation too.
        handle_timeout_termination: Whether values are bootstrapped at time limits.

    Raises:
        ValueError: For ``optimize_memory_usage``, or where the storage exceeds the free memory of a
            CUDA device; the message has both sizes.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        if optimize_memory_usage:
            raise ValueError(
                "optimize_memory_usage=True must be False: a row holds the next observation too"
            )
        # ReplayBuffer's own would allocate arrays
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self.columns = _columns(
            {
                **self._obs_parts("observations"),
                **self._obs_parts("next_observations"),
                ("actions", ""): (_dtype(action_space), (self.action_dim,)),
                ("rewards", ""): (torch.float32, (1,)),
                ("dones", ""): (torch.float32, (1,)),
            }
        )
        from tensordict import TensorDict  # takes a second to load

        widths = {column.dtype: column.stop for column in self.columns.values()}
        self._refuse_too_large(sum(dtype.itemsize * width for dtype, width in widths.items()))
        rows = (self.buffer_size, n_envs)
        self.storage = TensorDict(
            {
                str(dtype): torch.zeros(*rows, width, dtype=dtype, device=self.device)
                for dtype, width in widths.items()
            },
            batch_size=rows,
        )

    @property
    def device(self) -> torch.device:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Where the storage is; setting it moves the storage."""
        return self._device

    @device.setter
    def device(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        if hasattr(self, "storage"):
            self.storage = self.storage.to(self._device)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "storage": self.storage.cpu(), "_device": torch.device("cpu")}

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a transition of each environment (SB3's)."""
        if self.handle_timeout_termination:
            done = done * np.array([not info.get("TimeLimit.truncated", False) for info in infos])
        given = {"actions": action, "rewards": reward, "dones": done}
        given.update(observations=obs, next_observations=next_obs)
        parts: dict[torch.dtype, list[np.ndarray]] = {}
        for (name, key), column in self.columns.items():
            part = given[name][key] if key else given[name]
            parts.setdefault(column.dtype, []).append(np.reshape(part, (self.n_envs, -1)))
        for dtype, columns in parts.items():
            row = torch.from_numpy(np.concatenate(columns, axis=1)).to(dtype)
            stored = self.storage.get(str(dtype))[self.pos]
            # the pinned copy is kept until the transfer is over, by torch's allocator
            stored.copy_(row.pin_memory() if stored.is_cuda else row, non_blocking=True)
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full, self.pos = True, 0

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        env_indices = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        index = torch.from_numpy(batch_inds * self.n_envs + env_indices).to(self.device)
        rows = {
            str(name): m.flatten(0, 1).index_select(0, index) for name, m in self.storage.items()
        }
        data: dict[str, Any] = {}
        for (name, key), column in self.columns.items():
            part = rows[str(column.dtype)][:, column.start : column.stop].unflatten(1, column.shape)
            if name.endswith("observations"):
                part = _normalized_obs(part, key, env)
            if key:
                data.setdefault(name, {})[key] = part
            else:
                data[name] = part
        if env is not None and env.norm_reward:
            data["rewards"] = _normalized(
                data["rewards"], 0.0, env.ret_rms.var, env, env.clip_reward
            )
        samples = (
            DictReplayBufferSamples if isinstance(self.obs_shape, dict) else ReplayBufferSamples
        )
        return samples(**data)

    def _obs_parts(self, name: str) -> dict[tuple[str, str], tuple[torch.dtype, tuple[int, ...]]]:
        """Return dtype and shape of the parts of an observation, by name and key ("" without)."""
        space = self.observation_space
        if isinstance(space, spaces.Dict):
            shapes: Any = self.obs_shape
            return {(name, key): (_dtype(part), shapes[key]) for key, part in space.spaces.items()}
        return {(name, ""): (_dtype(space), self.obs_shape)}

    def _refuse_too_large(self, transition_bytes: int) -> None:
        """Raise ValueError where the free memory of a CUDA device does not suffice."""
        if self.device.type != "cuda":
            return
        needed = self.buffer_size * self.n_envs * transition_bytes
        free, _ = torch.cuda.mem_get_info(self.device)
        if needed > free:
            raise ValueError(
                f"buffer_size={self.buffer_size * self.n_envs} must be at most "
                f"{free // transition_bytes} transitions of {transition_bytes} bytes each: they need "
                f"{needed / 2**30:.2f} GiB of the {free / 2**30:.2f} GiB free on {self.device}"
            )


def _columns(
    parts: Mapping[tuple[str, str], tuple[torch.dtype, tuple[int, ...]]],
) -> dict[tuple[str, str], Column]:
    """Lay parts of a transition out in rows, one after the other in those of their dtype."""
    columns: dict[tuple[str, str], Column] = {}
    stops: dict[torch.dtype, int] = {}
    for name, (dtype, shape) in parts.items():
        start = stops.get(dtype, 0)
        stops[dtype] = start + math.prod(shape)
        columns[name] = Column(dtype, start, stops[dtype], shape)
    return columns


def _dtype(space: spaces.Space) -> torch.dtype:
    dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
    return torch.float32 if dtype == torch.float64 else dtype


def _normalized_obs(obs: Tensor, key: str, env: VecNormalize | None) -> Tensor:
    """Return observations as VecNormalize's ``normalize_obs`` gives them."""
    if env is None or not env.norm_obs or (key and key not in (env.norm_obs_keys or ())):
        return obs
    rms: Any = env.obs_rms[key] if key else env.obs_rms  # pyright: ignore[reportIndexIssue]
    return _normalized(obs, rms.mean, rms.var, env, env.clip_obs)


def _normalized(values: Tensor, mean: Any, variance: Any, env: VecNormalize, clip: float) -> Tensor:
    """Return (values - mean) / sqrt(variance + epsilon), clipped, with VecNormalize's statistics."""
    center = torch.as_tensor(mean, dtype=torch.float32, device=values.device)
    std = np.sqrt(variance + env.epsilon)
    scaled = (values - center) / torch.as_tensor(std, dtype=torch.float32, device=values.device)
    return scaled.clamp(-clip, clip)
