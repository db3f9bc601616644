"""SimbaPolicy of SACERA and TQCERA: residual networks on standardised observations."""

import inspect
import warnings
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    get_actor_critic_arch,
)
from torch import Tensor, nn

from era_rl.core.feasibility import check_flag
from era_rl.networks import RunningNorm, SimbaEncoder, orthogonal
from era_rl.sb3.policies import (
    SACERAMultiInputPolicy,
    SACERAPolicy,
    TQCERAMultiInputPolicy,
    TQCERAPolicy,
    replace_q_networks,
)


class NormalisedFeatures(BaseFeaturesExtractor):
    """Observations as one vector, a Dict's parts one after the other, standardised by a RunningNorm.

    Raises:
        ValueError: For images.
    """

    def __init__(self, observation_space: spaces.Space) -> None:
        parts = observation_space.spaces if isinstance(observation_space, spaces.Dict) else {}
        if any(map(is_image_space, [observation_space, *dict(parts).values()])):
            raise ValueError(
                f"observation_space={observation_space} must have no images: SimBa's networks are for "
                "vectors, CnnPolicy and MultiInputPolicy for images"
            )
        flatten = CombinedExtractor if parts else FlattenExtractor
        inner: BaseFeaturesExtractor = flatten(observation_space)  # type: ignore[arg-type]
        super().__init__(observation_space, inner.features_dim)
        self.inner = inner
        self.norm = RunningNorm(inner.features_dim)

    def forward(self, observations: Any) -> Tensor:
        """Return the standardised features, (batch, features_dim), of preprocessed observations."""
        return self.norm(self.inner(observations))


