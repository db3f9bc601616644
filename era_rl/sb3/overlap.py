"""Learning while environments step."""

from collections.abc import Callable
from typing import Any

from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvStepReturn


class LearnWhileStepping:
    """Within its context, runs deferred work between the start and the end of environments' steps.

    It shadows ``step_wait`` of the innermost environments: SB3 compares the wrappers of training and
    evaluation, and pickles some of them.

    Args:
        env: The environments; those of a ``SubprocVecEnv`` step in the meantime.
    """

    def __init__(self, env: VecEnv) -> None:
        self._env: Any = env.unwrapped
        self._deferred: Callable[[], None] | None = None

    def __enter__(self) -> "LearnWhileStepping":
        end_of_step = self._env.step_wait

        def step_wait() -> VecEnvStepReturn:
            self._work()
            return end_of_step()

        self._env.step_wait = step_wait
        return self

    def __exit__(self, *_: object) -> None:
        del self._env.step_wait
        self._work()

    def defer(self, work: Callable[[], None]) -> None:
        """Have work done within the next step, or at the end; what was deferred before is done now."""
        self._work()
        self._deferred = work

    def _work(self) -> None:
        if self._deferred is not None:
            work, self._deferred = self._deferred, None
            work()
