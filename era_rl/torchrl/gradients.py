"""The gradients of losses by parameter sets, eager or compiled in one graph."""

from collections.abc import Callable
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from era_rl.core.compiling import compiled, gradients_by_transform, set_gradients

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What torch's batch normalisation moves in a pass."""

Metrics = dict[str, Tensor]


class Gradients:
    """Sets the gradients of the sum of losses, and returns the losses and what stands beside them.

    Args:
        losses: Metrics of the parameter sets and a batch, their ``loss_*`` to be minimised.
        params: The parameter sets; what of them requires gradients is trained.
    """

    def __init__(
        self, losses: Callable[[TensorDictBase, Any], Metrics], params: TensorDictBase
    ) -> None:
        self.losses, self.params = losses, params
        named: dict[str, Tensor] = dict(params.flatten_keys(".").items())
        self.trained = {name: value for name, value in named.items() if value.requires_grad}
        self.statistics = {n: v for n, v in named.items() if n.split(".")[-1] in _STATISTICS}
        self._gradients: Callable[..., Any] = self._by_autograd

    def compile(self, what: str) -> None:
        """Compile it at the first call; it goes on eagerly, with a warning, where that fails."""
        self._gradients = torch.no_grad()(compiled(self._by_transform, what, self._by_autograd))

    def __call__(self, batch: TensorDictBase) -> Metrics:
        """Set the gradients, move running statistics, and return the metrics, detached."""
        gradients, metrics, statistics = self._gradients(batch)
        set_gradients(self.trained.values(), gradients)
        for statistic, value in zip(self.statistics.values(), statistics, strict=False):
            statistic.copy_(value)
        return metrics

    def _by_autograd(self, batch: TensorDictBase) -> tuple[Any, Metrics, Any]:
        """Return gradients and metrics; running statistics move in place."""
        with torch.enable_grad():
            metrics = self.losses(self.params, batch)
            gradients = torch.autograd.grad(_total(metrics), list(self.trained.values()))
        return gradients, {name: value.detach() for name, value in metrics.items()}, ()

    def _by_transform(self, batch: TensorDictBase) -> tuple[Any, Metrics, Any]:
        """Return gradients, metrics and moved statistics."""

        def of(values: dict[str, Tensor]) -> tuple[Tensor, Any]:
            params = self.params.copy()
            for name, value in values.items():
                params[tuple(name.split("."))] = value
            metrics = self.losses(params, batch)
            return _total(metrics), metrics

        gradients, _, metrics, moved = gradients_by_transform(of, self.trained, self.statistics)
        return gradients, metrics, moved


def _total(metrics: Metrics) -> Tensor:
    losses = [value.sum() for name, value in metrics.items() if name.startswith("loss_")]
    return torch.stack(losses).sum()
