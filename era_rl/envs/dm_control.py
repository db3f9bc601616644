"""The DeepMind Control Suite as gymnasium environments."""

import difflib
import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import EzPickle
from numpy.typing import NDArray

try:
    from dm_control import mujoco, suite
except ModuleNotFoundError as error:
    raise ImportError(
        "dm_control/* needs the package dm_control, of the extra bench: pip install -e '.[bench]'"
    ) from error


class DMControlEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]], EzPickle):
    """A task of the control suite with vectors in and out.

    Observations are dm_control's arrays flattened and joined in the order in which it emits
    them, float32, shape ``(observation_dim,)``. Actions in [-1, 1], shape ``(action_dim,)``, are
    scaled to the actuators' ranges; an actuator without a range takes them as they are.
    ``truncated`` marks the time limit and ``terminated`` only dm_control's own terminations
    (discount 0), so bootstrapping from the last observation is right in both cases.

    ``reset(seed=n)`` starts the episode that a fresh ``suite.load(...,
    task_kwargs={"random": n})`` starts (except lqr, which draws its dynamics from ``random`` when
    it is loaded). ``quadruped-escape`` needs an OpenGL backend even when nothing is rendered.

    Args:
        domain: The suite's domain, such as "dog".
        task: The domain's task, such as "trot".
        render_mode: None, or "rgb_array" for frames of shape (height, width, 3), uint8.
        time_limit: Seconds of simulated time an episode lasts; None for dm_control's own
            limit. The registered ids leave the limit to gymnasium's ``max_episode_steps``.
        task_kwargs: Passed to ``suite.load``.
        environment_kwargs: Passed to ``suite.load``.
        render_kwargs: Passed to ``physics.render``: width (320), height (240), camera_id (0,
            which follows the body where the suite has such a camera).

    Raises:
        ValueError: if the suite has no such task (the message lists close ones), or for
            another render_mode.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's type)

    def __init__(
        self,
        domain: str,
        task: str,
        render_mode: str | None = None,
        *,
        time_limit: float | None = None,
        task_kwargs: dict[str, Any] | None = None,
        environment_kwargs: dict[str, Any] | None = None,
        render_kwargs: dict[str, Any] | None = None,
    ) -> None:
        EzPickle.__init__(
            self,
            domain,
            task,
            render_mode,
            time_limit=time_limit,
            task_kwargs=task_kwargs,
            environment_kwargs=environment_kwargs,
            render_kwargs=render_kwargs,
        )
        if (domain, task) not in suite.ALL_TASKS:
            raise ValueError(_unknown_task(domain, task))
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode={render_mode!r} must be None or "rgb_array"')
        limit = {} if time_limit is None else {"time_limit": time_limit}
        self.dm_env = suite.load(domain, task, {**limit, **(task_kwargs or {})}, environment_kwargs)
        self.render_mode = render_mode
        self.render_kwargs = {"camera_id": 0, **(render_kwargs or {})}
        fps = 1 / self.dm_env.control_timestep()
        self.metadata = {**self.metadata, "render_fps": fps}

        sizes = [math.prod(spec.shape) for spec in self.dm_env.observation_spec().values()]
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (sum(sizes),), np.float32)
        self._middle, self._half_range = _action_range(self.dm_env.physics)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, self._middle.shape, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; a seed (0 to 2^32 - 1) makes it and all later ones repeatable."""
        super().reset(seed=seed)
        if seed is not None:
            self.dm_env.task.random.seed(seed)
        return _flatten(self.dm_env.reset().observation), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Apply an action in [-1, 1] for one control step.

        Raises:
            gymnasium.error.ResetNeeded: before the first reset and after an episode's end.
        """
        timestep = self.dm_env.step(self._middle + self._half_range * action)
        if timestep.first():  # dm_control has dropped the action and begun another episode
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        terminated = timestep.last() and timestep.discount == 0.0
        truncated = timestep.last() and not terminated
        observation = _flatten(timestep.observation)
        return observation, float(timestep.reward), terminated, truncated, {}

    def render(self) -> NDArray[np.uint8] | None:
        """The current frame, or None without a render_mode."""
        if self.render_mode is None:
            return None
        return self.dm_env.physics.render(**self.render_kwargs)

    def close(self) -> None:
        """Free the simulation and its rendering contexts; the environment ends here."""
        self.dm_env.physics.free()


def _flatten(observation: dict[str, Any]) -> NDArray[np.float32]:
    """Join arrays of any shape, scalars included, in the dictionary's own order."""
    return np.concatenate(list(observation.values()), axis=None, dtype=np.float32)


def _action_range(physics: mujoco.Physics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle and half-width of each actuator's range; 0 and 1 for an actuator without one."""
    limited = physics.model.actuator_ctrllimited.astype(bool)
    low, high = np.where(limited, physics.model.actuator_ctrlrange.T, [[-1.0], [1.0]])
    return (low + high) / 2, (high - low) / 2


def _unknown_task(domain: str, task: str) -> str:
    names = [f"{domain}-{task}" for domain, task in suite.ALL_TASKS]
    close = difflib.get_close_matches(f"{domain}-{task}", names, n=5, cutoff=0.5)
    hint = f"close: {', '.join(close)}" if close else f"domains: {', '.join(suite.TASKS_BY_DOMAIN)}"
    return f"domain={domain!r}, task={task!r} must be a task of dm_control's suite; {hint}"
