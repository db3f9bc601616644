"""Steps of torch's optimizers without what torch does around them in Python, which takes longer."""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
import torch.optim.optimizer as hooks
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer, RMSprop

from era_rl.core.compiling import compiled
from era_rl.networks.batch_norm import UnitRowAdam

_TORCH: Any = torch
"""torch, by the names that its optimizers call."""
_ONE = torch.ones((), dtype=torch.float32, device="cpu")
"""What counts steps: a number would be made a tensor for each of them, which takes longer."""


class _Lists(NamedTuple):
    """What a step of a group takes: its parameters, and of each the number of steps and the rest."""

    params: list[Tensor]
    steps: list[Tensor]
    state: list[list[Tensor]]
    moves: list[bool]
    """Which of the group's parameters have a gradient."""


class DirectSteps:
    """Steps each group of an optimizer of float32 on the CPU by one call, as its ``step`` would.

    ``step`` itself is taken at first, where it makes the state, wherever the state is another by then,
    and for everything but an optimizer that the call is of, plain and without hooks.
    """

    kinds: ClassVar[tuple[type[Optimizer], ...]]
    state_names: ClassVar[tuple[str, ...]]

    def __init__(self, steps: Optimizer) -> None:
        self.optimizer: Any = steps
        self._lists: list[_Lists] = []

    def _is_plain(self, group: dict[str, Any]) -> bool:
        """Return whether a group's step is the call's."""
        raise NotImplementedError

    def _call(self, group: dict[str, Any], lists: _Lists, gradients: list[Tensor | None]) -> None:
        """Take a group's step."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self) -> None:
        """Take a step along the parameters' gradients."""
        if not self._is_bound():
            self.optimizer.step()
            self._bind()
            return
        for group, lists in zip(self.optimizer.param_groups, self._lists, strict=True):
            _TORCH._foreach_add_(lists.steps, _ONE, alpha=1.0)
            self._call(group, lists, [param.grad for param in lists.params])

    def _is_bound(self) -> bool:
        """Return whether the lists are those that ``step`` would gather now, and make all of it."""
        state, last = self.optimizer.state, self.state_names[-1]
        return (
            bool(self._lists)
            and len(state) == sum(len(lists.params) for lists in self._lists)
            and not _has_hooks(self.optimizer)
            and all(
                self._is_plain(group)
                and lists.state[-1][0] is state.get(lists.params[0], {}).get(last)
                and lists.moves == _moves(group)
                for group, lists in zip(self.optimizer.param_groups, self._lists, strict=True)
            )
        )

    def _bind(self) -> None:
        self._lists = []
        steps = self.optimizer
        if type(steps) not in self.kinds or not all(map(self._is_plain, steps.param_groups)):
            return
        found = []
        for group in steps.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if {(param.device.type, param.dtype) for param in params} != {("cpu", torch.float32)}:
                return  # the call takes one device and dtype
            step, *state = (
                [steps.state[param][name] for param in params]
                for name in ("step", *self.state_names)
            )
            found.append(_Lists(params, step, state, _moves(group)))
        self._lists = found


class FusedAdamSteps(DirectSteps):
    """Steps of a fused Adam or AdamW, by torch's kernel, and of :class:`UnitRowAdam`."""

    kinds = (Adam, AdamW, UnitRowAdam)
    state_names = ("exp_avg", "exp_avg_sq")

    def _is_plain(self, group: dict[str, Any]) -> bool:
        return bool(group.get("fused")) and _has_no(group, "amsgrad", "differentiable")

    def _call(self, group: dict[str, Any], lists: _Lists, gradients: list[Tensor | None]) -> None:
        decoupled = group["decoupled_weight_decay"]
        kernel = _TORCH._fused_adamw_ if decoupled else _TORCH._fused_adam_
        kernel(
            lists.params,
            gradients,
            *lists.state,
            [],
            lists.steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )
        if isinstance(self.optimizer, UnitRowAdam):
            self.optimizer.project(group)


class CompiledRMSpropSteps(DirectSteps):
    """Steps of RMSprop under torch.compile: one pass over the parameters where torch takes five."""

    kinds = (RMSprop,)
    state_names = ("square_avg",)

    _passes: Callable[..., Any]

    def _bind(self) -> None:
        super()._bind()
        # anew, as a compiled function takes the number of its parameters for constant
        self._passes = compiled(_rmsprop, "RMSprop's step", _rmsprop)

    def _is_plain(self, group: dict[str, Any]) -> bool:
        return _has_no(group, "momentum", "centered", "weight_decay", "maximize", "differentiable")

    def _call(self, group: dict[str, Any], lists: _Lists, gradients: list[Tensor | None]) -> None:
        numbers = [group[name] for name in ("lr", "alpha", "eps")]
        numbers = torch.tensor(numbers, dtype=torch.float64, device="cpu")
        self._passes(numbers, lists.params, gradients, *lists.state)


def _rmsprop(
    numbers: Tensor, params: list[Tensor], gradients: list[Tensor], squares: list[Tensor]
) -> None:
    """Set v = alpha v + (1 - alpha) g^2 and theta = theta - lr g / (sqrt v + eps), as torch does."""
    lr, alpha, eps = numbers.unbind()
    for param, gradient, square in zip(params, gradients, squares, strict=True):
        square.mul_(alpha).add_((1.0 - alpha) * gradient * gradient)
        param.sub_(lr * (gradient / (square.sqrt() + eps)))


def _moves(group: dict[str, Any]) -> list[bool]:
    return [param.grad is not None for param in group["params"]]


def _has_no(group: dict[str, Any], *names: str) -> bool:
    """Return whether a group has none of these options, is not captured, and its rate is a number."""
    return isinstance(group["lr"], float) and not any(map(group.get, (*names, "capturable")))


def _has_hooks(steps: Any) -> bool:
    """Return whether something is to be called at each step, or takes its place."""
    own = steps._optimizer_step_pre_hooks, steps._optimizer_step_post_hooks
    everywhere = hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks
    return any((*own, *everywhere)) or "step" in vars(steps)
