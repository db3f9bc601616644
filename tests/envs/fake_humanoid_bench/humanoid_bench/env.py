from typing import ClassVar

import gymnasium as gym
import jax.numpy as jnp
import mujoco
import numpy as np

from .dmc_deps import dmc_sizes

ROBOTS = {"h1": None, "g1": None}


class Task:
    max_episode_steps = 20
    success_bar = 700
    kwargs: ClassVar = {}

    def __init__(self):
        self.unwrapped = self


class Push(Task):
    max_episode_steps = 10
    kwargs: ClassVar = {"reach": 2.0}


TASKS = {"walk": Task, "push": Push}


class Renderer:
    def render(self, render_mode):
        assert render_mode == "rgb_array"
        return np.full((256, 256, 3), 7, np.uint8)


class HumanoidEnv(gym.Env):
    """Falls on its sixth step of an episode, for good."""

    metadata: ClassVar = {"render_modes": ["human", "rgb_array", "depth_array"], "render_fps": 50}

    def __init__(self, robot=None, control=None, task=None, render_mode="rgb_array", **kwargs):
        assert control == ("torque" if robot == "g1" else "pos")
        for name, struct in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
            for field in dmc_sizes.array_sizes[name]:
                getattr(struct, field)
        self.render_mode = render_mode  # "rgb_array" unless told otherwise: opens a window system
        self.kwargs = kwargs
        self.task = TASKS[task]()
        self.mujoco_renderer = Renderer()
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        self.goal = np.random.uniform(size=2)
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        self.goal = self.goal + np.random.uniform(size=2)
        reward = np.float64(1.0 + action.sum())
        return self._observation(), reward, np.bool_(self.steps >= 6), False, {"at": self.steps}

    def render(self):
        return self.mujoco_renderer.render(self.render_mode, None, "cam_default")

    def _observation(self):
        return np.concatenate([self.np_random.uniform(size=2), self.goal])


convert_weights = getattr(jnp, "array", None)
