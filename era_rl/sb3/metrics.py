"""Training metrics that stay on the device until they are logged."""

import torch
from stable_baselines3.common.distributions import Distribution
from torch import Tensor


class TrainingMetrics:
    """Means of the losses since the last flush, and entropy and log_std on the last batch."""

    def __init__(self) -> None:
        self._losses: dict[str, tuple[Tensor, int]] = {}
        self._params: tuple[Tensor, Tensor] | None = None

    def add(self, critic_loss: Tensor, actor_loss: Tensor | None = None, *params: Tensor) -> None:
        """Note an update: the losses, and where the actor was updated loc and log_std."""
        for name, loss in (("critic_loss", critic_loss), ("actor_loss", actor_loss)):
            if loss is not None:
                total, count = self._losses.get(name, (0.0, 0))
                self._losses[name] = total + loss, count + 1
        if params:
            self._params = params[0], params[1]

    def flush(self, distribution: Distribution) -> dict[str, float]:
        """Return the metrics by name and start again; empty if nothing was noted."""
        values = {name: total / count for name, (total, count) in self._losses.items()}
        if self._params is not None:
            entropy = distribution.proba_distribution(*self._params).entropy()
            assert entropy is not None
            values |= {"entropy_mean": entropy.mean(), "entropy_min": entropy.min()}
            values["log_std_mean"] = self._params[1].mean()
        self._losses, self._params = {}, None
        if not values:
            return {}
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
