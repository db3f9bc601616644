"""Losses without an entropy term, and the dual loss of Eq. 11's compensation delta."""

from copy import deepcopy
from typing import Any, Self

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import dispatch
from torch import Tensor, nn
from torch.func import functional_call
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import LossModule, SACLoss

from era_rl.core import LearnedDelta
from era_rl.networks.values import categorical_loss, least_categorical, project_categorical
from era_rl.torchrl.actors import ERAActor


class SACERALoss(SACLoss):
    """TorchRL's SACLoss without its entropy terms: the actor itself keeps the entropy up.

    L_Q = sum_j E[l(Q_j(s, a), r + gamma (1 - terminated) min_k Q'_k(s', a'))] with a' ~ pi(.|s'), and
    L_pi = -E[min_k Q_k(s, a)] with a ~ pi(.|s), reparameterised. There is no temperature:
    ``loss_alpha`` and ``alpha`` are absent from the output. In the place of ``entropy`` there is
    ``log_prob``, E[ln pi(a|s)] of the sampled actions in their own units; the policy's entropy, as H0
    is counted, is :meth:`ERAActor.entropy`.

    Args:
        actor_network: A reparameterised actor, such as :class:`ERAActor`.
        qvalue_network: As in SACLoss; ``num_qvalue_nets`` above 2 gives an ensemble.
        loss_function: The distance l: "l2" or "smooth_l1".
        **kwargs: SACLoss's other arguments, but those of its temperature.
    """

    # torchrl 0.12 looks for the names of parameter sets in the class's own annotations
    __annotations__ = dict(SACLoss.__annotations__)

    def __init__(self, *args: Any, loss_function: str = "l2", **kwargs: Any) -> None:
        # alpha_init=1 because the host keeps its logarithm; the number is never used
        fixed = {"alpha_init": 1.0, "fixed_alpha": True, "target_entropy": 0.0}
        super().__init__(*args, loss_function=loss_function, **fixed, **kwargs)
        renamed = {"entropy": "log_prob"}
        self.out_keys = [renamed.get(key, key) for key in self.out_keys if "alpha" not in key]

    @property
    def _alpha(self) -> Tensor:
        return torch.zeros_like(self.log_alpha)

    @property
    def _cached_detached_qvalue_params(self) -> TensorDictBase:
        # not cached: stacked agents put other parameters in their place (torch.func)
        return self.qvalue_network_params.detach()

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_actor``, ``loss_qvalue`` and ``log_prob``, scalars."""
        out = super().forward(tensordict).exclude("loss_alpha", "alpha")
        if "entropy" in out:  # the host leaves it out of what is not reduced
            out["log_prob"] = -out.pop("entropy")
        return out


class XQCERALoss(SACERALoss):
    """:class:`SACERALoss` for batch-normalised networks and critics that are distributions (XQC).

    L_Q = sum_j E[-sum_i t_i ln Z_j(s, a)_i], t the projection of r + gamma (1 - terminated) Z'(s', a')
    on the bins, Z' the target critic with the smaller mean. (s, a) and (s', a') go through critics,
    and through target critics, in one pass, by whose batch they are normalised; so are the states in
    L_pi. Next actions, and the critics in L_pi, are normalised by running statistics.

    Args:
        actor_network: An :class:`ERAActor`, in its network :class:`era_rl.networks.BatchNormMLP`.
        qvalue_network: Of one network, :class:`era_rl.torchrl.networks.Joined`, whose last layer is a
            :class:`era_rl.networks.CategoricalValue`.
        gamma: Discount.
        **kwargs: As SACERALoss's.

    Source: XQC, arXiv 2509.25174, without its entropy term. Rewards are to be scaled so that returns
    stay within the bins (:class:`era_rl.networks.RewardScale`).
    """

    __annotations__ = dict(SACLoss.__annotations__)

    def __init__(
        self, actor_network: Any, qvalue_network: Any, *, gamma: float, **kwargs: Any
    ) -> None:
        super().__init__(actor_network, qvalue_network, **kwargs)
        self.make_value_estimator(gamma=gamma)
        # held in __dict__: of these the modes are used, not the parameters
        body, value = deepcopy(qvalue_network.module)
        critic = _Logits(body, nn.Linear(value.in_features, value.out_features))
        acting = deepcopy(actor_network).eval()
        self.__dict__.update(_gamma=gamma, _acting=acting, _critic=critic)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode; the critics in L_pi have the running statistics in any."""
        super().train(mode)
        self.actor_network.train(mode)
        self._critic.train(mode)
        self.qvalue_network.train(False)
        return self

    def qvalue_v2_loss(self, tensordict: TensorDictBase) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_Q, and each transition's largest as its ``td_error`` (the host's hook)."""
        after = tensordict["next"].copy()
        z = self.qvalue_network_params["module", "1", "z"][0]
        with torch.no_grad():
            with set_exploration_type(ExplorationType.RANDOM):
                after = functional_call(self._acting, _by_name(self.actor_network_params), (after,))
            parts = [torch.cat([tensordict[k], after[k]]) for k in self.qvalue_network.in_keys]
            x = torch.cat(parts, dim=-1)
            rows = slice(len(after), None)
            following = self._logits(self.target_qvalue_network_params, x, rows)
            values = after["reward"] + self._gamma * ~after["terminated"] * z
            target = project_categorical(least_categorical(following, z), values, z)
        logits = self._logits(self.qvalue_network_params, x, slice(len(after)))
        loss = categorical_loss(logits, target)
        return loss.mean(1).sum(), {"td_error": loss.detach().amax(0)}

    def _logits(self, params: TensorDictBase, x: Tensor, rows: slice) -> Tensor:
        """Return each critic's logits, (critics, rows, bins), at some rows of x, (n, features)."""

        def of_one(params: TensorDictBase) -> Tensor:
            return functional_call(self._critic, _by_name(params), (x, rows))

        return torch.vmap(of_one)(params["module"])


