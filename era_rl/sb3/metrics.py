"""Training metrics that stay on the device until they are logged."""

from stable_baselines3.common.distributions import Distribution
from torch import Tensor


class TrainingMetrics:
    """Means of the losses since the last flush, and the entropy on the last batch."""

    def __init__(self) -> None:
        self._losses: Tensor | None = None
        self._updates = 0
        self._params: tuple[Tensor, Tensor] | None = None

    def add(self, losses: Tensor, loc: Tensor, log_std: Tensor) -> None:
        """Note an update: losses of actor and critics, (2,), policy parameters (batch, action_dim)."""
        self._losses = losses if self._losses is None else self._losses + losses
        self._updates += 1
        self._params = (loc, log_std)

    def flush(self, distribution: Distribution) -> dict[str, float]:
        """Return the metrics by name and start again; empty if nothing was noted."""
        if self._losses is None or self._params is None:
            return {}
        actor_loss, critic_loss = (self._losses / self._updates).tolist()
        loc, log_std = self._params
        entropy = distribution.proba_distribution(loc, log_std).entropy()
        assert entropy is not None
        self._losses, self._updates, self._params = None, 0, None
        return {
            "actor_loss": actor_loss,
            "critic_loss": critic_loss,
            "entropy_mean": entropy.mean().item(),
            "entropy_min": entropy.min().item(),
            "log_std_mean": log_std.mean().item(),
        }
