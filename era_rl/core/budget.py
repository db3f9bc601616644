"""Shares of an entropy budget, each at most a cap, so that every dimension keeps some noise."""

import torch
from torch import Tensor


def capped_softmax(logits: Tensor, cap: float | Tensor, free_logit: Tensor | None = None) -> Tensor:
    """Return shares of 1 in proportion to exp(logits) as far as none exceeds ``cap``.

    w_i = min(c p_i, cap), p = softmax(z), with the c at which they sum to one: the softmax itself where
    that stays under the cap. With the n largest shares at the cap, c_n = (1 - n cap) / (the sum of the
    other p_j). The sum of min(c p_i, cap) is the least, over n, of lines in c, so the c sought is the
    largest c_n: exact, without iterations. What is left to the others is shared by their own softmax,
    whose derivative is finite however far below the capped ones they are.

    Args:
        logits: z, shape (..., action_dim).
        cap: The largest share; at least 1 / action_dim, unless there is a free logit.
        free_logit: Logit of a further share that has no cap, shape (..., 1); its share is not returned.

    Returns:
        w, shape (..., action_dim). They sum to one up to rounding; with a free logit, to one less its
        share.
    """
    if isinstance(cap, Tensor):
        cap = cap.to(logits.dtype)
    with torch.no_grad():
        capped = _is_capped(logits, cap, free_logit)
    left = (1.0 - cap * capped.to(logits.dtype).sum(-1, keepdim=True)).clamp_min(0.0)
    others = torch.where(capped, torch.finfo(logits.dtype).min, logits)
    joined = others if free_logit is None else torch.cat([others, free_logit], dim=-1)
    # the clamp takes away what rounding may leave above the cap
    shares = (left * joined.softmax(-1)[..., : logits.shape[-1]]).clamp_max(cap)
    return torch.where(capped, cap, shares)


def _is_capped(logits: Tensor, cap: float | Tensor, free_logit: Tensor | None) -> Tensor:
    """Return where c p_i > cap: pairs of dimensions are compared, since a sort costs more."""
    ahead = logits.unsqueeze(-2) - logits.unsqueeze(-1)  # z_j - z_i, as p may underflow
    ahead = ahead.clamp_max(torch.finfo(logits.dtype).max)
    rest = torch.where(ahead > 0.0, 0.0, ahead.exp()).sum(-1)
    if free_logit is not None:
        rest = rest + (free_logit - logits).exp()
    left = 1.0 - cap * (ahead > 0.0).to(logits.dtype).sum(-1)
    # ln (c_n p_j) of each n; what is not positive is no c
    log_shares = ((left.clamp_min(0.0) / rest).log().unsqueeze(-1) + ahead).amax(-2)
    if free_logit is not None:  # with every dimension at its cap, the free share is what is left
        room = torch.zeros_like(logits) + 1.0 - cap * logits.shape[-1]
        log_shares = torch.maximum(log_shares, room.clamp_min(0.0).log() + logits - free_logit)
    return log_shares.exp() > cap
