"""The heads of era_rl.core as Stable-Baselines3 has policies: of action spaces, by its names."""

from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.preprocessing import get_action_dim
from torch import Tensor, nn
from torch.distributions import Categorical

from era_rl.core import Head, PolicyOptions, check_bounds


class HeadDistribution(Distribution):
    """The distribution of a head, by the names that Stable-Baselines3 has for what it can do.

    Args:
        head: A head of era_rl.core.
        options: For what ``get_actions(deterministic=True)`` returns: the mode or the mean.
    """

    def __init__(self, head: Head, options: PolicyOptions | None = None) -> None:
        super().__init__()
        self.head = head
        self.options = options or PolicyOptions()

    def proba_distribution_net(self, latent_dim: int) -> nn.Module:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the layer of the head's raw outputs."""
        return nn.Linear(latent_dim, self.head.raw_dim)

    def proba_distribution(self, *params: Tensor) -> Self:
        """Set the parameters, as ``head.params`` gives them, and return the distribution."""
        self.params, self._shared = params, None
        return self

    @property
    def distribution(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The distribution of torch.distributions, shape (batch, action_dim), for its ``stddev``."""
        return self.head.distribution(self.params)

    def shared(self) -> Any:
        """Return what density and entropy have in common, computed once."""
        if self._shared is None:
            self._shared = self.head.shared(self.params)
        return self._shared

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log density of ``actions``, shape (batch,), summed over dimensions."""
        return self.head.log_prob(self.params, actions, self.shared())

    def entropy(self) -> Tensor:
        """Return the entropy in nats of normalised actions, shape (batch,), summed likewise."""
        return self.head.entropy(self.params, self.shared())

    def sample(self) -> Tensor:
        """Return reparameterised actions, shape (batch, action_dim)."""
        noise = self.head.draw_noise(self.params[0])
        return self.head.sample(self.params, noise, self.shared())

    def mode(self) -> Tensor:
        """Return the most likely actions, shape (batch, action_dim)."""
        return self.head.mode(self.params)

    def get_actions(self, deterministic: bool = False) -> Tensor:
        """Return samples, or the mode or the mean (SB3's)."""
        if deterministic and self.options.deterministic_action == "mean":
            return self.head.mean(self.params)
        return super().get_actions(deterministic)

    def actions_from_params(self, *params: Tensor, deterministic: bool = False) -> Tensor:
        """Return actions of the given parameters."""
        return self.proba_distribution(*params).get_actions(deterministic)

    def log_prob_from_params(self, *params: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions of the given parameters and their log densities."""
        actions = self.actions_from_params(*params)
        return actions, self.log_prob(actions)


class UncheckedCategorical(CategoricalDistribution):
    """SB3's categorical without torch's look at every logit and action, which takes most of its time.

    Logits that are NaN are refused where they are sampled, by torch too.
    """

    def proba_distribution(self, action_logits: Tensor) -> Self:
        """Set the logits, shape (batch, number of actions), and return the distribution."""
        self.distribution = Categorical(logits=action_logits, validate_args=False)
        return self


class UncheckedMultiCategorical(MultiCategoricalDistribution):
    """SB3's categoricals of several components, likewise."""

    def proba_distribution(self, action_logits: Tensor) -> Self:
        """Set the logits, shape (batch, sum n_i), and return the distribution."""
        parts = action_logits.split(list(self.action_dims), dim=1)
        self.distribution = [Categorical(logits=part, validate_args=False) for part in parts]
        return self


def make_head(space: spaces.Space, options: PolicyOptions) -> Any:
    """Return the head that an action space and the options ask for, at the start of training.

    Raises:
        ValueError: For a space without a head, bounds without a range, or options it cannot have, with
            a schedule's first floor or its last.
    """
    first = options.at(1.0)
    if isinstance(space, spaces.Box):
        check_action_space(space)
        half_range = torch.as_tensor(0.5 * (space.high - space.low)).flatten()
        head: Any = first.bounded_head(get_action_dim(space), half_range)
    else:
        head = first.discrete_head(num_actions(space))
    options.check_schedule(head)
    return head


def check_action_space(space: Any) -> None:
    """Raise ValueError for a Box in which a dimension has no range, naming it."""
    if isinstance(space, spaces.Box):
        check_bounds(f"action_space={space}", space.low, space.high)


def num_actions(space: spaces.Space) -> list[int]:
    """Return the number of actions of each component of a discrete action space.

    Raises:
        ValueError: If the space has no categorical policy here, or actions that do not begin at 0.
    """
    if np.any(getattr(space, "start", 0)):
        raise ValueError(
            f"action_space={space} must start at 0: Stable-Baselines3 sends actions from 0 on. Add the "
            "start in a wrapper"
        )
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
        return [int(n) for n in space.nvec]
    if isinstance(space, spaces.MultiBinary) and isinstance(space.n, int | np.integer):
        return [2] * int(space.n)
    raise ValueError(
        f"action_space={space} must be a bounded Box, Discrete, or MultiDiscrete or MultiBinary of one "
        "dimension"
    )
