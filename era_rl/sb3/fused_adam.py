"""Steps of torch's fused Adam without what torch does around them in Python, which takes longer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.optim.optimizer as hooks
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

_TORCH: Any = torch
"""torch, by the names that its optimizers call."""


class _Lists(NamedTuple):
    """What a fused step of a group takes."""

    params: list[Tensor]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]
    steps: list[Tensor]


class FusedAdamSteps:
    """Calls torch's kernel for each group of a fused Adam or AdamW on the CPU, as ``step`` would.

    ``step`` itself is taken at first, where it makes the state, wherever the state is another by then,
    and for everything but such an optimizer, plain and without hooks.
    """

    def __init__(self, steps: Optimizer) -> None:
        self.optimizer: Any = steps
        kind = type(steps)
        self._kernel: Callable[..., Any] | None = {
            Adam: _TORCH._fused_adam_,
            AdamW: _TORCH._fused_adamw_,
        }.get(kind)
        self._lists: list[_Lists] = []

    @torch.no_grad()
    def __call__(self) -> None:
        """Take a step along the parameters' gradients."""
        if not self._is_bound():
            self.optimizer.step()
            self._bind()
            return
        for group, lists in zip(self.optimizer.param_groups, self._lists, strict=True):
            params, exp_avgs, exp_avg_sqs, steps = lists
            _TORCH._foreach_add_(steps, 1)
            self._kernel(  # type: ignore[misc]
                params,
                [param.grad for param in params],
                exp_avgs,
                exp_avg_sqs,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
            )

    def _is_bound(self) -> bool:
        """Return whether the lists are those that ``step`` would gather now, and make all of it."""
        state = self.optimizer.state
        return (
            bool(self._lists)
            and not _has_hooks(self.optimizer)
            and all(
                _is_plain(group)
                and lists.exp_avgs[0] is state.get(lists.params[0], {}).get("exp_avg")
                and all((param.grad is None) == (param not in state) for param in group["params"])
                for group, lists in zip(self.optimizer.param_groups, self._lists, strict=True)
            )
        )

    def _bind(self) -> None:
        self._lists = []
        state, names = self.optimizer.state, ("exp_avg", "exp_avg_sq", "step")
        if self._kernel is None or not all(map(_is_plain, self.optimizer.param_groups)):
            return
        found = []
        for group in self.optimizer.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            if {(param.device.type, param.dtype) for param in params} != {("cpu", torch.float32)}:
                return  # the kernel takes one device and dtype
            found.append(_Lists(params, *([state[p][n] for p in params] for n in names)))
        self._lists = found


def _is_plain(group: dict[str, Any]) -> bool:
    """Return whether a group's step is one call of the fused kernel, its rate a number."""
    others = ("amsgrad", "capturable", "differentiable")
    return (
        bool(group.get("fused"))
        and isinstance(group["lr"], float)
        and not any(map(group.get, others))
    )


def _has_hooks(steps: Any) -> bool:
    """Return whether something is to be called at each step, or takes its place."""
    own = steps._optimizer_step_pre_hooks, steps._optimizer_step_post_hooks
    everywhere = hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks
    return any((*own, *everywhere)) or "step" in vars(steps)
