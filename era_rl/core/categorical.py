"""The numerical cores of the discrete ERA: the lower Lambert branch and the temperature solve.

Both are functions of tensors with a fixed number of steps and no branch on values. Each attaches its
implicit gradient with constant coefficients, so that it passes torch.func, torch.compile and export;
second derivatives are wrong.
"""

from typing import Any

import torch
from torch import Tensor

# enough for 1e-6 nats at logits of any usual scale; more classes can lie on more different scales
_TEMPERATURE_STEPS = 24
_TEMPERATURE_STEPS_MANY_CLASSES = 32
_MANY_CLASSES = 64


def lambert_lower(kappa: Tensor) -> Tensor:
    """Return z = W_-1(-kappa), the solution of z e^z = -kappa with z <= -1.

    With t = -1 - ln kappa and y = -1 - z the equation reads y - ln(1 + y) = t: a start accurate in
    both limits and two Halley steps reach 6e-16 (float64), 4e-7 (float32). dz/dkappa =
    z / ((1 + z) kappa).

    Args:
        kappa: Values in (0, 1/e], any shape.

    Returns:
        Values in (-inf, -1], the shape of ``kappa``.
    """
    fixed = kappa.detach()
    t = (-1.0 - fixed.log()).clamp_min(0.0)
    y = torch.sqrt(2.0 * t) + 0.75 * t
    for _ in range(2):
        g = y - torch.log1p(y) - t
        y = y - 2.0 * g * y * (1.0 + y) / (2.0 * y * y - g).clamp_min(1e-30)
    z = -1.0 - y
    # at kappa = 1/e the slope is infinite; there dkappa/dlogits vanishes faster
    return z + z / ((1.0 + z).clamp_max(-1e-3) * fixed) * (kappa - fixed)


def lambert_lower_approximation(kappa: Tensor) -> Tensor:
    """Return the paper's closed form for W_-1(-kappa), -1/4 - sqrt(2 (-1 - ln kappa)) + 3/4 ln kappa.

    At kappa = 1e-3 z is 0.25 high (e^z 28%), more so at smaller kappa; above kappa = 0.059 e^z is up
    to 1.9% low. Small probabilities rise and large ones fall: it errs on the side of more entropy.
    """
    log_kappa = kappa.log()
    # the clamp keeps the slope of the square root finite at kappa = 1/e
    t = (-1.0 - log_kappa).clamp_min(torch.finfo(kappa.dtype).eps)
    return -0.25 - torch.sqrt(2.0 * t) + 0.75 * log_kappa


class _Falling(torch.autograd.Function):
    """The identity, whose derivative is the incoming one where that is negative, else 0."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient.clamp_max(0.0)


def temperature_logits(logits: Tensor, target: Tensor, *, inequality: bool = False) -> Tensor:
    """Return beta logits with the largest beta <= 1 at which H(softmax(beta logits)) >= target.

    H falls monotonically with beta. Newton steps on ln H, safeguarded by a bracket that is bisected
    in ln beta, end at the side where the entropy was seen to be at least the target. Where beta < 1,
    d ln beta = -(dH0 + sum_j p_j (y_j - E[y]) dy_j) / Var(y), with y = beta logits and H0 the target.

    Args:
        logits: Shape (..., num_classes); -inf marks an impossible class.
        target: Entropy in nats, shape (...), below the log of the number of possible classes.
        inequality: Whether beta counts as a constant, in the derivative by the logits, where a loss
            falls as beta falls. There descent raises the entropy and leaves the floor, which the exact
            derivative, of the equation H = target, rules out: of two classes the one ahead, and with
            it softmax(beta logits), could never change.

    Returns:
        Logits of the same shape, -inf where they were: beta (logits - max logits) where beta < 1,
        the logits themselves elsewhere.
    """
    possible = logits.detach() > -torch.inf
    shifted = logits - logits.amax(-1, keepdim=True)
    # impossible classes get a finite stand-in; every sum below weights it by zero
    fixed = torch.where(possible, shifted.detach(), 0.0)
    target = target.unsqueeze(-1)
    beta = _temperature(fixed, possible, target.detach())
    _, probs, centred = _entropy_at(beta, fixed, possible)
    variance = (probs * centred * centred).sum(-1, keepdim=True)
    active = beta < 1.0
    inverse = torch.where(active, 1.0 / variance.clamp_min(1e-30), 0.0)
    weights = probs * centred * inverse
    change = torch.where(possible, shifted - shifted.detach(), 0.0)
    log_beta_change = -(weights * beta * change).sum(-1, keepdim=True)
    # what is traced could not be saved with it
    if inequality and not torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage]
        log_beta_change = _Falling.apply(log_beta_change)
    log_beta_change = log_beta_change - inverse * (target - target.detach())
    scaled = beta * (fixed + change) + beta * fixed * log_beta_change
    # where the floor is met the logits pass unchanged, to the bit
    return torch.where(active & possible, scaled, logits)


def _temperature(fixed: Tensor, possible: Tensor, target: Tensor) -> Tensor:
    """Return beta, shape (..., 1), between 0 and 1, with H(beta) at or just above the target."""
    finfo = torch.finfo(fixed.dtype)
    # aimed a little above the floor, so that the iterates end on its safe side
    aim = (target + 8.0 * finfo.eps * target.abs().clamp_min(1.0)).log()
    count = possible.sum(-1, keepdim=True).to(fixed.dtype)
    # p_max <= e^(beta spread) / n, so H >= ln n - beta spread: the floor surely holds at this beta
    spread = (-fixed.amin(-1, keepdim=True)).clamp_min(finfo.tiny)
    low = ((count.log() - target) / spread).clamp(finfo.tiny, 1.0)
    high = torch.ones_like(low)
    beta = high
    steps = (
        _TEMPERATURE_STEPS if fixed.shape[-1] <= _MANY_CLASSES else _TEMPERATURE_STEPS_MANY_CLASSES
    )
    for step in range(steps):
        entropy, probs, centred = _entropy_at(beta, fixed, possible)
        safe = entropy >= target
        low = torch.where(safe, beta, low)
        high = torch.where(safe, high, beta)
        middle = torch.sqrt(low) * torch.sqrt(high)
        # H has plateaus where logits differ in scale; there Newton crawls, so bisect in turn first
        if step % 2 == 1 and step <= steps // 2:
            beta = middle
            continue
        slope = -(probs * centred * fixed).sum(-1, keepdim=True)
        newton = beta - entropy * (entropy.log() - aim) / slope
        beta = torch.where((newton > low) & (newton < high), newton, middle)
    return low


def _entropy_at(beta: Tensor, fixed: Tensor, possible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return H, p and y - E[y] of softmax(y), y = beta logits."""
    y = beta * fixed
    weights = torch.where(possible, y.exp(), 0.0)
    total = weights.sum(-1, keepdim=True)
    probs = weights / total
    mean = (probs * y).sum(-1, keepdim=True)
    return total.log() - mean, probs, y - mean
