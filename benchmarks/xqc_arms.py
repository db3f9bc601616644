"""XQCERA and SACERA under other rules for noise: arms of suites, not products.

Networks, normalisers, scale of rewards, updates, rates and modes are theirs; only the actor's
distribution and the entropy terms differ. A suite names them as ``class`` of an arm.
"""

import math
from typing import Any, ClassVar

import torch
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn
from torch.distributions.transforms import TanhTransform

from era_rl.core import TanhGaussianHead
from era_rl.core.gaussian_heads import GaussianHead
from era_rl.core.head import Params
from era_rl.core.truncation import HALF_LOG_2PI
from era_rl.sb3 import SACERA, XQCERA
from era_rl.sb3.distributions import HeadDistribution
from era_rl.sb3.floored import FlooredPolicyMixin
from era_rl.sb3.gradients import (
    ActorLoss,
    CriticLoss,
    Transitions,
    least_value,
    sac_critic_loss,
)
from era_rl.sb3.policies import SACERAActor
from era_rl.sb3.simba import SACERASimbaPolicy
from era_rl.sb3.update import OffPolicyUpdate, ReplayTrainingMixin
from era_rl.sb3.xqc import XQCERAPolicy, xqc_critic_loss

NOISE = 0.1
"""Standard deviation of the fixed noise, of actions in [-1, 1]."""


class SquashedHead(TanhGaussianHead):
    """SAC's policy: a normal squashed by tanh, whose log_std is the network's within [-20, 2].

    Nothing holds its entropy; ``target_entropy`` is what a coefficient aims at.
    """

    def log_prob_of_noise(self, params: Params, noise: Tensor) -> Tensor:
        """Return ln p of the actions that the noise gives, (...), exact where tanh saturates.

        ln p = sum_i -noise_i^2 / 2 - log_std_i - ln(2 pi) / 2 - ln(1 - tanh(x_i)^2), with
        x = loc + exp(log_std) noise.
        """
        x = GaussianHead.sample(self, params, noise)
        normal = -0.5 * noise.square() - params[1] - HALF_LOG_2PI
        return (normal - TanhTransform().log_abs_det_jacobian(x, x)).sum(-1)

    def _log_std(self, raw_log_std: Tensor) -> Tensor:
        return raw_log_std.clamp(self._log_std_min, self._log_std_max)


class FixedNoiseHead(GaussianHead):
    """tanh of the network's output with normal noise of std ``NOISE``, clipped to [-1, 1].

    Its entropy is that of the noise before it is clipped: the clipped one has no density.
    """

    def params(self, raw: Tensor) -> Params:
        """Return (loc, log_std) of raw outputs (..., 2 action_dim), of which the first half counts."""
        (loc,) = self._location(raw)
        return loc, torch.full_like(loc, math.log(NOISE))

    def sample(self, params: Params, noise: Tensor, shared: Any = None) -> Tensor:
        """Return loc + ``NOISE`` noise within [-1, 1], (..., action_dim)."""
        return super().sample(params, noise).clamp(-1.0, 1.0)

    def _location(self, raw: Tensor) -> Params:
        return (torch.tanh(self._split(raw)[0]),)