class SimbaMixin(BasePolicy):
    """Gives an off-policy SB3 policy SimBa's networks, its normaliser and AdamW.

    Actor and critics are :class:`era_rl.networks.SimbaEncoder` and an output layer each. They share
    a :class:`era_rl.networks.RunningNorm` of the observations, which is saved and exported with the
    policy and which only :meth:`observe` moves.

    Args:
        *args: Arguments of the host policy.
        net_arch: Width of each block, the same for all of a network; [128] for the actor ("pi") and
            [256, 256] for the critics ("qf") by default, on any device, so that models load on any. On
            CUDA 512 costs little more.
        normalize_obs: False leaves observations as they are, for a ``VecNormalize``.
        optimizer_class: By default AdamW.
        optimizer_kwargs: For AdamW a weight decay of 0.01 by default.
        **kwargs: Arguments of the host policy.

    Raises:
        ValueError: For blocks of several widths, or what SimBa has of its own: a features extractor,
            an activation function, ``layer_norm``.

    Source: SimBa, arXiv 2410.09754.
    """

    algorithm_defaults: ClassVar[dict[str, Any]] = {"learning_rate": 1e-4}
    actor: Any
    critic: Any

    def __init__(
        self,
        *args: Any,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        normalize_obs: bool = True,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        net_arch = {"pi": [128], "qf": [256, 256]} if net_arch is None else net_arch
        if any(len(set(widths)) != 1 for widths in get_actor_critic_arch(net_arch)):
            raise ValueError(
                f"net_arch={net_arch} must have one width for all blocks of a network, one block or "
                "more: {'pi': [128], 'qf': [256, 256]} say"
            )
        own = {"features_extractor_class": NormalisedFeatures, "activation_fn": nn.ReLU}
        for name, value in {**own, "layer_norm": False}.items():
            if kwargs.get(name, value) is not value:
                raise ValueError(f"{name}={kwargs[name]!r} must be left out: SimBa has its own")
        if optimizer_kwargs is None and optimizer_class is torch.optim.AdamW:
            optimizer_kwargs = {"weight_decay": 1e-2}
        check_flag("normalize_obs", normalize_obs)
        self.normalize_obs = normalize_obs
        optimizer = {"optimizer_class": optimizer_class, "optimizer_kwargs": optimizer_kwargs}
        super().__init__(*args, net_arch=net_arch, **{**kwargs, **own, **optimizer})

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Return the extractor, one for all networks: it has no parameters (SB3's hook)."""
        if hasattr(self, "actor"):
            return self.actor.features_extractor
        return super().make_features_extractor()

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Return the actor (SB3's hook)."""
        actor = super().make_actor(features_extractor)  # type: ignore[misc]
        actor.latent_pi = SimbaEncoder(actor.features_dim, actor.net_arch[0], len(actor.net_arch))
        for name, layer in actor.named_modules():
            if name.startswith(("mu", "log_std")) and isinstance(layer, nn.Linear):
                orthogonal(layer)
        return actor.to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Return the critics (SB3's hook)."""
        _, widths = get_actor_critic_arch(self.net_arch)  # type: ignore[attr-defined]

        def network(q_net: nn.Sequential) -> nn.Module:
            first, last = q_net[0].in_features, q_net[-1].out_features
            encoder = SimbaEncoder(first, widths[0], len(widths))  # type: ignore[arg-type]
            return nn.Sequential(encoder, orthogonal(nn.Linear(widths[0], last)))  # type: ignore[arg-type]

        critic = super().make_critic(features_extractor)  # type: ignore[misc]
        return replace_q_networks(critic, network).to(self.device)

    def observe(self, observation: Any) -> None:
        """Add observations of environments, as ``predict`` takes them, to the normaliser's moments."""
        if self.normalize_obs:
            obs, _ = self.obs_to_tensor(observation)
            features = preprocess_obs(obs, self.observation_space, self.normalize_images)
            extractor = self.actor.features_extractor
            extractor.norm.update(extractor.inner(features))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "normalize_obs": self.normalize_obs}


class ObservingMixin(BaseAlgorithm):
    """Shows each observation that is acted on to a policy that has a normaliser of its own."""

    def __init__(self, policy: Any, env: Any, *args: Any, **kwargs: Any) -> None:
        policy_class = self.policy_aliases.get(policy) if isinstance(policy, str) else policy
        defaults = getattr(policy_class, "algorithm_defaults", {})
        host = next(base for base in type(self).__mro__ if _is_host(base))
        given = inspect.signature(host).bind_partial(policy, env, *args).arguments
        super().__init__(**{**defaults, **given, **kwargs})

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        vec_normalize = self._vec_normalize_env
        if getattr(vec_normalize, "norm_obs", False) and getattr(
            self.policy, "normalize_obs", False
        ):
            warnings.warn(
                "VecNormalize(norm_obs=True) and the policy both normalise observations: "
                "policy_kwargs={'normalize_obs': False} leaves it to VecNormalize",
                stacklevel=3,
            )
        if getattr(vec_normalize, "norm_reward", False) and hasattr(self, "reward_scale"):
            warnings.warn(
                f"VecNormalize(norm_reward=True) and {type(self).__name__} both scale rewards: "
                "norm_reward=False leaves it to the algorithm",
                stacklevel=3,
            )
        return super()._setup_learn(*args, **kwargs)

    def _store_transition(self, *args: Any, **kwargs: Any) -> None:
        if isinstance(self.policy, SimbaMixin):
            self.policy.observe(self._last_obs)
        super()._store_transition(*args, **kwargs)  # type: ignore[misc]


def _is_host(base: type) -> bool:
    return issubclass(base, OffPolicyAlgorithm) and not issubclass(base, ObservingMixin)


class SACERASimbaPolicy(SimbaMixin, SACERAPolicy):
    """``SimbaPolicy`` of SACERA."""


class SACERASimbaMultiInputPolicy(SimbaMixin, SACERAMultiInputPolicy):
    """``SimbaMultiInputPolicy`` of SACERA, for Dict observations without images."""


class TQCERASimbaPolicy(SimbaMixin, TQCERAPolicy):
    """``SimbaPolicy`` of TQCERA."""


class TQCERASimbaMultiInputPolicy(SimbaMixin, TQCERAMultiInputPolicy):
    """``SimbaMultiInputPolicy`` of TQCERA, for Dict observations without images."""
