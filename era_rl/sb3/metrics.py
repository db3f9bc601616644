"""Training metrics that stay on the device until they are logged."""

from typing import Any

import torch
from torch import Tensor


def std_figures(log_std: Tensor, log_std_min: float) -> dict[str, Tensor]:
    """Return the mean and the least std, and the share of entries at the lower bound of log_std.

    Args:
        log_std: Of actions normalised to [-1, 1], before a truncation or squashing; any shape.
        log_std_min: The lower bound.
    """
    std, at_bound = log_std.exp(), log_std <= log_std_min + 1e-5  # rounding
    return {
        "std": std.mean(),
        "std_min": std.min(),
        "share_at_log_std_min": at_bound.to(std.dtype).mean(),
    }


class TrainingMetrics:
    """Means of losses and price since the last flush; entropy and std on the last batch."""

    def __init__(self) -> None:
        self._means: dict[str, tuple[Tensor, int]] = {}
        self._params: tuple[Tensor, ...] = ()

    def add(
        self,
        critic_loss: Tensor,
        actor_loss: Tensor | None = None,
        entropy_price: Tensor | None = None,
        *params: Tensor,
    ) -> None:
        """Note an update: the losses, and of the actor's the floor's price and its outputs."""
        given = {
            "critic_loss": critic_loss,
            "actor_loss": actor_loss,
            "entropy_price": entropy_price,
        }
        for name, value in given.items():
            if value is not None:
                total, count = self._means.get(name, (0.0, 0))
                self._means[name] = total + value, count + 1
        self._params = params or self._params

    def flush(self, actor: Any) -> dict[str, float]:
        """Return the metrics of an actor by name and start again; empty if nothing was noted."""
        values = {name: total / count for name, (total, count) in self._means.items()}
        if self._params:
            entropy = actor.action_dist.proba_distribution(*self._params).entropy()
            values |= {"entropy_mean": entropy.mean(), "entropy_min": entropy.min()}
            for log_std in self._params[1:]:  # logits have none
                values["log_std_mean"] = log_std.mean()
                values |= std_figures(log_std, actor.head.log_std_min)
        self._means, self._params = {}, ()
        if not values:
            return {}
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