class UnflooredActor(SACERAActor):
    """An actor with a head that holds no entropy in the place of its own."""

    head_class: ClassVar[type[GaussianHead]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = self.head_class(
            self.head.action_dim,
            target_entropy=self.head.target_entropy,
            log_std_min=LOG_STD_MIN,
            log_std_max=LOG_STD_MAX,
        )
        self.action_dist = HeadDistribution(self.head, self.options)


class SoftActor(UnflooredActor):
    """SAC's squashed normal, and the logarithm of the coefficient of its entropy.

    The coefficient is a parameter of the actor, and so it moves, is saved and waits as the actor does.
    """

    head_class = SquashedHead

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log_alpha = nn.Parameter(torch.zeros(()))


class FixedNoiseActor(UnflooredActor):
    """A deterministic actor with fixed noise; its layer ``log_std`` is without effect."""

    head_class = FixedNoiseHead


class UnflooredMixin(FlooredPolicyMixin):
    """Takes the floor from a policy, whose actor may have a coefficient."""

    @property
    def target_entropy(self) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """NaN: there is no floor."""
        return math.nan

    def actor_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the policy's distribution depends on."""
        coefficient = getattr(self.actor, "log_alpha", None)
        return [p for p in super().actor_parameters() if p is not coefficient]


class UnflooredPolicy(UnflooredMixin, XQCERAPolicy):
    """XQCERA's policy without a floor."""

    actor_class = FixedNoiseActor


class SoftPolicy(UnflooredMixin, XQCERAPolicy):
    """XQCERA's policy with SAC's squashed normal."""

    actor_class = SoftActor


class SoftSimbaPolicy(UnflooredMixin, SACERASimbaPolicy):
    """``SimbaPolicy`` of SACERA with SAC's squashed normal."""

    actor_class = SoftActor


class SoftCriticLoss(CriticLoss):
    """A loss with the target r + gamma (Q'(s', a') - alpha ln pi(a'|s')); XQCERA's Q' are bins."""

    def forward(self, data: Transitions, noise: Tensor) -> tuple[Tensor, Any]:
        """Return the loss, and nothing beside it."""
        with torch.no_grad():
            next_actions, *params = self.actor.reparameterise(data.next_obs, noise)
            log_prob = self.actor.head.log_prob_of_noise(tuple(params), noise).unsqueeze(-1)
            # the shift of all that Q' may be is one of the reward
            shifted = data.targets(-self.actor.log_alpha.exp() * log_prob)
        data = data._replace(rewards=shifted)
        return self.objective(self.critic, self.target_critic, data, next_actions), ()


def coefficient_loss(actor: Any, entropy: Tensor) -> Tensor:
    """Return 0, with the derivative H - target by ln alpha: it falls where the mean entropy is above.

    A value of 0 leaves the actor's loss, to which it is added, what it is called.
    """
    loss = actor.log_alpha * (entropy.detach() - actor.head._target_entropy)
    return loss - loss.detach()


class SoftActorLoss(ActorLoss):
    """mean(alpha ln pi(a|s) - V(s, a)); ln alpha descends ln alpha (H - target), as SB3's does.

    H = -mean ln pi of the same actions. The coefficient's loss is in the gradient, not in the value.
    """

    priced = ()

    def forward(self, obs: Any, noise: Tensor) -> tuple[Tensor, Any]:
        """Return the loss, and beside it loc and log_std, each (batch, action_dim)."""
        actions, *params = self.actor.reparameterise(obs, noise)
        head, log_alpha = self.actor.head, self.actor.log_alpha
        log_prob = head.log_prob_of_noise(tuple(params), noise).mean()
        loss = log_alpha.exp().detach() * log_prob - self.value(self.critic(obs, actions)).mean()
        beside = tuple(param.detach() for param in params)
        return loss + coefficient_loss(self.actor, -log_prob).to(loss.dtype), beside


class SoftMixin(ReplayTrainingMixin):
    """A learned coefficient of the entropy of SAC's squashed normal in the place of a floor.

    Args:
        *args: As of the class without it.
        first_coefficient: alpha at the start, positive.
        **kwargs: As of the class without it. ``target_entropy`` or ``nats_per_dim`` is what the
            coefficient aims at; other options of floors are without effect.
    """

    objective: ClassVar[Any]
    joint: ClassVar[bool]

    def __init__(self, *args: Any, first_coefficient: float = 0.01, **kwargs: Any) -> None:
        self.first_coefficient = first_coefficient
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.actor.log_alpha.data.fill_(math.log(self.first_coefficient))

    def _make_update(self) -> OffPolicyUpdate:
        losses = (
            SoftCriticLoss(self.policy, self.objective),
            SoftActorLoss(self.policy, least_value),
        )
        return OffPolicyUpdate(self.policy, *losses, joint=self.joint)

    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Log the coefficient besides (SB3's hook)."""
        self.logger.record("train/ent_coef", self.actor.log_alpha.exp().item())
        super().dump_logs(*args, **kwargs)


class SoftXQC(SoftMixin, XQCERA):
    """XQC: XQCERA's critics with SAC's squashed normal and a learned coefficient of its entropy.

    Source: XQC, arXiv 2509.25174: -0.5 nats a dimension, first .01. SB3's SAC: -1, first 1.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": SoftPolicy}
    objective, joint = staticmethod(xqc_critic_loss), True


class SoftSimba(SoftMixin, SACERA):
    """SAC with SimBa's networks, which is SB3's ``SAC`` with them, on SACERA's compiled updates.

    Source: SimBa, arXiv 2410.09754: -0.5 nats a dimension, first .01.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"SimbaPolicy": SoftSimbaPolicy}
    objective, joint = staticmethod(sac_critic_loss), False

    def _setup_model(self) -> None:
        super()._setup_model()
        log_alpha, optimizer = self.actor.log_alpha, self.actor.optimizer
        (weights,) = optimizer.param_groups
        weights["params"] = [p for p in weights["params"] if p is not log_alpha]
        optimizer.add_param_group({"params": [log_alpha], "weight_decay": 0.0})


class FixedNoiseXQC(XQCERA):
    """XQCERA's critics with a deterministic actor and fixed noise, without entropy anywhere.

    The noise is white, in acting, in a' of the target and in a of the actor's loss, clipped in all
    three, as in the published DDPG with SimBa's networks (arXiv 2410.09754 and its code).
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": UnflooredPolicy}

    def _make_update(self) -> OffPolicyUpdate:
        update: Any = super()._make_update()
        actor = update.actor
        actor.places = {path: n for path, n in actor.places.items() if n not in actor.priced}
        actor.priced = {}  # there is no floor
        return update
