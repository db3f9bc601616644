"""A synthetic task of any number of action dimensions: ``benchmarks/reach-<D>-v0``."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

DIMENSIONS = (1, 4, 16, 64)
SPEED = 0.2
"""Distance that an action of 1 moves in a step."""
WIDTH = 0.5
"""Root mean square distance at which the reward is exp(-1/2)."""
STEPS = 40


class Reach(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """Move a point in [-1, 1]^D to a target.

    x' = clip(x + 0.2 a), r = exp(-mean_i (x'_i - g_i)^2 / (2 w^2)), w = 0.5. The distance is a mean
    over dimensions, so that the best return hardly depends on D; what grows with D is the number of
    actions to find at once. Observations are (x, g - x), shape (2 D,), actions in [-1, 1]^D; x and g
    are uniform at the start.

    Args:
        action_dim: D, at least 1.
    """

    def __init__(self, action_dim: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-2.0, 2.0, (2 * action_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Draw a start and a target."""
        super().reset(seed=seed)
        shape = (2, *self.action_space.shape)  # type: ignore[misc]
        self._position, self._target = self.np_random.uniform(-1.0, 1.0, shape)
        return self._observation(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move; gymnasium counts the steps."""
        self._position = np.clip(self._position + SPEED * action, -1.0, 1.0)
        squares = np.mean((self._position - self._target) ** 2)
        return self._observation(), float(np.exp(-squares / (2 * WIDTH**2))), False, False, {}

    def _observation(self) -> NDArray[np.float32]:
        return np.concatenate([self._position, self._target - self._position]).astype(np.float32)


for _dimension in DIMENSIONS:
    gymnasium.register(
        id=f"benchmarks/reach-{_dimension}-v0",
        entry_point="benchmarks.reaching:Reach",
        max_episode_steps=STEPS,
        kwargs={"action_dim": _dimension},
    )