class _Logits(nn.Sequential):
    """A body, whose batch statistics are those of all rows, and an output layer, of some."""

    def forward(self, input: Tensor, rows: slice) -> Tensor:
        return self[1](self[0](input)[rows])


def _by_name(params: TensorDictBase) -> dict[str, Tensor]:
    return params.flatten_keys(".").to_dict()


class DeltaLoss(LossModule):
    """The dual loss L(delta) = E_s[delta (H[pi(.|s)] - H0)] of the compensation in Eq. 11.

    H is the policy's own entropy, by closed form or quadrature. Its only parameter is delta: give
    ``parameters()`` to an optimizer and call :meth:`update_head` after each of its steps, which hands
    the new value, kept in the feasible range, to the actor. The floor then holds in expectation over
    the states trained on, not per state.

    Args:
        actor: An actor with ``floor="gaussian"`` or ``distribution="tanh"``.
        initial: Starting value of delta in nats.

    Raises:
        ValueError: If the actor has no Eq. 11, or ``initial`` is outside the feasible range.
    """

    def __init__(self, actor: ERAActor, *, initial: float = 0.0) -> None:
        super().__init__()
        head = actor.gaussian_head
        # held in __dict__, for the actor's parameters are not this loss's
        self.__dict__.update(actor=actor, head=head)
        target, highest = head.target_entropy, head.log_std_max
        delta = LearnedDelta(target, head.action_dim, log_std_max=highest, initial=initial)
        self.delta = delta.to(head.delta.device)
        # the network's: an entropy needs no noise
        self.in_keys, self.out_keys = list(actor[0].in_keys), ["loss_delta", "delta", "entropy"]
        self.update_head()

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return ``loss_delta``, ``delta`` and the mean ``entropy``, all scalars in nats."""
        with torch.no_grad():
            entropy = self.actor.entropy(tensordict.select(*self.in_keys))
        loss = self.delta.loss(entropy)
        return TensorDict({"loss_delta": loss, "delta": self.delta(), "entropy": entropy.mean()})

    @torch.no_grad()
    def update_head(self) -> None:
        """Clamp delta to its range and write it to the actor's head."""
        self.delta.project()
        self.head.delta.copy_(self.delta())
