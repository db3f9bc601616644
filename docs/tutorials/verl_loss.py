"""A policy loss of verl with ERA's gradient: copy it, set the thresholds, and let verl import it."""

# --8<-- [start:loss]
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from era_llm import era_logps, era_scale, token_entropies, top_entropy_mean

LOW, HIGH = 0.45, 3.0  # nats; take yours from the initial model, see era-llm calibrate


class ERAPolicyLoss:
    """Two functions in the place of verl's: one keeps the logits that the other needs.

    verl packs sequences, scores their tokens, and gives a policy loss the log-probabilities alone,
    padded. Which packed row went where, the graph between the two knows.
    """

    def __init__(
        self,
        logprobs: Callable[..., Tensor],
        policy_loss: Callable[..., Any],
        low: float,
        high: float,
    ) -> None:
        """Take verl's two functions, and the thresholds in nats."""
        self.logprobs, self.host, self.thresholds = logprobs, policy_loss, (low, high)
        self.rows: tuple[Tensor, Tensor, Tensor] | None = None

    def logprobs_from_logits(
        self, logits: Tensor, labels: Tensor, inplace_backward: bool = True
    ) -> Tensor:
        """Return verl's log-probabilities, (rows,); in training keep them, the logits and labels."""
        if not torch.is_grad_enabled():
            return self.logprobs(logits, labels, inplace_backward)
        logp = self.logprobs(logits.detach(), labels, False).float().requires_grad_()
        self.rows = logits, labels, logp
        return logp

    def policy_loss(
        self, old_log_prob: Tensor, log_prob: Tensor, advantages: Tensor, response_mask: Tensor,
        loss_agg_mode: str = "token-mean", config: Any = None, rollout_is_weights: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:  # fmt: skip
        """Return verl's loss of log-probabilities (responses, time) that have ERA's gradient.

        Raises:
            RuntimeError: If the logits behind log_prob are not known.
            ValueError: If verl adds a KL term to the loss: it would have no gradient.
        """
        if getattr(config, "use_kl_loss", False):
            raise ValueError(
                "actor.use_kl_loss must be False with ERA: see algorithm.use_kl_in_reward"
            )
        kept, at, (logits, labels, logp) = self.rows_of(log_prob)

        def padded(values: Tensor) -> Tensor:
            return values.new_zeros(log_prob.numel()).index_copy(0, at, values).view_as(log_prob)

        entropies = padded(token_entropies(logits[kept]).float())
        h_resp = top_entropy_mean(entropies, response_mask)
        scale = era_scale(h_resp.unsqueeze(-1), advantages, *self.thresholds)
        own = era_logps(logits[kept], labels[kept], scale.flatten()[at])
        era = padded(logp.detach()[kept] + (own - own.detach()).float())
        loss, metrics = self.host(
            old_log_prob, era, advantages, response_mask, loss_agg_mode, config, rollout_is_weights
        )
        sharpened = (scale > 1).any(-1).float().mean().item()
        own_metrics = {
            "actor/era_h_resp": h_resp.nanmean().item(),
            "actor/era_sharpened": sharpened,
        }
        return loss, {**metrics, **own_metrics}

    def rows_of(self, log_prob: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return which packed rows are in log_prob, their places in it, and logits, labels and logp."""
        place, rows, self.rows = None, self.rows, None
        if rows is not None and log_prob.requires_grad:
            # d (sum_i i x_i) / d row of x is the place i of the row, 0 of those that are not in x
            count = torch.arange(1.0, log_prob.numel() + 1, device=log_prob.device)
            (place,) = torch.autograd.grad(
                log_prob, rows[2], count.view_as(log_prob), allow_unused=True
            )
        if rows is None or place is None:
            raise RuntimeError(
                "policy loss era needs logits: name this module in VERL_USE_EXTERNAL_MODULES, and set "
                "model.use_fused_kernels=False"
            )
        return place > 0, place[place > 0].long() - 1, rows


# --8<-- [end:loss]


# --8<-- [start:register]
def register(low: float, high: float) -> None:
    """Make "era" a policy loss of verl: its clipped loss ("vanilla") with ERA's gradient."""
    from verl.trainer.ppo.core_algos import get_policy_loss_fn, register_policy_loss
    from verl.utils import torch_functional

    host = torch_functional.logprobs_from_logits
    era = ERAPolicyLoss(host, get_policy_loss_fn("vanilla"), low, high)
    register_policy_loss("era")(era.policy_loss)
    torch_functional.logprobs_from_logits = era.logprobs_from_logits


if find_spec("verl") is not None:  # the tests of this repository run without it
    register(LOW, HIGH)
# --8<-- [end:register]
