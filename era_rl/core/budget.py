"""Shares of an entropy budget, each at most a cap, so that every dimension keeps some noise."""

import math
from typing import Any

import torch
from torch import Tensor


def capped_softmax(logits: Tensor, cap: float | Tensor, free_logit: Tensor | None = None) -> Tensor:
    """Return shares of 1 in proportion to exp(logits) as far as none exceeds ``cap``.

    w_i = min(c p_i, cap), p = softmax(z), with the c at which they sum to one: the softmax itself where
    that stays under the cap; exact, without iterations. What those at the cap leave is shared by the
    softmax of the others. Where one of these is in turn further ahead than the dtype's exponents reach
    (87 nats in float32, 708 in float64), what its cap leaves goes to all below the cap in proportion to
    their distance from it. There is no derivative in forward mode, and vmap of grad does not compile.

    Args:
        logits: z, shape (..., action_dim).
        cap: The largest share; at least 1 / action_dim, unless there is a free logit.
        free_logit: Logit of a further share that has no cap, shape (..., 1); its share is not returned.

    Returns:
        w, shape (..., action_dim). They sum to one up to rounding; with a free logit, to one less its
        share.
    """
    joined = logits if free_logit is None else torch.cat([logits, free_logit], dim=-1)
    count, dtype = logits.shape[-1], logits.dtype
    cap = cap.to(dtype) if isinstance(cap, Tensor) else logits.new_full((), cap)
    # traced, a function of its own could not be saved
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    shares = _CappedSoftmax.forward if tracing else _CappedSoftmax.apply
    return shares(joined, cap, count)[..., :count]


class _CappedSoftmax(torch.autograd.Function):
    """All shares, the first ``count`` of them capped; dw is the softmax's among those below the cap.

    Written down, it needs the shares alone: compiled, what autograd would keep costs more than they.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, cap: Tensor, count: int) -> Tensor:
        """Return w.

        sum_j min(c p_j, cap) + c p_0 rises with c, to one at the c that is sought, so share i is capped
        if that is below one where it just reaches its cap, c = cap / p_i: if
        cap (sum_j min(p_j, p_i) + p_0) < p_i. All pairs are compared, since a sort costs more.
        """
        info = torch.finfo(logits.dtype)
        ahead = logits - logits.amax(-1, keepdim=True)
        probs, free = ahead.clamp_min(math.log(info.tiny)).exp().tensor_split((count,), dim=-1)
        least = torch.minimum(probs.unsqueeze(-1), probs.unsqueeze(-2)).sum(-1)
        least = least + free.sum(-1, keepdim=True)
        # compiled, numbers cost less from pass to pass than masks
        over = torch.nn.functional.pad((cap * least < probs).to(logits.dtype), (0, free.shape[-1]))
        left = (1.0 - cap * over.sum(-1, keepdim=True)).clamp_min(0.0)
        others = left * torch.where(over > 0.0, info.min, ahead).softmax(-1)
        # the minima take away what rounding may leave above the cap
        shares, free = others.tensor_split((count,), dim=-1)
        shares = torch.where(over[..., :count] > 0.0, cap, torch.minimum(shares, cap))
        total = shares.sum(-1, keepdim=True)
        lost = 1.0 - total - free.sum(-1, keepdim=True)
        lost = torch.where(lost > 8.0 * info.eps, lost / (cap * count - total), 0.0)
        shares = torch.minimum(shares + lost * (cap - shares), cap)
        return torch.cat([shares, free], dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])
        ctx.count = inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        shares, cap = ctx.saved_tensors
        capped, free = shares.tensor_split((ctx.count,), dim=-1)
        below = torch.cat([(capped < cap).to(shares.dtype), torch.ones_like(free)], dim=-1)
        moving = below * shares
        total = moving.sum(-1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)
        centred = gradient - (moving * gradient).sum(-1, keepdim=True) / total
        return moving * centred, ((1.0 - below) * centred).sum_to_size(cap.shape), None
