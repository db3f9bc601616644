"""SB3's actor-critic policies with an ERA head; everything else is the host policy's."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import (
    MaskableCategoricalDistribution,
    MaskableDistribution,
    MaskableMultiCategoricalDistribution,
    MaybeMasks,
)
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from era_rl.core import (
    GaussianHead,
    MultiCategoricalHead,
    TruncatedGaussianHead,
    auto_target_entropy,
)
from era_rl.core.compiling import compiled
from era_rl.sb3.distributions import (
    DeterministicAction,
    TruncatedNormalDistribution,
    refuse_mean,
)
from era_rl.sb3.policies import CompiledPassesMixin

ActorCriticHead = TruncatedGaussianHead | GaussianHead | MultiCategoricalHead

AUTO_NATS_PER_DIM = -0.3
"""The default floor of PPOERA and A2CERA per action dimension, as in the paper's PPO runs."""

AUTO_LOG_STD_MIN = -5.0
"""Their default lower bound of log_std: at e^-8 the log-probability of an action on the other side of
the range is -1.8e7 a dimension, at e^-5 -4.4e4."""


class ActorCriticMixin(BasePolicy):
    """What the ERA actor-critic policies share: a head between the action layer and the distribution.

    Args:
        head_kwargs: Arguments of the head, and ``squash``.
        *args: Arguments of the host policy.
        **kwargs: Arguments of the host policy.
    """

    action_net: nn.Module
    mlp_extractor: Any
    pi_features_extractor: Any

    def __init__(
        self, *args: Any, head_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.head_kwargs = head_kwargs or {}
        super().__init__(*args, **kwargs)

    def _make_head(self) -> tuple[ActorCriticHead, Callable[[], Distribution]]:
        """Return the head, and what makes the distribution that takes its outputs."""
        raise NotImplementedError

    def _build(self, lr_schedule: Schedule) -> None:
        self.head, self._new_distribution = self._make_head()
        # the host's own network for so many logits: one linear layer, and no log_std beside it
        self.action_dist: Any = CategoricalDistribution(self.head.raw_dim)
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_dist = self._new_distribution()

    def dist_params(self, raw: Tensor, /) -> tuple[Tensor, ...]:
        """Return the distribution's parameters for raw outputs (batch, head.raw_dim)."""
        return (self.head(raw),)

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        # one to throw away: a policy that kept a graph could not be copied
        distribution: Any = self._new_distribution()
        return distribution.proba_distribution(*self.dist_params(self.action_net(latent_pi)))

    def raw_params(self, obs: PyTorchObs) -> Tensor:
        """Return the raw outputs, shape (batch, head.raw_dim), of observations."""
        features = BasePolicy.extract_features(self, obs, self.pi_features_extractor)  # type: ignore[arg-type]
        return self.action_net(self.mlp_extractor.forward_actor(features))

    def actor_parameters(self) -> list[nn.Parameter]:
        """Return the parameters, but for frozen ones, that the policy's distribution depends on."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        mode = self.training
        self.set_training_mode(False)
        obs, _ = self.obs_to_tensor(copy.deepcopy(self.observation_space).sample())
        with torch.enable_grad():
            raw = self.raw_params(obs).sum()
        self.set_training_mode(mode)
        if not raw.requires_grad:
            return []
        gradients = torch.autograd.grad(raw, parameters, allow_unused=True)
        return [
            p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None
        ]

    def entropy(self, obs: PyTorchObs) -> Tensor:
        """Return the policy's own entropy in nats at each observation, shape (batch,)."""
        return self.get_distribution(obs).entropy()  # type: ignore[attr-defined]

    @property
    def entropy_floor(self) -> float:
        """H0 in nats over all action dimensions or components."""
        return self.head.target_entropy

    @property
    def entropy_may_rise(self) -> bool:
        """Whether the head can lift the entropy above the floor by more than a clamp of log_std."""
        return getattr(self.head, "slack_offset", 0.0) is not None

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(head_kwargs=self.head_kwargs)
        return data


class ERAActorCriticMixin(CompiledPassesMixin, ActorCriticMixin):
    """Gives SB3's actor-critic policies an entropy floor, on Box and discrete action spaces.

    A Box takes a truncated normal, its actions normalised to [-1, 1]; with ``squash=False`` an
    unbounded normal under Eq. 11, whose actions the host clips. Discrete, MultiDiscrete and
    MultiBinary take categoricals (:class:`MultiCategoricalHead`).

    Args:
        deterministic_action: What deterministic actions of the truncated normal are: "mode" or "mean".
        *args: Arguments of the host policy.
        **kwargs: ``head_kwargs``, and arguments of the host policy.
    """

    log_half_range: Tensor

    def __init__(
        self, *args: Any, deterministic_action: DeterministicAction = "mode", **kwargs: Any
    ) -> None:
        self.deterministic_action: DeterministicAction = deterministic_action
        super().__init__(*args, **kwargs)

    def compile_passes(self) -> None:
        """Compile ``forward`` and ``evaluate_actions``, in the modes in which training calls them.

        They are compiled at their first calls, and stay eager where that fails.
        """
        forward, evaluate_actions = super().forward, super().evaluate_actions  # type: ignore[misc]
        self._compiled = (
            compiled(forward, "the policy's forward", forward),
            compiled(evaluate_actions, "the policy's evaluate_actions", evaluate_actions),
        )

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values and log-probabilities of the actions (SB3's)."""
        if self._compiled is not None and self._sampling() and not deterministic:
            return self._compiled[0](obs)
        return super().forward(obs, deterministic)  # type: ignore[misc]

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values, log-probabilities of the actions and entropies (SB3's)."""
        if self._compiled is not None and self.training and torch.is_grad_enabled():
            return self._compiled[1](obs, actions)
        return super().evaluate_actions(obs, actions)  # type: ignore[misc]

    def _make_head(self) -> tuple[ActorCriticHead, Callable[[], Distribution]]:
        if isinstance(self.action_space, spaces.Box):
            return self._make_gaussian_head(self.action_space, **self.head_kwargs)
        refuse_mean(self.deterministic_action, "discrete actions")
        actions = num_actions(self.action_space)
        head = MultiCategoricalHead(actions, **_discrete_kwargs(self.head_kwargs))
        if isinstance(self.action_space, spaces.Discrete):
            return head, partial(CategoricalDistribution, actions[0])
        return head, partial(MultiCategoricalDistribution, actions)

    def _make_gaussian_head(
        self,
        space: spaces.Box,
        *,
        target_entropy: Any = "auto",
        target_entropy_fraction: float | None = None,
        squash: bool = True,
        floor: str | None = None,
        slack: float | None = None,
        log_std_min: float = AUTO_LOG_STD_MIN,
        **kwargs: Any,
    ) -> tuple[ActorCriticHead, Callable[[], Distribution]]:
        if target_entropy_fraction is not None:
            raise ValueError(
                f"target_entropy_fraction={target_entropy_fraction} is for discrete actions; the "
                f"action space is {space}, use target_entropy"
            )
        action_dim = get_action_dim(space)
        if target_entropy == "auto":
            target_entropy = auto_target_entropy(action_dim, AUTO_NATS_PER_DIM)
        kwargs = {**kwargs, "target_entropy": target_entropy, "log_std_min": log_std_min}
        if squash:
            self._squash_output = True
            self.register_buffer("log_half_range", torch.zeros(action_dim), persistent=False)
            head = TruncatedGaussianHead(
                action_dim,
                floor="exact" if floor is None else floor,  # type: ignore[arg-type]
                slack=slack,
                **kwargs,
            )
            return head, partial(TruncatedNormalDistribution, action_dim, self.deterministic_action)
        refuse_mean(self.deterministic_action, "squash=False")
        if floor == "exact" or slack is not None:
            raise ValueError(
                f"floor={floor!r}, slack={slack} need squash=True: an unbounded normal has Eq. 11, "
                "floor='gaussian', without slack"
            )
        half_range = torch.as_tensor(space.high - space.low).flatten() / 2.0
        self.register_buffer("log_half_range", half_range.log(), persistent=False)
        head = GaussianHead(action_dim, **kwargs)
        return head, partial(DiagGaussianDistribution, action_dim)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(deterministic_action=self.deterministic_action)
        return data

    def dist_params(self, raw: Tensor, /) -> tuple[Tensor, ...]:
        """Return loc and log_std, or logits, of raw outputs (batch, head.raw_dim)."""
        if isinstance(self.head, MultiCategoricalHead):
            return super().dist_params(raw)
        loc, log_std = self.head.params(raw)
        return loc, log_std + self.log_half_range

    def entropy(self, obs: PyTorchObs) -> Tensor:
        """Return the policy's own entropy in nats, of actions normalised to [-1, 1], (batch,)."""
        entropy = super().entropy(obs)
        if isinstance(self.head, GaussianHead):
            return entropy - self.log_half_range.sum()
        return entropy


class ERAActorCriticPolicy(ERAActorCriticMixin, ActorCriticPolicy):
    """``MlpPolicy`` of PPOERA and A2CERA."""


class ERAActorCriticCnnPolicy(ERAActorCriticMixin, ActorCriticCnnPolicy):
    """``CnnPolicy`` of PPOERA and A2CERA."""


class ERAMultiInputActorCriticPolicy(ERAActorCriticMixin, MultiInputActorCriticPolicy):
    """``MultiInputPolicy`` of PPOERA and A2CERA, for Dict observations."""


class _MaskedFloorMixin(MaskableDistribution):
    """Meets the floor after masking, where the host only masks."""

    def __init__(self, head: MultiCategoricalHead, *args: Any) -> None:
        super().__init__(*args)
        self.head = head

    def proba_distribution(self, action_logits: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Set the raw logits, shape (batch, sum n_i), unmasked."""
        self.raw_logits = action_logits
        return super().proba_distribution(self.head(action_logits))

    def apply_masking(self, masks: MaybeMasks) -> None:
        """Mask actions, shape (batch, sum n_i), then meet the floor of those left."""
        if masks is None:
            self.proba_distribution(self.raw_logits)
            return
        mask = torch.as_tensor(masks, dtype=torch.bool, device=self.raw_logits.device)
        logits = self.head(self.raw_logits, mask.reshape(self.raw_logits.shape))
        super().proba_distribution(logits)
        super().apply_masking(masks)


class ERAMaskableCategorical(_MaskedFloorMixin, MaskableCategoricalDistribution):
    """sb3-contrib's masked categorical with a floor on what the mask leaves."""


class ERAMaskableMultiCategorical(_MaskedFloorMixin, MaskableMultiCategoricalDistribution):
    """sb3-contrib's masked categoricals with floors on what the masks leave."""


class ERAMaskableMixin(ActorCriticMixin):
    """Gives sb3-contrib's maskable policies an entropy floor, on discrete action spaces."""

    head: MultiCategoricalHead

    def _make_head(self) -> tuple[ActorCriticHead, Callable[[], Distribution]]:
        actions = num_actions(self.action_space)
        head = MultiCategoricalHead(actions, **self.head_kwargs)
        if isinstance(self.action_space, spaces.Discrete):
            return head, partial(ERAMaskableCategorical, head, actions[0])
        return head, partial(ERAMaskableMultiCategorical, head, actions)

    def dist_params(self, raw: Tensor, /) -> tuple[Tensor, ...]:
        """Return the raw logits, shape (batch, head.raw_dim)."""
        return (raw,)  # the distribution meets the floor, after the mask

    def entropy(self, obs: PyTorchObs, action_masks: MaybeMasks = None) -> Tensor:
        """Return the policy's entropy in nats under the masks, shape (batch,)."""
        return self.get_distribution(obs, action_masks).entropy()  # type: ignore[attr-defined]


class ERAMaskablePolicy(ERAMaskableMixin, MaskableActorCriticPolicy):
    """``MlpPolicy`` of MaskablePPOERA."""


class ERAMaskableCnnPolicy(ERAMaskableMixin, MaskableActorCriticCnnPolicy):
    """``CnnPolicy`` of MaskablePPOERA."""


class ERAMaskableMultiInputPolicy(ERAMaskableMixin, MaskableMultiInputActorCriticPolicy):
    """``MultiInputPolicy`` of MaskablePPOERA, for Dict observations."""


def num_actions(space: spaces.Space) -> list[int]:
    """Return the number of actions of each component of a discrete action space.

    Raises:
        ValueError: If the space has no categorical policy here.
    """
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


def _discrete_kwargs(head_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a categorical head; ValueError for those of a Gaussian."""
    allowed = {"target_entropy", "target_entropy_fraction"}
    for name, value in head_kwargs.items():
        if name not in allowed and value is not None:
            raise ValueError(f"{name}={value!r} is for Box action spaces, not for discrete ones")
    return {name: value for name, value in head_kwargs.items() if name in allowed}
