"""A loss without an entropy term, and the dual loss of Eq. 11's compensation delta."""

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import dispatch
from torch import Tensor
from torchrl.objectives import LossModule, SACLoss

from era_rl.core import LearnedDelta
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
