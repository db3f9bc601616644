"""Stable-Baselines3 action distributions over the bounded policies of ERA."""

from typing import Literal, Self

import torch
from stable_baselines3.common.distributions import Distribution, SquashedDiagGaussianDistribution
from torch import Tensor, nn

from era_rl.core import (
    TruncatedNormal,
    tanh_normal_entropy,
    truncated_normal_entropy,
    truncated_normal_sample,
)

DeterministicAction = Literal["mode", "mean"]


class TruncatedNormalDistribution(Distribution):
    """Independent normals truncated to [-1, 1], with a closed-form entropy; the mode is ``loc``.

    Args:
        action_dim: Number of action dimensions.
        deterministic_action: What ``get_actions(deterministic=True)`` returns: "mode" or "mean".

    Raises:
        ValueError: For another ``deterministic_action``.
    """

    def __init__(self, action_dim: int, deterministic_action: DeterministicAction = "mode") -> None:
        if deterministic_action not in ("mode", "mean"):
            raise ValueError(
                f"deterministic_action={deterministic_action!r} must be 'mode' or 'mean'"
            )
        super().__init__()
        self.action_dim = action_dim
        self.deterministic_action: DeterministicAction = deterministic_action

    def proba_distribution_net(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, latent_dim: int
    ) -> tuple[nn.Linear, nn.Linear]:
        """Return the layers of the raw mean and the raw log_std, the inputs of an ERA head."""
        return nn.Linear(latent_dim, self.action_dim), nn.Linear(latent_dim, self.action_dim)

    def proba_distribution(self, loc: Tensor, log_std: Tensor) -> Self:
        """Set the parameters, each (batch, action_dim), |loc| <= 1, and return the distribution."""
        self.loc, self.log_std = loc, log_std
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log density of ``actions``, shape (batch,), summed over dimensions."""
        return TruncatedNormal(self.loc, self.log_std.exp()).log_prob(actions)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, shape (batch,), summed over dimensions."""
        return truncated_normal_entropy(self.loc, self.log_std).sum(-1)

    @staticmethod
    def draw_noise(like: Tensor) -> Tensor:
        """Return uniform noise of the shape of ``like``."""
        return torch.rand_like(like)

    @staticmethod
    def reparameterise(loc: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """Return the actions in [-1, 1] that the noise gives (:func:`truncated_normal_sample`)."""
        return truncated_normal_sample(loc, log_std, noise)

    def sample(self) -> Tensor:
        """Return reparameterised actions in [-1, 1], shape (batch, action_dim)."""
        return self.reparameterise(self.loc, self.log_std, self.draw_noise(self.loc))

    def mode(self) -> Tensor:
        """Return the most likely actions, shape (batch, action_dim)."""
        return self.loc

    def mean(self) -> Tensor:
        """Return the mean actions, shape (batch, action_dim), inside of the mode near a bound."""
        return TruncatedNormal(self.loc, self.log_std.exp()).mean

    def get_actions(self, deterministic: bool = False) -> Tensor:
        """Return samples, or the mode or the mean (SB3's)."""
        if deterministic and self.deterministic_action == "mean":
            return self.mean()
        return super().get_actions(deterministic)

    def actions_from_params(
        self, loc: Tensor, log_std: Tensor, deterministic: bool = False
    ) -> Tensor:
        """Return actions of the given parameters."""
        return self.proba_distribution(loc, log_std).get_actions(deterministic)

    def log_prob_from_params(self, loc: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions of the given parameters and their log densities."""
        actions = self.actions_from_params(loc, log_std)
        return actions, self.log_prob(actions)


def refuse_mean(deterministic_action: str, policy: str) -> None:
    """Raise ValueError where a policy other than the truncated normal is to act by its mean."""
    if deterministic_action != "mode":
        raise ValueError(
            f"deterministic_action={deterministic_action!r} must be 'mode' for {policy}: the mean "
            "is for the truncated normal"
        )


class TanhNormalDistribution(SquashedDiagGaussianDistribution):
    """SB3's tanh-squashed normal with an entropy, by quadrature (:func:`tanh_normal_entropy`)."""

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> Self:
        """Set the parameters before the squashing, each (batch, action_dim)."""
        self.loc, self.log_std = mean_actions, log_std
        return super().proba_distribution(mean_actions, log_std)

    @staticmethod
    def draw_noise(like: Tensor) -> Tensor:
        """Return standard normal noise of the shape of ``like``."""
        return torch.randn_like(like)

    @staticmethod
    def reparameterise(loc: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
        """Return the actions tanh(loc + exp(log_std) noise)."""
        return torch.tanh(torch.addcmul(loc, log_std.exp(), noise))

    def entropy(self) -> Tensor:
        """Return the entropy in nats, shape (batch,), summed over dimensions."""
        return tanh_normal_entropy(self.loc, self.log_std).sum(-1)
