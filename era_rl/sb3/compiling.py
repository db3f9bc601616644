"""What is compiled in a training, and when."""

import warnings
from typing import Any, Literal

import torch
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from torch.torch_version import TorchVersion

from era_rl.core.compiling import compiler, has_compiler
from era_rl.sb3 import payoff
from era_rl.sb3.base import ERAMixin
from era_rl.sb3.payoff import Payoff

TRACES_IMAGES = TorchVersion(torch.__version__) >= "2.15"
"""Whether policies on images compile: torch 2.11 cannot take a function of a space for constant."""


class Update:
    """What training calls at every step, for networks and optimizers as they are when made.

    Where they have changed since, another takes its place: compiled functions take what is frozen for
    constant, and captured ones read memory where it was.
    """

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self._bound_to = self._state()

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The policy's optimizers, as they are now."""
        has_critic = hasattr(self.policy, "critic")
        parts = (self.policy.critic, self.policy.actor) if has_critic else (self.policy,)
        return [part.optimizer for part in parts]

    def outdated(self) -> bool:
        """Return whether networks, optimizers or what is frozen are others by now."""
        (before, frozen), (now, frozen_now) = self._bound_to, self._state()
        return frozen != frozen_now or any(a is not b for a, b in zip(before, now, strict=False))

    def _state(self) -> tuple[list[Any], list[bool]]:
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        parameters = [parameter for group in groups for parameter in group["params"]]
        return [*groups, *parameters], [not p.requires_grad for p in parameters]

    def compile(self) -> None:
        """Have it compiled at the first calls."""
        if TRACES_IMAGES:
            # asked at every pass for what never changes, in NumPy, on which no graph can branch
            torch.compiler.assume_constant_result(is_image_space)
        self.policy.compile_passes()


class CompilingMixin(ERAMixin):
    """Compiles what a long training calls at every step, at the start of ``learn``.

    ``compile`` is True, False, or "auto" where it pays (:class:`Payoff`).
    """

    _compiled: bool | None = None
    _update: Any = None

    def __init__(self, *args: Any, compile: bool | Literal["auto"] = "auto", **kwargs: Any) -> None:
        if not (isinstance(compile, bool) or compile == "auto"):
            raise ValueError(f"compile={compile!r} must be True, False or 'auto'")
        self.compile = compile
        super().__init__(*args, **kwargs)

    def _make_update(self) -> Update:
        """Return an update of the policy as it is."""
        return Update(self.policy)

    def _bound_update(self) -> Any:
        """Return the update, made and compiled anew where what it was made for has changed."""
        if not self._is_bound():
            self._update = self._make_update()
            if self._compiled:
                self._update.compile()
        return self._update

    def _is_bound(self) -> bool:
        """Return whether there is an update, of the policy as it is."""
        update = self._update
        return update is not None and update.policy is self.policy and not update.outdated()

    def _planned_calls(self, total_timesteps: int) -> int:
        """Return how often the compiled function is called in this ``learn``, 0 where unknown."""
        raise NotImplementedError

    def _least_calls(self) -> int:
        """Return from how many calls on compiling pays, where nothing has been measured."""
        return payoff.MIN_CALLS_TO_COMPILE

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        result = super()._setup_learn(total_timesteps, *args, **kwargs)
        wanted = self.compile is True
        vars(self).pop("_payoff", None)
        if self.compile == "auto" and self._compiled is None:
            planned = self._planned_calls(total_timesteps)
            wanted, why = Payoff.pays(self._kind(), planned, self._least_calls())
            self.logger.info(f"compile='auto': {'compiled' if wanted else 'eager'}, as {why}")
        if wanted and self._compiled is None:
            self._compiled, self._update = has_compiler(), None
            if not self._compiled:
                warnings.warn(
                    f"compile={self.compile!r} needs a C++ compiler and {compiler()!r} was not found "
                    "(CXX names another): training runs eagerly",
                    stacklevel=3,
                )
        if self._compiled:
            self._bound_update()
        return result

    @property
    def payoff(self) -> Payoff:
        """The times of this training."""
        return vars(self).setdefault("_payoff", Payoff())

    def _kind(self) -> dict[str, Any]:
        """Return what the time of a call depends on."""
        env: Any = self.env.unwrapped if self.env is not None else None
        known = isinstance(env, DummyVecEnv | SubprocVecEnv)
        cuda = self.device.type == "cuda"
        return {
            "algorithm": type(self).__name__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name(self.device) if cuda else self.device.type,
            "threads": torch.get_num_threads(),
            "parameters": [list(parameter.shape) for parameter in self.policy.parameters()],
            "batch_size": getattr(self, "batch_size", None),
            "n_steps": getattr(self, "n_steps", None),
            "env": (env.get_attr("spec")[0] if known else type(env), self.n_envs),
        }

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> Any:
        """Collect experience (SB3's hook)."""
        with self.payoff.timing():
            return super().collect_rollouts(*args, **kwargs)  # type: ignore[misc]

    def learn(self, *args: Any, **kwargs: Any) -> Any:
        """Train, and note how long it took for the next decision; arguments as the host's."""
        with self.policy.watched():  # type: ignore[operator]
            result = super().learn(*args, **kwargs)
        self.payoff.note(self._kind(), bool(self._compiled))
        return result

    def __getstate__(self) -> dict[str, Any]:
        # what is compiled cannot be pickled, and a copy's would be bound to this model
        return {k: v for k, v in self.__dict__.items() if k not in _OF_THIS_PROCESS}

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_OF_THIS_PROCESS]


_OF_THIS_PROCESS = ("_compiled", "_update", "_payoff")
