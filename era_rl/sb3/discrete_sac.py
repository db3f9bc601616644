"""DiscreteSACERA: SAC over discrete actions, with a guaranteed policy entropy and no temperature."""

from typing import Any, ClassVar

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.sac.policies import Actor, CnnPolicy, MultiInputPolicy, SACPolicy
from stable_baselines3.sac.sac import SAC
from torch import Tensor, nn
from torch.nn import functional as F

from era_rl.sb3.compiling import Update
from era_rl.sb3.gradients import Transitions
from era_rl.sb3.policies import (
    ERAActorMixin,
    ERAPolicyMixin,
    LayerNormCriticMixin,
    replace_q_networks,
)
from era_rl.sb3.update import OffPolicyUpdate, ReplayTrainingMixin


class DiscreteSACERAActor(ERAActorMixin, Actor):
    """SB3's SAC actor with one last layer, of a logit for each action, before a categorical head."""

    def _fit_layers(self) -> None:
        self.mu = nn.Linear(self.mu.in_features, self.head.raw_dim)
        del self.log_std

    def new_distribution(self) -> CategoricalDistribution:
        """Return a distribution of the head's logits."""
        return CategoricalDistribution(self.head.raw_dim)

    def raw_params(self, obs: PyTorchObs) -> Tensor:
        """Return the raw logits, shape (batch, number of actions), of observations."""
        return self.mu(self.latent_pi(self.extract_features(obs, self.features_extractor)))  # type: ignore[arg-type]


class DiscreteCritic(ContinuousCritic):
    """SB3's critics, each with the values of all actions at once."""

    def __init__(
        self, *args: Any, net_arch: list[int], activation_fn: type[nn.Module], **kwargs: Any
    ) -> None:
        super().__init__(*args, net_arch=[], activation_fn=activation_fn, **kwargs)
        space: Any = self.action_space
        sizes = self.features_extractor.features_dim, int(space.n)
        replace_q_networks(
            self, lambda _: nn.Sequential(*create_mlp(*sizes, net_arch, activation_fn))
        )

    def forward(self, obs: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return Q_j(s, .) of each critic, (batch, number of actions)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        return tuple(q_net(features) for q_net in self.q_networks)


def least_values(q_values: tuple[Tensor, ...]) -> Tensor:
    """Return min_j Q_j(s, .), (batch, number of actions), of what each critic gives."""
    return torch.stack(q_values).amin(dim=0)


def expected(logits: Tensor, values: Tensor) -> Tensor:
    """Return sum_a pi(a|s) v(s, a), (batch, 1), pi = softmax(logits)."""
    return (logits.softmax(-1) * values).sum(-1, keepdim=True)


class DiscreteCriticLoss(nn.Module):
    """sum_j mean (Q_j(s, a) - r - gamma sum_a' pi(a'|s') min_k Q'_k(s', a'))^2 / 2."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.actor, self.critic = policy.actor, policy.critic
        self.target_critic = policy.critic_target

    def forward(self, data: Transitions, noise: Tensor) -> tuple[Tensor, Any]:
        """Return the loss, and nothing beside it; the expectation takes no noise."""
        with torch.no_grad():
            logits, _ = self.actor.get_action_dist_params(data.next_obs)
            next_values = least_values(self.target_critic(data.next_obs))
            target = data.targets(expected(logits, next_values))
        taken = data.actions.long()
        errors = [F.mse_loss(q.gather(1, taken), target) for q in self.critic(data.obs)]
        return 0.5 * torch.stack(errors).sum(), ()


class DiscreteActorLoss(nn.Module):
    """-mean sum_a pi(a|s) min_j Q_j(s, a).

    Its derivative by the floor is the floor's price, at the logits' own ratios:
    dbeta / dH0 = -1 / (beta Var(z)) where the floor binds, 0 elsewhere.
    """

    priced = ("actor.head._target_entropy",)

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.actor, self.critic = policy.actor, policy.critic

    def forward(self, obs: Any, noise: Tensor) -> tuple[Tensor, Any]:
        """Return the loss, and beside it the logits; the expectation takes no noise."""
        logits, _ = self.actor.get_action_dist_params(obs)
        with torch.no_grad():
            values = least_values(self.critic(obs))
        return -expected(logits, values).mean(), (logits.detach(),)


class DiscreteCriticsMixin(SACPolicy):
    """Gives SB3's SAC policies critics of all actions at once."""

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Return the critics (SB3's hook)."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return DiscreteCritic(**kwargs).to(self.device)


class DiscreteSACERAPolicy(ERAPolicyMixin, LayerNormCriticMixin, DiscreteCriticsMixin):
    """``MlpPolicy`` of DiscreteSACERA."""

    actor_class = DiscreteSACERAActor


class DiscreteSACERACnnPolicy(DiscreteSACERAPolicy, CnnPolicy):
    """``CnnPolicy`` of DiscreteSACERA."""


class DiscreteSACERAMultiInputPolicy(DiscreteSACERAPolicy, MultiInputPolicy):
    """``MultiInputPolicy`` of DiscreteSACERA, for Dict observations."""


class _DiscreteActions(OffPolicyAlgorithm):
    """Between SAC and its base, to which SAC says that actions are those of a Box."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "supported_action_spaces": (spaces.Discrete,)})


class DiscreteSACERA(ReplayTrainingMixin, SAC, _DiscreteActions):  # pyright: ignore[reportIncompatibleVariableOverride]
    """SAC over discrete actions in which the policy's entropy is held by the actor's head.

    pi(.|s) = softmax(beta z) has H[pi(.|s)] >= H0 for every state, with the largest beta <= 1 that
    meets the floor. Critics give the values of all actions, so that expectations are exact: the target
    is r + gamma sum_a' pi(a'|s') min_j Q_j(s', a'), and the actor maximises
    sum_a pi(a|s) min_j Q_j(s, a). There is no temperature to tune or to learn. ``save``, ``load``,
    ``predict``, replay buffers and callbacks are SB3's, the arguments those of its SAC.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class derived from theirs.
        env: Environment or its id; the action space must be Discrete.
        *args: SB3's SAC arguments by position.
        **kwargs: ``target_entropy`` in nats, or ``target_entropy_fraction`` of ln n, in [0, 1), 0.3 by
            default; either may be a function of the remaining progress. ``layer_norm`` and ``compile``
            as for :class:`SACERA`, and SB3's SAC arguments.

    Raises:
        ValueError: As :class:`SACERA`, and for ``action_noise``: the policy's is all that there is.
        AssertionError: For an action space other than Discrete (SB3's).
        TypeError: For ``action_masks`` given to ``predict``: replay buffers keep none, and
            :class:`MaskablePPOERA` takes them.

    Source: SAC over discrete actions is arXiv 1910.07207, with a temperature in the floor's place.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": DiscreteSACERAPolicy,
        "CnnPolicy": DiscreteSACERACnnPolicy,
        "MultiInputPolicy": DiscreteSACERAMultiInputPolicy,
    }

    def _setup_model(self) -> None:
        if self.action_noise is not None:
            raise ValueError(
                f"action_noise={self.action_noise} must be None: actions are discrete, and "
                "target_entropy sets their noise"
            )
        super()._setup_model()

    def _make_update(self) -> Update:
        policy = self.policy
        return OffPolicyUpdate(policy, DiscreteCriticLoss(policy), DiscreteActorLoss(policy))
