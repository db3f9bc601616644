"""A floored policy is one object: raw network outputs in, a distribution with an entropy floor out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

if TYPE_CHECKING:
    from tensordict import NestedKey
    from tensordict.nn import TensorDictModule

DeterministicAction = Literal["mode", "mean"]
Params: TypeAlias = tuple[Tensor, ...]
"""The parameters of a distribution: (loc, log_std), or (logits,)."""


class Setting:
    """A number of a head that may change while it is in use: ``head.target_entropy = -3.0``.

    It lives in a buffer of the head, ``_target_entropy``, which compiled code and CUDA graphs read at
    every call, and which is saved and loaded with the head (a file without it leaves it as it is).
    Setting it checks it with the head's others, as their constructor does, and raises ValueError;
    reading it reads the device.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, head: "Head | None", owner: type | None = None) -> Any:
        return self if head is None else head.get_buffer(f"_{self.name}").item()

    def __set__(self, head: "Head", value: float) -> None:
        number = as_number(self.name, value)
        head.check(**{**head.settings(), self.name: number})
        with torch.no_grad():  # training may be following its slope
            head.get_buffer(f"_{self.name}").fill_(number)


class Head(nn.Module):
    """A policy with an entropy floor, between a network's raw outputs and its actions.

    ``params`` makes raw outputs (..., raw_dim) the parameters of a distribution, of which samples,
    densities and entropies are functions, for any leading dimensions (...), without random state or
    parameters of its own. SB3's and TorchRL's policies are wiring over it.
    """

    default_in_keys: ClassVar[tuple[str, ...]]
    default_out_keys: ClassVar[tuple[str, ...]]
    raw_dim: int
    """Number of raw outputs that the head consumes."""
    may_rise: bool
    """Whether the entropy can be above the floor by more than what a clamp of log_std adds."""
    holds_own_entropy = True
    """Whether the floor is the policy's own entropy's, not that of a normal it is made from."""
    target_entropy = Setting()
    """H0 in nats, summed over dimensions or components; may be set while training."""
    _target_entropy: Tensor

    shown: ClassVar[tuple[str, ...]]
    """What is printed of a head beside its settings."""

    def extra_repr(self) -> str:
        """Return what the head is for and its settings, for ``print(policy)``."""
        shown = {name: getattr(self, name) for name in self.shown} | self.settings()
        return ", ".join(f"{name}={value}" for name, value in shown.items())

    def params(self, raw: Tensor) -> Params:
        """Return the distribution's parameters, of raw outputs (..., raw_dim)."""
        raise NotImplementedError

    def distribution(self, params: Params) -> Distribution:
        """Return it as one of torch.distributions, each dimension or component by itself."""
        raise NotImplementedError

    def draw_noise(self, like: Tensor) -> Tensor:
        """Return the noise of a sample, of the shape of ``like``, a batch of actions: uniform."""
        return torch.rand_like(like)

    def sample(self, params: Params, noise: Tensor, shared: Any = None) -> Tensor:
        """Return the actions that the noise gives."""
        raise NotImplementedError

    def shared(self, params: Params) -> Any:
        """Return what samples, density and entropy have in common, for who asks for several."""

    def log_prob(self, params: Params, action: Tensor, shared: Any = None) -> Tensor:
        """Return ln p(action), shape (...), summed over dimensions or components."""
        raise NotImplementedError

    def entropies(self, params: Params, shared: Any = None) -> Tensor:
        """Return the own entropy in nats of each dimension or component, shape (..., D)."""
        raise NotImplementedError

    def entropy(self, params: Params, shared: Any = None) -> Tensor:
        """Return the distribution's own entropy in nats, shape (...): the sum of :meth:`entropies`."""
        return self.entropies(params, shared).sum(-1)

    def mode(self, params: Params) -> Tensor:
        """Return the most likely actions."""
        raise NotImplementedError

    def mean(self, params: Params) -> Tensor:
        """Return the mean actions; ValueError for a distribution whose mean is not had."""
        raise ValueError(f"{type(self).__name__} has no mean: its deterministic action is the mode")

    def deterministic(self, raw: Tensor, action: DeterministicAction = "mode") -> Tensor:
        """Return the mode or the mean of raw outputs (..., raw_dim), the mode without inversions."""
        return self.mean(self.params(raw)) if action == "mean" else self.mode(self._location(raw))

    def _location(self, raw: Tensor) -> Params:
        """Return the parameters on which the mode depends, the first ones, of raw outputs."""
        return (raw,)

    def check(self, **settings: float) -> None:
        """Raise ValueError unless the head can hold its settings, given by name."""
        raise NotImplementedError

    def settings(self) -> dict[str, float]:
        """Return the settings by name, as :meth:`check` takes them."""
        return {name: getattr(self, name) for name in self._setting_names()}

    @contextmanager
    def holding(self, target_entropy: Tensor) -> Iterator[None]:
        """Hold floors of before, one for each row of a batch, (batch,), within the block."""
        kept = self._target_entropy
        self._target_entropy = target_entropy.unsqueeze(-1)
        try:
            yield
        finally:
            self._target_entropy = kept

    @classmethod
    def _setting_names(cls) -> list[str]:
        return [name for name in dir(cls) if isinstance(getattr(cls, name, None), Setting)]

    def _set_up(self, **settings: float) -> None:
        """Check the settings and register their buffers, in float64: a floor is never rounded."""
        numbers = {name: as_number(name, value) for name, value in settings.items()}
        self.check(**numbers)
        for name, value in numbers.items():
            self.register_buffer(f"_{name}", torch.tensor(value, dtype=torch.float64))

    def as_tensordict_module(
        self,
        in_keys: "Sequence[NestedKey] | None" = None,
        out_keys: "Sequence[NestedKey] | None" = None,
    ) -> "TensorDictModule":
        """Return the head as a TensorDict module, by default raw -> loc, scale or logits -> logits."""
        from tensordict.nn import TensorDictModule  # loaded where it is used: torch is enough else

        return TensorDictModule(
            self,
            in_keys=list(in_keys or self.default_in_keys),
            out_keys=list(out_keys or self.default_out_keys),
        )

    def __prepare_scriptable__(self) -> Any:
        """Refuse ``torch.jit.script`` (its hook), which cannot compile what a head does."""
        raise ValueError(
            f"{type(self).__name__} cannot be compiled by torch.jit.script: take torch.jit.trace or "
            "torch.export"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def keep(tensor: Tensor) -> Tensor:
            if tensor.dtype != torch.float64:
                return fn(tensor)
            device = fn(torch.empty(0, device=tensor.device)).device
            if device.type == "mps":  # which has no float64
                return tensor.to(device, torch.float32)
            moved = fn(tensor)
            # half precision would move the floor
            return moved if moved.dtype == tensor.dtype else tensor.to(device)

        return super()._apply(keep, recurse)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in self._setting_names():
            # in a file of before they were saved: they stay as constructed
            state_dict.setdefault(f"{prefix}_{name}", self.get_buffer(f"_{name}"))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def as_number(name: str, value: Any, allowed: str = "a number") -> float:
    """Return an argument as a float; ValueError unless it is a number."""
    try:
        if isinstance(value, str | bool):  # of which float takes some
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name}={value!r} must be {allowed}") from None


def resolve_target_entropy(target_entropy: float | Literal["auto"], auto: float) -> float:
    """Return ``auto`` for "auto", or the number given; ValueError for anything else."""
    if isinstance(target_entropy, str) and target_entropy == "auto":
        return auto
    return as_number("target_entropy", target_entropy, "a number of nats or 'auto'")
