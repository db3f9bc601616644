"""Shares of an entropy budget, each at most a cap, so that every dimension keeps some noise."""

import torch
from torch import Tensor


def capped_softmax(logits: Tensor, cap: float | Tensor, free_logit: Tensor | None = None) -> Tensor:
    """Return shares of 1 in proportion to exp(logits) as far as none exceeds ``cap``.

    w_i = min(c p_i, cap), p = softmax(z), with the c at which they sum to one: the softmax itself where
    that stays under the cap. With the n largest shares at the cap, c_n = (1 - n cap) / (the sum of the
    other p_j). The sum of min(c p_i, cap) is the least, over n, of lines in c, so the c sought is the
    largest c_n: exact, without iterations. Probabilities below the smallest normal number count as it.

    Args:
        logits: z, shape (..., action_dim).
        cap: The largest share; at least 1 / action_dim, unless there is a free logit.
        free_logit: Logit of a further share that has no cap, shape (..., 1); its share is not returned.

    Returns:
        w, shape (..., action_dim). They sum to one up to rounding; with a free logit, to one less its
        share.
    """
    count, tiny = logits.shape[-1], torch.finfo(logits.dtype).tiny
    joined = logits if free_logit is None else torch.cat([logits, free_logit], dim=-1)
    probs, free = joined.softmax(-1).clamp_min(tiny).tensor_split((count,), dim=-1)
    capped = _largest_factor(probs.detach(), cap, free.detach()) * probs.detach() > cap
    number = capped.to(logits.dtype).sum(-1, keepdim=True)
    rest = torch.where(capped, 0.0, probs).sum(-1, keepdim=True) + free.sum(-1, keepdim=True)
    factor = torch.where(number > 0.0, (1.0 - cap * number) / rest.clamp_min(tiny), 1.0)
    # the clamp takes away what rounding may leave above the cap
    return torch.where(capped, cap, (factor * probs).clamp_max(cap))


def _largest_factor(probs: Tensor, cap: float | Tensor, free: Tensor) -> Tensor:
    """Return c, shape (..., 1): pairs of dimensions are compared, since a sort costs more."""
    each, other = probs.unsqueeze(-1), probs.unsqueeze(-2)
    rest = torch.where(other <= each, other, 0.0).sum(-1) + free.sum(-1, keepdim=True)
    number = (other > each).to(probs.dtype).sum(-1)
    factors = (1.0 - cap * number) / rest
    # with every dimension at its cap, the free share is what is left
    all_capped = (1.0 - cap * probs.shape[-1]) / free
    return torch.cat([factors, all_capped], dim=-1).amax(-1, keepdim=True)
