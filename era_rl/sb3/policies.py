"""SB3's off-policy policies with actors that end in an ERA head; everything else is the host's."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d
from sb3_contrib.crossq.policies import Actor as CrossQActor
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.tqc.policies import Actor as TQCActor
from sb3_contrib.tqc.policies import CnnPolicy as TQCCnnPolicy
from sb3_contrib.tqc.policies import MultiInputPolicy as TQCMultiInputPolicy
from sb3_contrib.tqc.policies import TQCPolicy
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, CnnPolicy, MultiInputPolicy, SACPolicy
from torch import Tensor, nn

from era_rl.core import PolicyOptions
from era_rl.core.compiling import compiled
from era_rl.core.feasibility import check_flag
from era_rl.core.head import as_number
from era_rl.networks.batch_norm import UnitRowAdam
from era_rl.sb3.distributions import HeadDistribution, make_head
from era_rl.sb3.floored import CompiledPassesMixin, FlooredPolicyMixin
from era_rl.sb3.gradients import TraceableBatchRenorm


class ERAActorMixin(CompiledPassesMixin):
    """Turns an SB3 actor with the layers ``mu`` and ``log_std`` into one with an entropy floor.

    The two layers give the raw outputs of the head, which replaces the clamp of log_std. What a head
    of other outputs needs is in :meth:`_fit_layers`, :meth:`new_distribution` and :meth:`raw_params`.
    """

    latent_pi: nn.Module
    mu: Any
    log_std: nn.Linear

    def __init__(self, *args: Any, options: PolicyOptions, **kwargs: Any) -> None:
        if options.distribution == "normal":
            raise ValueError(
                "distribution='normal' must be 'truncated' or 'tanh': actions here are in [-1, 1]"
            )
        super().__init__(*args, **kwargs)
        self.options = options
        self.head = make_head(self.action_space, options)
        self._fit_layers()
        self.action_dist = self.new_distribution()

    def _fit_layers(self) -> None:
        """Give the last layers as many outputs as the head takes."""
        if self.head.raw_dim > 2 * self.head.action_dim:
            outputs = self.head.raw_dim - self.head.action_dim
            self.log_std = nn.Linear(self.log_std.in_features, outputs)

    def new_distribution(self) -> Any:
        """Return a distribution to throw away: a policy that kept a graph could not be copied."""
        return HeadDistribution(self.head, self.options)

    def raw_params(self, obs: PyTorchObs) -> Tensor:
        """Return the raw outputs, shape (batch, head.raw_dim), of observations."""
        latent_pi = self.latent_pi(self.extract_features(obs, self.features_extractor))  # type: ignore[arg-type]
        return torch.cat([self.mu(latent_pi), self.log_std(latent_pi)], dim=-1)

    def draw_noise(self, batch_size: int) -> Tensor:
        """Return the noise of ``batch_size`` actions, shape (batch_size, action_dim)."""
        weight = self.mu.weight
        dtype = torch.promote_types(weight.dtype, torch.float32)  # half precision is too coarse
        return self.head.draw_noise(
            torch.empty(batch_size, self.head.action_dim, dtype=dtype, device=weight.device)
        )

    def reparameterise(self, obs: PyTorchObs, noise: Tensor) -> tuple[Tensor, ...]:
        """Return the actions that the noise gives, (batch, action_dim), and their parameters."""
        *params, _ = self.get_action_dist_params(obs)
        return self.head.sample(tuple(params), noise), *params

    def act(self, obs: PyTorchObs, noise: Tensor) -> Tensor:
        """Return the actions that the noise gives, (batch, action_dim)."""
        return self.reparameterise(obs, noise)[0]

    def compile_passes(self) -> None:
        """Compile ``act``, as ``predict`` calls it; it stays eager where that fails."""
        self._compiled = compiled(self.act, "the sampling of actions", self.act)

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Return actions in [-1, 1], shape (batch, action_dim): samples, or the mode or mean."""
        if deterministic and type(self).get_action_dist_params is not _OWN_PARAMS:
            return super().forward(obs, deterministic)  # of an actor with another distribution
        if deterministic:
            return self.head.deterministic(self.raw_params(obs), self.options.deterministic_action)
        noise = self.draw_noise(len(obs if isinstance(obs, Tensor) else next(iter(obs.values()))))
        if self._compiled is None or not self._sampling():
            return self.act(obs, noise)
        return self._compiled(obs, noise)

    def get_action_dist_params(self, obs: PyTorchObs) -> Any:
        """Return loc and log_std, or logits, and no further arguments (SB3's hook)."""
        return *self.head.params(self.raw_params(obs)), {}

    def action_log_prob(self, obs: PyTorchObs) -> tuple[Tensor, Tensor]:
        """Return sampled actions, (batch, action_dim), and their log densities, (batch,)."""
        *params, _ = self.get_action_dist_params(obs)
        return self.new_distribution().log_prob_from_params(*params)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "options": self.options.at(1.0)}


_OWN_PARAMS = ERAActorMixin.get_action_dist_params


class SACERAActor(ERAActorMixin, Actor):
    """SB3's SAC actor with an ERA head."""


class TQCERAActor(ERAActorMixin, TQCActor):
    """sb3-contrib's TQC actor with an ERA head."""


class CrossQERAActor(ERAActorMixin, CrossQActor):
    """sb3-contrib's CrossQ actor with an ERA head."""


class FusedAdamMixin(BasePolicy):
    """Has Adam and AdamW run fused, unless ``optimizer_kwargs`` says "fused" or "foreach"."""

    def _build(self, lr_schedule: Schedule) -> None:
        told = {"fused", "foreach"} & set(self.optimizer_kwargs)
        if self.optimizer_class in (torch.optim.Adam, torch.optim.AdamW, UnitRowAdam) and not told:
            self.optimizer_kwargs = {**self.optimizer_kwargs, "fused": True}
        super()._build(lr_schedule)  # type: ignore[misc]


