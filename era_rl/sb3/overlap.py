"""Learning while environments step."""

from collections.abc import Callable

from stable_baselines3.common.vec_env.base_vec_env import (
    VecEnv,
    VecEnvObs,
    VecEnvStepReturn,
    VecEnvWrapper,
)


class LearnWhileStepping(VecEnvWrapper):
    """Runs deferred work between the start and the end of a step of the environments.

    Args:
        venv: The environments; those of a ``SubprocVecEnv`` step in the meantime.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._deferred: Callable[[], None] | None = None

    def defer(self, work: Callable[[], None]) -> None:
        """Have work done within the next step."""
        self._deferred = work

    def work(self) -> None:
        """Do what is deferred now."""
        if self._deferred is not None:
            work, self._deferred = self._deferred, None
            work()

    def step_wait(self) -> VecEnvStepReturn:
        """Do what is deferred, then return what the step gave."""
        self.work()
        return self.venv.step_wait()

    def reset(self) -> VecEnvObs:
        """Reset the environments."""
        return self.venv.reset()
