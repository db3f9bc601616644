"""ERA for policy-gradient updates of language models, as pure functions of tensors.

For one token with logits z, sampled token y and advantage A > 0 the paper replaces the logits by
s z and the advantage by A / s, with s = k for a response of too low an entropy and s = 1/k for one
of too high an entropy. On-policy its gradient is A (e_y - softmax(s z)): only the backward pass
differs from the plain one. So here log pi keeps its value, and with it ratios, clipping and
importance weights keep their meaning; only its gradient changes:

    logp_era = sg(logp) + (logp_s - sg(logp_s)) / s,    logp_s = log softmax(s z)[y]

sg stops the gradient. Read as an objective, A log pi(y) + A KL(sg(p_s) || pi): the plain objective
and an adaptive divergence from the sharpened (or flattened) policy. Sampling is never touched.

In a training loop in plain PyTorch (logits of a forward pass under the sampling temperature):

>>> import torch
>>> torch.manual_seed(0)                                                    # doctest: +ELLIPSIS
<torch._C.Generator object at ...>
>>> logits = torch.randn(4, 8, 11, requires_grad=True)      # (responses, time, vocabulary)
>>> tokens = torch.randint(11, (4, 8))                      # the sampled tokens
>>> mask = torch.ones(4, 8, dtype=torch.bool)               # False at padding and tool output
>>> advantages = torch.tensor([1.0, 0.5, -0.5, -1.0])
>>> entropies = token_entropies(logits)
>>> h_resp = top_entropy_mean(entropies, mask)
>>> scale = era_scale(h_resp, advantages, low=0.45, high=2.0)
>>> scale
tensor([0.5000, 0.5000, 1.0000, 1.0000])
>>> logps = era_logps(logits, tokens, scale)
>>> old_logps = logps.detach()                              # or those stored at sampling time
>>> ratio = (logps - old_logps).exp()
>>> clipped = ratio.clamp(0.8, 1.2)
>>> weighted = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
>>> loss = -(weighted * mask).sum() / mask.sum()
>>> loss.backward()

Source: "Entropy Regularizing Activation", arXiv 2510.08549, the section on language models.
Entropies are in nats.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

Tokens = Literal["top", "bottom", "random"]
ApplyTo = Literal["response", "forking"]
MOST = 1e6
"""The largest k: long before, softmax(k z) has one token; beyond, float32 loses log p_s, then k z."""


def token_entropies(logits: Tensor) -> Tensor:
    """Return the entropy of each next-token distribution, H = -sum_v p_v log p_v, without gradient.

    Args:
        logits: Next-token logits, shape (..., vocabulary).

    Returns:
        Entropies in nats, shape (...).
    """
    logp = logits.detach().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def select_tokens(
    entropies: Tensor, mask: Tensor, ratio: float = 0.2, tokens: Tokens = "top",
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Choose floor(ratio n) of the n unmasked tokens of each response, at least one.

    "top" takes those of highest entropy (the paper's forking tokens). "bottom" and "random" are
    there for failure injection. An empty response selects nothing.

    Args:
        entropies: Token entropies in nats, shape (responses, time).
        mask: True or 1 where a token counts, same shape.
        ratio: Share of the tokens, in (0, 1].
        tokens: "top", "bottom" or "random".
        generator: Source of the random choice; the default generator of the device if None.

    Returns:
        Boolean selection, shape (responses, time).

    Raises:
        ValueError: If ratio lies outside (0, 1] or tokens is not one of the three.
    """
    check_selection(ratio, tokens)
    valid = mask.bool()
    length = valid.sum(-1, keepdim=True)
    # The small term keeps products such as 0.2 * 15, a hair under 3 in some precisions, whole.
    count = (length.double() * ratio + 1e-9).floor().long().clamp(min=1)
    if tokens == "random":
        score = torch.rand(entropies.shape, generator=generator, device=entropies.device)
    else:
        score = entropies.detach().float() * (1.0 if tokens == "top" else -1.0)
    order = score.masked_fill(~valid, float("-inf")).argsort(dim=-1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(order.size(-1), device=order.device).expand_as(order)
    )
    return (rank < count) & valid


