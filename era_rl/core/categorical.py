"""The numerical cores of the discrete ERA: the lower Lambert branch and the tempered logits.

Both are functions of tensors with a fixed number of steps and no branch on values. Each attaches its
implicit gradient with constant coefficients, so that it passes torch.func, torch.compile and export;
second derivatives are wrong.
"""

from typing import Any

import torch
from torch import Tensor

from era_rl.core.temperature import entropy_at, temperature


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

    Where beta < 1, d ln beta = -(dH0 + sum_j p_j (y_j - E[y]) dy_j) / Var(y), with y = beta logits and
    H0 the target. Under ``torch.no_grad`` there is no derivative, in forward mode neither.

    Args:
        logits: Shape (..., num_classes); -inf marks an impossible class, which no finite number does.
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
    # so low that no class is likelier by it, and its square and its inverse are numbers
    lowest = -(torch.finfo(logits.dtype).max ** 0.45)
    shifted = (logits - logits.amax(-1, keepdim=True)).clamp_min(lowest)
    target = target.unsqueeze(-1)
    # impossible classes get a finite stand-in where sums weight it by zero
    finite = torch.where(possible, shifted.detach(), 0.0)
    fixed = torch.where(possible, finite, -torch.inf)
    beta = temperature(fixed, finite, possible, target.detach())
    active = beta < 1.0
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    if not (torch.is_grad_enabled() or tracing):
        return torch.where(active & possible, beta * finite, logits)
    _, probs, centred = entropy_at(beta, fixed, finite)
    variance = (probs * centred * centred).sum(-1, keepdim=True)
    inverse = torch.where(active, 1.0 / variance.clamp_min(1e-30), 0.0)
    weights = probs * centred * inverse
    change = torch.where(possible, shifted - shifted.detach(), 0.0)
    log_beta_change = -(weights * beta * change).sum(-1, keepdim=True)
    # what is traced could not be saved with it
    if inequality and not tracing:
        log_beta_change = _Falling.apply(log_beta_change)
    log_beta_change = log_beta_change - inverse * (target - target.detach())
    scaled = beta * (finite + change) + beta * finite * log_beta_change
    # where the floor is met the logits pass unchanged, to the bit
    return torch.where(active & possible, scaled, logits)