class ERAPolicyMixin(FusedAdamMixin, FlooredPolicyMixin):
    """Gives an off-policy SB3 policy an actor with an ERA head; arguments as its bases'."""

    actor_class: ClassVar[type[ERAActorMixin]]
    actor: Any
    actor_kwargs: dict[str, Any]

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Return the actor (SB3's hook)."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return self.actor_class(**kwargs, options=self.options).to(self.device)

    def compile_passes(self) -> None:
        """Compile what acting calls."""
        self.actor.compile_passes()

    def get_distribution(self, obs: PyTorchObs) -> Any:
        """Return the policy's distribution at observations, as SB3's on-policy policies do."""
        *params, _ = self.actor.get_action_dist_params(obs)
        return self.actor.new_distribution().proba_distribution(*params)

    def actor_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the policy's distribution depends on."""
        return list(self.actor.parameters())

    def raw_params(self, obs: PyTorchObs) -> Tensor:
        """Return the raw outputs, shape (batch, head.raw_dim), of observations."""
        return self.actor.raw_params(obs)

    @property
    def head(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The actor's head."""
        return self.actor.head


class LayerNormCriticMixin(FusedAdamMixin):
    """Gives SB3's SAC and TQC policies layer-normalised critics on request.

    Args:
        layer_norm: Whether each hidden layer of the critics is followed by a LayerNorm.
        critic_weight_decay: At least 0; above, the critics train with AdamW and this weight decay.
        *args: Arguments of the host policy.
        **kwargs: Arguments of the host policy.

    Raises:
        ValueError: For a negative ``critic_weight_decay``, or one beside an optimizer other than Adam.
    """

    actor: Any
    critic: Any

    def __init__(
        self, *args: Any, layer_norm: bool = False, critic_weight_decay: float = 0.0, **kwargs: Any
    ) -> None:
        check_flag("layer_norm", layer_norm)
        self.layer_norm = layer_norm
        self.critic_weight_decay = as_number("critic_weight_decay", critic_weight_decay)
        optimizer_class = kwargs.get("optimizer_class", torch.optim.Adam)
        is_adam = optimizer_class in (torch.optim.Adam, torch.optim.AdamW)
        if not 0.0 <= critic_weight_decay < math.inf:
            raise ValueError(
                f"critic_weight_decay={critic_weight_decay} must be at least 0, finite"
            )
        if critic_weight_decay > 0.0 and not is_adam:
            raise ValueError(
                f"critic_weight_decay={critic_weight_decay} needs optimizer_class Adam or AdamW, "
                f"not {optimizer_class.__name__}: give weight_decay in optimizer_kwargs"
            )
        super().__init__(*args, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Return the critics (SB3's hook)."""
        critic = super().make_critic(features_extractor)  # type: ignore[misc]
        if not self.layer_norm:
            return critic
        return replace_q_networks(critic, with_layer_norm).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        if self.critic_weight_decay > 0.0:
            self.critic.optimizer = torch.optim.AdamW(
                self.critic.optimizer.param_groups[0]["params"],
                lr=lr_schedule(1),
                **{**self.optimizer_kwargs, "weight_decay": self.critic_weight_decay},
            )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        data.update(layer_norm=self.layer_norm, critic_weight_decay=self.critic_weight_decay)
        return data


class SACERAPolicy(ERAPolicyMixin, LayerNormCriticMixin, SACPolicy):
    """``MlpPolicy`` of SACERA."""

    actor_class = SACERAActor


class SACERACnnPolicy(SACERAPolicy, CnnPolicy):
    """``CnnPolicy`` of SACERA."""


class SACERAMultiInputPolicy(SACERAPolicy, MultiInputPolicy):
    """``MultiInputPolicy`` of SACERA, for Dict observations."""


class TQCERAPolicy(ERAPolicyMixin, LayerNormCriticMixin, TQCPolicy):
    """``MlpPolicy`` of TQCERA."""

    actor_class = TQCERAActor


class TQCERACnnPolicy(TQCERAPolicy, TQCCnnPolicy):
    """``CnnPolicy`` of TQCERA."""


class TQCERAMultiInputPolicy(TQCERAPolicy, TQCMultiInputPolicy):
    """``MultiInputPolicy`` of TQCERA, for Dict observations."""


class CrossQERAPolicy(ERAPolicyMixin, CrossQPolicy):
    """``MlpPolicy`` of CrossQERA, the only one that CrossQ has."""

    actor_class = CrossQERAActor

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        for module in self.modules():
            if isinstance(module, BatchRenorm1d):
                module.__class__ = TraceableBatchRenorm


def replace_q_networks(critic: Any, network: Callable[[Any], nn.Module]) -> Any:
    """Put ``network(q_net)`` in the place of each Q-network of SB3's or TQC's critics; return these."""
    for index, q_net in enumerate(critic.q_networks):
        critic.q_networks[index] = network(q_net)
        critic.add_module(f"qf{index}", critic.q_networks[index])
    return critic


def with_layer_norm(q_net: nn.Sequential) -> nn.Sequential:
    """Return a network with a LayerNorm after each hidden linear layer."""
    *hidden, output = q_net.children()
    layers: list[nn.Module] = []
    for layer in hidden:
        layers.append(layer)
        if isinstance(layer, nn.Linear):
            layers.append(nn.LayerNorm(layer.out_features))
    return nn.Sequential(*layers, output)