def top_entropy_mean(
    entropies: Tensor, mask: Tensor, ratio: float = 0.2, tokens: Tokens = "top",
    generator: torch.Generator | None = None, cu_seqlens: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Return H_resp, the mean entropy of the selected tokens of each response.

    Args:
        entropies: Token entropies in nats, shape (responses, time), or (rows,) if packed.
        mask: True or 1 where a token counts, same shape.
        ratio: Share of the tokens, in (0, 1].
        tokens: Which tokens to take, see `select_tokens`.
        generator: Source of the random choice.
        cu_seqlens: Of packed rows, 0 and the row after each sequence, as flash attention takes them.

    Returns:
        H_resp in nats, shape (responses,); NaN for an empty response, which no threshold scales.

    Raises:
        ValueError: As `select_tokens`, or if cu_seqlens does not end with the number of rows.
    """
    if cu_seqlens is not None:
        entropies, mask = (_unpacked(values, cu_seqlens) for values in (entropies, mask))
    return selected_mean(entropies, select_tokens(entropies, mask, ratio, tokens, generator))


def selected_mean(values: Tensor, selection: Tensor) -> Tensor:
    """Return the mean of each row over a boolean selection, both (responses, time).

    In float32 or wider, (responses,), without gradient; NaN where the selection is empty.
    """
    wide = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    return wide.masked_fill(~selection, 0.0).sum(-1) / selection.sum(-1)


def era_scale(
    h_resp: Tensor, advantages: Tensor, low: float = 0.45, high: float = 3.0, k: float = 2.0
) -> Tensor:
    """Return the logit scale s: k where A > 0 and H < low, 1/k where A > 0 and H > high, else 1.

    Args:
        h_resp: Response entropies in nats, any shape that broadcasts with the advantages.
        advantages: Advantages of the responses; those at most 0 are never scaled.
        low: Entropy under which the update is computed on sharpened logits, which raises entropy.
        high: Entropy above which it is computed on flattened logits, which lowers entropy.
        k: Factor of the logits, above 1 and at most 1e6.

    Returns:
        Scales, in the broadcast shape and the dtype of h_resp.

    Raises:
        ValueError: If k is not in (1, 1e6] or low is not below high.
    """
    check_thresholds(low, high, k)
    positive = advantages > 0
    one = torch.ones_like(h_resp)
    scale = torch.where(positive & (h_resp < low), one * k, one)
    return torch.where(positive & (h_resp > high), one * (1 / k), scale)


def straight_through(
    logp: Tensor, logp_scaled: Tensor, scale: Tensor, advantage_scale: bool = True
) -> Tensor:
    """Return log-probabilities with the value of log pi and the gradient of ERA.

    sg(logp) + (logp_s - sg(logp_s)) / s, or without the division if advantages are not scaled.

    Args:
        logp: log pi(y), shape (responses, time).
        logp_scaled: log softmax(s z)[y], same shape, with gradient.
        scale: s for each response, (responses,), or each token, (responses, time).
        advantage_scale: Whether the update carries the paper's A / s; the default.

    Returns:
        Shape (responses, time).
    """
    gradient = logp_scaled - logp_scaled.detach()
    return logp.detach() + (gradient / _per_token(scale, logp) if advantage_scale else gradient)


def era_logps(
    logits: Tensor, targets: Tensor, scale: Tensor, advantage_scale: bool = True
) -> Tensor:
    """Return log pi(y) with the gradient of ERA, from logits: d/dz = e_y - softmax(s z).

    Use it wherever a loop takes the log-probabilities of sampled tokens and leave the advantages
    as they are. Off-policy, keep the scale of the first pass over a response.

    Args:
        logits: Next-token logits under the sampling temperature, (responses, time, vocabulary).
        targets: Sampled tokens, (responses, time).
        scale: s for each response or token, from `era_scale`.
        advantage_scale: As in `straight_through`.

    Returns:
        Shape (responses, time).
    """
    scaled = selected_logps(logits * _per_token(scale, targets).unsqueeze(-1), targets)
    return straight_through(
        selected_logps(logits.detach(), targets), scaled, scale, advantage_scale
    )


def era_reference(
    reference: Tensor, logp: Tensor, logp_plain: Tensor, bias_correction: bool = False
) -> Tensor:
    """Return reference log-probabilities that leave a KL penalty the gradient of the plain policy.

    A loss that adds exp(ref - logp) - (ref - logp) - 1 to a policy term, both of logp with the
    gradient of ERA, is given ref + f (logp - logp_plain): of the value of ref, since both are, and
    with f = 1 of the gradient that moves logp in ref - logp to logp_plain. Where that term is
    multiplied by the importance ratio, exp(logp - sg(logp)), the ratio has ERA's gradient too, and
    f = d / (exp(d) - 1) with d = ref - logp makes up for both.

    Args:
        reference: Log-probabilities of the reference policy, (responses, time).
        logp: Log-probabilities with the gradient of ERA, from `era_logps`, same shape.
        logp_plain: The same with their plain gradient.
        bias_correction: Whether the penalty is multiplied by the importance ratio of its token.

    Returns:
        Shape (responses, time).
    """
    gap = logp - logp_plain
    if bias_correction:
        d = (reference - logp).detach()
        gap = gap * torch.where(d == 0, 1.0, d / torch.expm1(d))
    return reference + gap


def approximate_era_advantages(advantages: Tensor, logp: Tensor, logp_scaled: Tensor) -> Tensor:
    """Return A (2 - p_s(y) / p(y)), an approximate ERA for loops that never see logits.

    Unbiased over y only where A does not depend on y given the state, and noisier than `era_logps`.
    For k = 2 a kernel that returns log sum_v p_v^2 gives logp_s = 2 logp - log sum_v p_v^2.

    Args:
        advantages: Advantages, (responses, time) or any shape that broadcasts with it.
        logp: log pi(y), (responses, time).
        logp_scaled: log softmax(s z)[y], same shape.

    Returns:
        Advantages to use with the plain log-probabilities, without gradient.
    """
    return (advantages * (2.0 - (logp_scaled - logp).exp())).detach()


def selected_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """Return log softmax(logits)[targets], (...), of logits (..., vocabulary) and targets (...)."""
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)


def _unpacked(values: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Return packed values, (rows,), as (sequences, longest), with zeros behind the shorter ones."""
    starts, ends = cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist()
    if not ends or starts[0] != 0 or ends[-1] != len(values):
        raise ValueError(f"cu_seqlens must go from 0 to {len(values)}, got {cu_seqlens.tolist()}")
    parts = [values[start:end] for start, end in zip(starts, ends, strict=True)]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)


def check_thresholds(low: float, high: float, k: float) -> None:
    """Raise ValueError unless 1 < k <= 1e6 and low < high."""
    if not 1 < k <= MOST:
        raise ValueError(f"k must be above 1 and at most {MOST:g}, got {k}")
    if not low < high:
        raise ValueError(f"low must be below high, got low={low}, high={high}")


def check_selection(ratio: float, tokens: str) -> None:
    """Raise ValueError unless 0 < ratio <= 1 and tokens is "top", "bottom" or "random"."""
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must lie in (0, 1], got {ratio}")
    if tokens not in get_args(Tokens):
        raise ValueError(f"tokens must be one of {get_args(Tokens)}, got {tokens!r}")


def _per_token(values: Tensor, like: Tensor) -> Tensor:
    """Give per-response values (responses,) a time axis to broadcast along."""
    return values if values.dim() == like.dim() else values.unsqueeze(-1)
