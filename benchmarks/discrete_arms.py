"""SAC over discrete actions with a learned coefficient of its entropy: an arm of suites, no product.

Networks, rates and updates are DiscreteSACERA's own; only the head and the entropy terms differ. A
suite names it as ``class`` of an arm.
"""

from typing import Any, ClassVar

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn

from benchmarks.xqc_arms import UnflooredMixin, coefficient_loss
from era_rl.core import MultiCategoricalHead, categorical_entropy
from era_rl.sb3 import DiscreteSACERA
from era_rl.sb3.discrete_sac import (
    DiscreteActorLoss,
    DiscreteCriticLoss,
    DiscreteSACERAActor,
    DiscreteSACERAPolicy,
)
from era_rl.sb3.gradients import Transitions
from era_rl.sb3.update import OffPolicyUpdate


class PlainHead(MultiCategoricalHead):
    """Logits as they are: nothing holds their entropy.

    ``target_entropy`` is what a coefficient aims at.
    """

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the logits, which no mask may change."""
        assert mask is None
        return logits


class SoftActor(DiscreteSACERAActor):
    """An actor without a floor, and the logarithm of the coefficient of its entropy.

    The coefficient is a parameter of the actor, and so it moves and is saved as the actor is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = PlainHead(self.head.num_actions, target_entropy=self.head.target_entropy)
        self.log_alpha = nn.Parameter(torch.zeros(()))


class SoftPolicy(UnflooredMixin, DiscreteSACERAPolicy):
    """DiscreteSACERA's policy without a floor."""

    actor_class = SoftActor


class SoftCriticLoss(DiscreteCriticLoss):
    """DiscreteSACERA's with r + gamma (sum_a' pi(a'|s') min_k Q'_k(s', a') + alpha H[pi(.|s')])."""

    def forward(self, data: Transitions, noise: Tensor) -> tuple[Tensor, Any]:
        """Return the loss, and nothing beside it."""
        with torch.no_grad():
            entropy = categorical_entropy(self.actor.raw_params(data.next_obs)).unsqueeze(-1)
            shifted = data.targets(self.actor.log_alpha.exp() * entropy)
        return super().forward(data._replace(rewards=shifted), noise)


class SoftActorLoss(DiscreteActorLoss):
    """-mean(sum_a pi(a|s) min_j Q_j(s, a) + alpha H[pi(.|s)]), and the coefficient's own loss."""

    priced = ()

    def forward(self, obs: Any, noise: Tensor) -> tuple[Tensor, Any]:
        """Return the loss, and beside it the logits."""
        loss, beside = super().forward(obs, noise)
        entropy = categorical_entropy(self.actor.raw_params(obs)).mean()
        soft = loss - self.actor.log_alpha.exp().detach() * entropy
        return soft + coefficient_loss(self.actor, entropy).to(loss.dtype), beside


class DiscreteSAC(DiscreteSACERA):
    """A plain discrete SAC, whose coefficient, from 1, is learned for the floor as a mean entropy.

    Arguments are DiscreteSACERA's. Source: arXiv 1910.07207, which aims at 0.98 of the largest entropy.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": SoftPolicy}

    def _make_update(self) -> OffPolicyUpdate:
        return OffPolicyUpdate(self.policy, SoftCriticLoss(self.policy), SoftActorLoss(self.policy))
