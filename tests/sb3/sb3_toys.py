"""Small environments and models on which the tests of era_rl.sb3 train."""

import copy
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from era_rl.sb3 import SACERA


class TargetEnv(gym.Env):
    """Reward -|a - t(s)|^2 / D, with a the action normalised to [-1, 1] and t(s) = 0.8 s.

    States are uniform on [-1, 1]^D and independent of the actions, so that each step is a problem of
    its own and the best policy under an entropy floor can be computed.
    """

    def __init__(
        self,
        action_dim: int = 2,
        horizon: int = 1,
        bounds: tuple[float, float] = (-1.0, 1.0),
        dtype: type = np.float32,
    ) -> None:
        self.horizon = horizon
        self.observation_space = spaces.Box(-1.0, 1.0, (action_dim,), dtype=dtype)
        self.action_space = spaces.Box(*bounds, (action_dim,), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        error = 2.0 * (action - low) / (high - low) - 1.0 - 0.8 * self.state
        self.steps += 1
        return self._draw(), -float(np.mean(error**2)), self.steps >= self.horizon, False, {}

    def _draw(self) -> np.ndarray:
        shape, dtype = self.observation_space.shape, self.observation_space.dtype
        self.state = self.np_random.uniform(-1.0, 1.0, shape).astype(dtype)
        return self.state.copy()


class NormalisedExtractor(BaseFeaturesExtractor):
    """A features extractor with batch normalisation and dropout."""

    def __init__(self, observation_space: spaces.Box, dropout: float = 0.0) -> None:
        dim = int(np.prod(observation_space.shape))
        super().__init__(observation_space, 8)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(dim, 8), nn.BatchNorm1d(8), nn.Dropout(dropout)
        )

    def forward(self, observations: Tensor) -> Tensor:
        return self.layers(observations)


class DoubleExtractor(BaseFeaturesExtractor):
    """A linear features extractor in float64, which takes the networks after it to float64."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 8)
        self.layer = nn.Linear(int(np.prod(observation_space.shape)), 8)

    def forward(self, observations: Tensor) -> Tensor:
        return self.layer(observations.double())


def schedule(progress: float) -> float:
    """Return a learning rate that falls to 0 with the remaining progress."""
    return 1e-3 * progress


def small_sacera(env: Any = None, policy: Any = "MlpPolicy", **kwargs: Any) -> SACERA:
    """Return a SACERA with small networks that starts to learn after 20 steps."""
    policy_kwargs = {"net_arch": [16, 16], **kwargs.pop("policy_kwargs", {})}
    defaults = {
        "learning_starts": 20,
        "batch_size": 16,
        "buffer_size": 600,
        "learning_rate": 1e-3,
        "seed": 0,
        "device": "cpu",
    }
    env = TargetEnv(horizon=10) if env is None else env
    return SACERA(policy, env, policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


def trained(model: SACERA, steps: int = 40, **kwargs: Any) -> SACERA:
    """Train, check that all three networks moved and stayed finite, and return the model."""
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(steps, **kwargs)
    after = model.policy.state_dict()
    for network in ("actor.", "critic.", "critic_target."):
        names = [name for name in after if name.startswith(network)]
        assert any(not torch.equal(before[name], after[name]) for name in names), network
    assert all(p.isfinite().all() for p in model.policy.parameters())  # a floor may be -inf
    assert not model.critic_target.training
    return model


@contextmanager
def logging_to(path: Path, model: SACERA, *formats: str) -> Iterator[None]:
    """Log to ``path`` as CSV, and in other formats, within the block."""
    logger = configure(str(path), ["csv", *formats])
    model.set_logger(logger)
    try:
        yield
    finally:
        logger.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with a header."""
    with path.open() as file:
        return list(csv.DictReader(file))


def states(model: SACERA, n: int, seed: int = 0) -> Tensor:
    """Return ``n`` states of the model's observation space as a tensor."""
    space = copy.deepcopy(model.observation_space)
    space.seed(seed)
    return model.policy.obs_to_tensor(np.stack([space.sample() for _ in range(n)]))[0]
