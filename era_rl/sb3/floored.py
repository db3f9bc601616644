"""What every policy of this package has beside its host's: options, a head, and what it refuses."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor, nn

from era_rl.core import PolicyOptions
from era_rl.sb3.finite import (
    kept_state,
    refuse_lost,
    refuse_lost_networks,
    refuse_lost_outputs,
    refuse_nonfinite,
)


class CompiledPassesMixin(BasePolicy):
    """Has compiled passes, which run in the modes in which training calls them."""

    _compiled: Any = None

    def _sampling(self) -> bool:
        """Return whether the modes are those in which actions are sampled for the environment."""
        return not (self.training or torch.is_grad_enabled())

    def __getstate__(self) -> dict[str, Any]:
        # what is compiled cannot be pickled, and a copy's would be bound to this policy
        return {name: value for name, value in self.__dict__.items() if name != "_compiled"}


@cache
def reads_mode(kind: type[nn.Module]) -> bool:
    """Return whether the code of a class of modules, but for torch.nn.Module's, reads ``training``."""
    own = kind.__mro__[: kind.__mro__.index(nn.Module)]
    members = (
        inspect.unwrap(each) for base in own for each in vars(base).values() if callable(each)
    )
    return any("training" in getattr(each, "__code__", _NO_CODE).co_names for each in members)


_NO_CODE = (lambda: None).__code__


class FlooredPolicyMixin(BasePolicy):
    """What every policy of this package has: options, and the head that they ask for.

    Args:
        options: What is asked of the policy, or None for the defaults.
        *args: Arguments of the host policy.
        **kwargs: Arguments of the host policy; or what a policy had before there were options.
    """

    options_class: ClassVar[type[PolicyOptions]] = PolicyOptions
    head: Any
    actor: Any
    critic: Any
    trained_for: int | None = None
    """Steps of its training, which an algorithm keeps here for messages; None for a policy alone."""
    watched_state: dict[str, Tensor] | None = None
    """Parameters and statistics by name, within :meth:`watched`."""
    _watched: list[nn.Module] | None = None

    def __init__(self, *args: Any, options: PolicyOptions | None = None, **kwargs: Any) -> None:
        if "head_kwargs" in kwargs:
            names = ("head_kwargs", "distribution", "deterministic_action")
            saved = {name: kwargs.pop(name) for name in names if name in kwargs}
            options = self.options_class.of_before(**saved)
        if not isinstance(options, PolicyOptions | None):
            raise ValueError(f"options={options!r} must be of {self.options_class.__name__}")
        self.options = options or self.options_class()
        super().__init__(*args, **kwargs)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within the block, have modes set where passes read them alone: walking all layers is slow.

        So are parameters and statistics gathered once.
        """
        parts = [self.actor, self.critic] if hasattr(self, "critic") else [self]
        modules = [module for part in parts for module in part.modules()]
        if not any(type(module).train is not nn.Module.train for module in modules):
            readers = (module for module in modules if reads_mode(type(module)))
            self._watched = list(dict.fromkeys([self, *parts, *readers]))
        self.watched_state = kept_state(self)
        try:
            yield
        finally:
            self._watched = self.watched_state = None
            self.set_training_mode(self.training)

    def set_training_mode(self, mode: bool) -> None:
        """Set train or eval mode (SB3's hook)."""
        if self._watched is None:
            super().set_training_mode(mode)
        for module in self._watched or ():
            if module.training is not mode:
                module.training = mode

    def actor_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the policy's distribution depends on."""
        raise NotImplementedError

    def raw_params(self, obs: PyTorchObs) -> Tensor:
        """Return the raw outputs, shape (batch, head.raw_dim), of observations."""
        raise NotImplementedError

    def dist_params(self, raw: Tensor, /) -> tuple[Tensor, ...]:
        """Return the distribution's parameters of raw outputs: loc and log_std, or logits."""
        return self.head.params(raw)

    def entropy(self, obs: PyTorchObs) -> Tensor:
        """Return the policy's own entropy in nats of normalised actions, shape (batch,)."""
        return self.head.entropy(self.dist_params(self.raw_params(obs)))

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """Return actions and recurrent states; arguments as SB3's.

        Raises:
            FloatingPointError: If an action, or what gives its probabilities, is not finite.
        """
        step, discrete = self.trained_for, not isinstance(self.action_space, spaces.Box)
        if discrete:  # NaN does not show in whole numbers
            refuse_nonfinite(step, observations=observation)
        try:
            actions, states = super().predict(observation, *args, **kwargs)
        except (ValueError, RuntimeError):  # torch's, of logits, do not say why
            refuse_lost(self, step, observation)
            raise
        if discrete:  # torch may not validate logits: their mode is action 0
            refuse_lost_networks(self, step)
        refuse_lost_outputs(self, step, observation, "actions", actions)
        return actions, states

    def save(self, path: str) -> None:
        """Save the policy alone (SB3's); FloatingPointError if it is not finite: the file stays."""
        refuse_lost_networks(self, self.trained_for)
        super().save(path)

    @property
    def target_entropy(self) -> float:
        """H0 in nats over all action dimensions or components, in force."""
        return self.head.target_entropy

    @property
    def entropy_may_rise(self) -> bool:
        """Whether the head can lift the entropy above the floor by more than a clamp of log_std."""
        return self.head.may_rise

    def _get_constructor_parameters(self) -> dict[str, Any]:
        # a policy saved alone trains no more, and a function cannot be pickled
        return {**super()._get_constructor_parameters(), "options": self.options.at(1.0)}
