"""The temperature at which logits have an entropy: a fixed number of steps, no branch on values."""

import torch
from torch import Tensor

from era_rl.core.truncation import LOG_TWO

_FEW_CLASSES = 64
_GRID = 16
"""Points at which few classes' entropies are looked at, at once."""
_STEPS = 32
"""Of many classes, which can lie on many different scales."""


def temperature(fixed: Tensor, finite: Tensor, possible: Tensor, target: Tensor) -> Tensor:
    """Return the largest beta <= 1, (..., 1), at which softmax(beta z) has the entropy, or just more.

    H falls monotonically with beta. Of two classes it is a function of the gap alone, else it is
    searched for within a bracket, which ends at a beta where the entropy was seen to be enough.

    Args:
        fixed: z less its largest, shape (..., num_classes); -inf marks an impossible class.
        finite: The same with 0 for impossible classes.
        possible: Which are not.
        target: H0 in nats, shape (..., 1), below the log of the number of possible classes.
    """
    finfo, classes = torch.finfo(fixed.dtype), fixed.shape[-1]
    # aimed a little above the floor, so that the iterates end on its safe side
    aim = torch.add(target, target.abs().clamp_min(1.0), alpha=8.0 * finfo.eps)
    spread = (-finite.amin(-1, keepdim=True)).clamp_min(finfo.tiny)
    if classes == 2:
        return (binary_gap(aim) / spread).clamp(finfo.tiny, 1.0)
    count = possible.sum(-1, keepdim=True, dtype=fixed.dtype)
    # p_max <= e^(beta spread) / n, so H >= ln n - beta spread: the floor surely holds at this beta
    low = ((count.log() - target) / spread).clamp(finfo.tiny, 1.0)
    search = _few_classes if classes <= _FEW_CLASSES else _many_classes
    return search(fixed, finite, target, aim, low)


def binary_gap(entropy: Tensor) -> Tensor:
    """Return the gap x >= 0 between two logits whose softmax has the entropy h.

    x = ln((1 - q) / q), with -q ln q - (1 - q) ln(1 - q) = h of the smaller share q. The start,
    4 q (1 - q) = (h / ln 2)^(ln 4), is below q (Topsoe, Journal of Inequalities in Pure and Applied
    Mathematics 2(2), 2001), and the entropy is concave in q, so that Newton steps rise to q and never
    pass it: two end at most 3.6e-7 nats below h (float32), four 2e-16 (float64).

    Args:
        entropy: h in nats, below ln 2, any shape; 0 gives inf.

    Returns:
        Gaps, the shape of ``entropy``.
    """
    eps = torch.finfo(entropy.dtype).eps
    entropy = entropy.clamp_max((1.0 - 4.0 * eps) * LOG_TWO)  # at ln 2 the slope is 0
    x = (entropy / LOG_TWO) ** (2.0 * LOG_TWO)
    share = 0.5 * x / (1.0 + (1.0 - x).sqrt())
    for _ in range(4 if entropy.dtype == torch.float64 else 2):
        rest = 1.0 - share
        missing = entropy + torch.xlogy(share, share) + torch.xlogy(rest, rest)
        share = torch.addcdiv(share, missing, share.logit(), value=-1.0)
    return -share.logit()


def _few_classes(fixed: Tensor, finite: Tensor, target: Tensor, aim: Tensor, low: Tensor) -> Tensor:
    """Return beta by the entropy on grids in ln beta, then Newton steps on ln H within one interval.

    On few classes the number of operations is what costs, not their size. Two grids leave 1/256 of
    [ln low, 0], within which H is as smooth as the steps need.
    """
    part, points = 1.0, torch.arange(1, _GRID + 1, dtype=low.dtype, device=low.device)
    power = torch.ones_like(low)  # beta = low^power
    for _ in range(2):
        part /= _GRID
        powers = torch.sub(power, points, alpha=part).clamp_min(0.0)
        entropy = _summed_entropy(((low**powers).unsqueeze(-1) * fixed.unsqueeze(-2)).softmax(-1))
        power = torch.where(entropy >= target, powers, power).amin(-1, keepdim=True)
    beta = safe = low**power
    high = low ** (power - part).clamp_min(0.0)
    for _ in range(5 if low.dtype == torch.float64 else 3):
        probs = (beta * fixed).softmax(-1)
        entropy = _summed_entropy(probs).unsqueeze(-1)
        # steps on a concave function end below the aim, by rounding below the target at times
        safe = torch.where(entropy >= target, beta, safe)
        weights = probs * finite
        variance = (weights * (finite - weights.sum(-1, keepdim=True))).sum(-1, keepdim=True)
        change = entropy * (entropy / aim).log()
        beta = torch.addcdiv(beta, change, beta * variance).clamp(safe, high)
    entropy = _summed_entropy((beta * fixed).softmax(-1)).unsqueeze(-1)
    return torch.where(entropy >= target, beta, safe)


def _summed_entropy(probs: Tensor) -> Tensor:
    return -torch.xlogy(probs, probs).sum(-1)


def _many_classes(
    fixed: Tensor, finite: Tensor, target: Tensor, aim: Tensor, low: Tensor
) -> Tensor:
    """Return beta by Newton steps on ln H, in turn with bisections of ln beta."""
    aim = aim.log()
    high = torch.ones_like(low)
    beta = high
    for step in range(_STEPS):
        entropy, probs, centred = entropy_at(beta, fixed, finite)
        safe = entropy >= target
        low = torch.where(safe, beta, low)
        high = torch.where(safe, high, beta)
        middle = torch.sqrt(low) * torch.sqrt(high)
        # H has plateaus where logits differ in scale; there Newton crawls, so bisect in turn first
        if step % 2 == 1 and step <= _STEPS // 2:
            beta = middle
            continue
        slope = -(probs * centred * finite).sum(-1, keepdim=True)
        newton = beta - entropy * (entropy.log() - aim) / slope
        beta = torch.where((newton > low) & (newton < high), newton, middle)
    return low


def entropy_at(beta: Tensor, fixed: Tensor, finite: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return H, p and y - E[y] of softmax(y), y = beta logits."""
    weights = (beta * fixed).exp()
    total = weights.sum(-1, keepdim=True)
    probs, y = weights / total, beta * finite
    mean = (probs * y).sum(-1, keepdim=True)
    return total.log() - mean, probs, y - mean
