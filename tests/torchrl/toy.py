"""A task whose episodes last two to seven steps, and so cost little."""

from typing import Any

import gymnasium
import numpy as np


class Toy(gymnasium.Env):
    """x' = 0.9 x + 0.3 a + noise, rewarded by x; seeds decide start, noise, length and how it ends."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)

    def __init__(self, discrete: bool = False) -> None:
        continuous = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2) if discrete else continuous

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.step_number, self.length = 0, int(self.np_random.integers(2, 8))
        self.x = self.np_random.uniform(-1.0, 1.0)
        return self._observation(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        self.x = 0.9 * self.x + 0.3 * float(np.sum(action)) + 0.1 * self.np_random.normal()
        ended = self.step_number == self.length
        truncated = ended and self.length % 2 == 1
        return self._observation(), self.x, ended and not truncated, truncated, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.x, self.step_number, 1.0], np.float32)


gymnasium.register("Toy-v0", Toy)
