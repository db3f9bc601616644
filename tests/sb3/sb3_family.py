"""Small models of every ERA algorithm, for the tests that hold for all of them."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_toys import TargetEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from era_rl.sb3 import (
    A2CERA,
    PPOERA,
    SACERA,
    TQCERA,
    XQCERA,
    CrossQERA,
    DiscreteSACERA,
    MaskablePPOERA,
    RecurrentPPOERA,
)
from era_rl.sb3.distributions import num_actions

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
DISCRETE = spaces.Discrete(4)
MULTI_DISCRETE = spaces.MultiDiscrete([3, 1, 4])
MULTI_BINARY = spaces.MultiBinary(3)

OFF_POLICY: dict[str, Any] = {
    "SACERA": SACERA,
    "TQCERA": TQCERA,
    "CrossQERA": CrossQERA,
    "XQCERA": XQCERA,
}
ON_POLICY: dict[str, Any] = {"PPOERA": PPOERA, "A2CERA": A2CERA}
REPLAY: dict[str, Any] = {**OFF_POLICY, "DiscreteSACERA": DiscreteSACERA}
FAMILY: dict[str, Any] = {
    **REPLAY,
    **ON_POLICY,
    "MaskablePPOERA": MaskablePPOERA,
    "RecurrentPPOERA": RecurrentPPOERA,
}

# every algorithm with every kind of action space that it takes
CASES: list[tuple[str, spaces.Space]] = [
    *((name, BOX) for name in (*OFF_POLICY, *ON_POLICY)),
    *((name, space) for name in ON_POLICY for space in (DISCRETE, MULTI_DISCRETE)),
    ("PPOERA", MULTI_BINARY),
    ("DiscreteSACERA", DISCRETE),
    *(("RecurrentPPOERA", space) for space in (BOX, DISCRETE)),
    *(("MaskablePPOERA", space) for space in (DISCRETE, MULTI_DISCRETE, MULTI_BINARY)),
]
CASE_IDS = [f"{name}-{type(space).__name__}" for name, space in CASES]


class ChoiceEnv(gym.Env):
    """Reward for each component whose action is the one the observation points at; ten steps.

    The mask of each step leaves at least one action of each component.
    """

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space
        self.nvec = num_actions(action_space)
        self.observation_space = spaces.Box(-1.0, 1.0, (len(self.nvec),), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert self.action_space.contains(action)
        wanted = np.floor((self.state + 1.0) / 2.0 * np.array(self.nvec) - 1e-6)
        reward = float(np.mean(np.atleast_1d(action) == wanted))
        self.steps += 1
        return self._draw(), reward, self.steps >= 10, False, {}

    def action_masks(self) -> np.ndarray:
        masks = []
        for n in self.nvec:
            mask = self.np_random.random(n) < 0.5
            mask[self.np_random.integers(n)] = True
            masks.append(mask)
        return np.concatenate(masks)

    def _draw(self) -> np.ndarray:
        self.state = self.np_random.uniform(-1.0, 1.0, len(self.nvec)).astype(np.float32)
        return self.state.copy()


def make_env(space: spaces.Space) -> gym.Env:
    """Return an environment of states in [-1, 1] with an action space."""
    return TargetEnv(2, horizon=10) if isinstance(space, spaces.Box) else ChoiceEnv(space)


def space_of(name: str) -> spaces.Space:
    """Return the first action space of an algorithm: a Box, where it takes one."""
    return next(space for other, space in CASES if other == name)


def small(
    name: str, env: Any = None, policy: Any = "MlpPolicy", n_envs: int = 1, **kwargs: Any
) -> BaseAlgorithm:
    """Return a small model of the algorithm; ``env`` may be an action space, the first by default."""
    policy_kwargs = {"net_arch": [16, 16], **kwargs.pop("policy_kwargs", {})}
    defaults: dict[str, Any] = {"seed": 0, "device": "cpu"}
    if name == "RecurrentPPOERA":
        policy_kwargs = {"lstm_hidden_size": 8, **policy_kwargs}
        policy = policy.replace("Policy", "LstmPolicy") if isinstance(policy, str) else policy
    if name in REPLAY:
        defaults |= {"learning_starts": 20, "batch_size": 16, "buffer_size": 400}
    elif name == "A2CERA":
        defaults |= {"n_steps": 16}
    else:
        defaults |= {"n_steps": 32, "batch_size": 16, "n_epochs": 2}
    if env is None or isinstance(env, spaces.Space):
        space = env or space_of(name)
        make: Callable[[], gym.Env] = lambda: make_env(space)  # noqa: E731
        env = make_vec_env(make, n_envs, seed=0)
    return FAMILY[name](policy, env, policy_kwargs=policy_kwargs, **{**defaults, **kwargs})


def some_states(model: BaseAlgorithm, n: int = 20) -> np.ndarray:
    """Return states of the model's observation space, drawn with a seed."""
    size = (n, *model.observation_space.shape)  # type: ignore[misc]
    return np.random.default_rng(0).uniform(-1.0, 1.0, size).astype(np.float32)


def same_parameters(first: Any, second: Any) -> bool:
    """Return whether two policies have exactly equal parameters and buffers."""
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(ours[k].equal(theirs[k]) for k in ours)
