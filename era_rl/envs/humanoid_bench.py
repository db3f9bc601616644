"""HumanoidBench, unmodified, on current gymnasium and mujoco.

The package (github.com/carlosferrazza/humanoid-bench) pins old versions of what it runs on. What
differs since is mended from outside: :func:`load` what it imports, :class:`HumanoidBenchEnv` what
it returns.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, SupportsFloat

import gymnasium
import mujoco
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from era_rl.envs.wrappers import ActionRepeat, NoTermination

COMMIT = "791405f5eacf879adbc99105adb3fee73f5a49fc"
INSTALL = (
    "pip install --no-deps -e "
    f'"git+https://github.com/carlosferrazza/humanoid-bench@{COMMIT}#egg=humanoid_bench"'
)

METADATA = {"render_modes": ["rgb_array"], "render_fps": 50}


def make(
    robot: str,
    task: str,
    render_mode: str | None = None,
    *,
    terminate: bool = True,
    action_repeat: int = 1,
    **kwargs: Any,
) -> gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]:
    """Return a task of HumanoidBench; what ``gymnasium.make("humanoid_bench/...")`` calls.

    The paper's setting is ``terminate=False, action_repeat=2``: 500 decisions an episode. The time
    limit is inside the repeats, so it counts control steps.

    Args:
        robot: "h1", "h1hand", "h1simplehand", "h1strong", "h1touch" or "g1".
        task: The task, such as "walk".
        render_mode: None, or "rgb_array".
        terminate: Whether an episode may end before its time limit, when the robot has fallen.
        action_repeat: Control steps that each action is taken for, their rewards summed.
        **kwargs: Passed to HumanoidBench.

    Raises:
        ImportError: If the package is not installed; the message has the line that installs it.
        ValueError: For another render_mode, or an action_repeat below 1.
    """
    humanoid_bench = load()
    env: gymnasium.Env[Any, Any] = HumanoidBenchEnv(robot, task, render_mode, **kwargs)
    if not terminate:
        env = NoTermination(env)
    # The reference limits before it drops terminations, to the same effect, but not with the
    # TimeLimit that rl_zoo3 puts in the place of gymnasium's: where a fallen robot reaches the limit
    # that one marks no truncation, and the episode would never end.
    env = TimeLimit(env, humanoid_bench.env.TASKS[task].max_episode_steps)
    return ActionRepeat(env, action_repeat) if action_repeat != 1 else env


class HumanoidBenchEnv(
    gymnasium.Wrapper[NDArray[np.float32], NDArray[np.float32], Any, Any], RecordConstructorArgs
):
    """HumanoidBench's own environment with float32 observations, Python's types, and seeds.

    Some tasks draw from numpy's global generator; they get one that belongs to the environment, so
    that a seed decides the episodes, and no environment disturbs another.
    """

    def __init__(
        self, robot: str, task: str, render_mode: str | None = None, **kwargs: Any
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode={render_mode!r} must be None or "rgb_array"')
        RecordConstructorArgs.__init__(
            self, robot=robot, task=task, render_mode=render_mode, **kwargs
        )
        upstream = load().env
        super().__init__(
            upstream.HumanoidEnv(
                robot=robot,
                task=task,
                control="torque" if robot == "g1" else "pos",
                render_mode=render_mode,
                **{**upstream.TASKS[task].kwargs, **kwargs},
            )
        )
        self.metadata = METADATA
        space = self.env.observation_space
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
        self._random = np.random.RandomState().get_state()

    @property
    def success_bar(self) -> float:
        """The return from which on the benchmark counts an episode as a success."""
        return float(self.env.unwrapped.task.unwrapped.success_bar)  # type: ignore[attr-defined]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; a seed (0 to 2^32 - 1) makes it and all later ones repeatable."""
        if seed is not None:
            self._random = np.random.RandomState(seed).get_state()
        with self._own_random():
            observation, info = self.env.reset(seed=seed, options=options)
        return np.asarray(observation, np.float32), info

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Apply an action in [-1, 1] for one control step of 0.02 s."""
        with self._own_random():
            observation, reward, terminated, truncated, info = self.env.step(action)
        observation = np.asarray(observation, np.float32)
        return observation, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> Any:
        """Return the current frame (256, 256, 3), uint8, or None without a render_mode."""
        if self.render_mode is None:
            return None
        # upstream's own render() passes arguments that gymnasium no longer takes
        return self.env.unwrapped.mujoco_renderer.render("rgb_array")  # type: ignore[attr-defined]

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        everyones = np.random.get_state()
        np.random.set_state(self._random)
        try:
            yield
        finally:
            self._random = np.random.get_state()
            np.random.set_state(everyones)


# gymnasium.make reads this where it is asked for a window, and wraps one around "rgb_array"
make.metadata = METADATA  # type: ignore[attr-defined]


def load() -> ModuleType:
    """Return the package ``humanoid_bench``, mended for current mujoco.

    It imports jax only to convert weights that are not used here, and its tables of mujoco's fields
    name some that mujoco has dropped.

    Raises:
        ImportError: If it is not installed.
    """
    if importlib.util.find_spec("humanoid_bench") is None:
        raise ImportError(
            f"humanoid_bench/* needs the package humanoid_bench, which is not on the package index: "
            f"{INSTALL} (without its own pins; tested with gymnasium 1.4.0, mujoco 3.17.0 and "
            "dm_control 1.0.50)"
        )
    with _jax_stub():
        package = importlib.import_module("humanoid_bench")
        importlib.import_module("humanoid_bench.env")
    sizes = importlib.import_module("humanoid_bench.dmc_deps.dmc_sizes").array_sizes
    for name, struct in (("mjmodel", "MjModel"), ("mjdata", "MjData")):
        fields = dir(getattr(mujoco, struct))
        for field in sizes[name].keys() - fields:
            del sizes[name][field]
    return package


@contextmanager
def _jax_stub() -> Iterator[None]:
    """Let ``import jax.numpy`` pass where jax is not installed."""
    if importlib.util.find_spec("jax") is not None:
        yield
        return
    jax, jax_numpy = ModuleType("jax"), ModuleType("jax.numpy")
    jax.numpy = jax_numpy  # type: ignore[attr-defined]
    sys.modules.update({"jax": jax, "jax.numpy": jax_numpy})
    try:
        yield
    finally:
        # others look for jax too
        del sys.modules["jax"], sys.modules["jax.numpy"]
