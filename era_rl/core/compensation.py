"""The paper's compensation delta for the entropy that bounding a Gaussian policy costs.

With Eq. 11 the policy's own entropy is H0 + delta less a bias that depends on the state. A constant
delta cannot be both safe and tight; a learned one meets the floor in expectation only. The exact
floor (:func:`truncated_normal_era`) needs neither.
"""

import torch
from torch import Tensor, nn

from era_rl.core.feasibility import LOWEST_ENTROPY, check_count, check_log_std_max
from era_rl.core.truncation import GAUSSIAN_CONSTANT

DELTA_LEARNING_RATE = 0.05
"""Step of the dual ascent delta += rate (H0 - E[H]). Both sides are in nats, whatever the task, and
dE[H]/ddelta is at most 1, so that one rate fits all; Adam's steps of a fixed size would oscillate."""


def delta_loss(delta: Tensor, entropy: Tensor, target_entropy: float | Tensor) -> Tensor:
    """Return the dual loss L(delta) = E_s[delta (H[pi(.|s)] - H0)], the entropies held constant.

    Args:
        delta: Scalar compensation in nats.
        entropy: Policy entropies H[pi(.|s)] in nats, one a state, shape (...).
        target_entropy: H0 in nats.

    Returns:
        Scalar loss; minimising it raises delta while the mean entropy is below H0.
    """
    return delta * (entropy.detach() - target_entropy).mean()


class LearnedDelta(nn.Module):
    """A learned compensation, kept in the range in which Eq. 11 is feasible.

    delta = clamp(parameter, 0, delta_max), with delta_max = D (log_std_max + ln(2 pi e) / 2) - H0.
    Call :meth:`project` after each optimizer step, so that the parameter does not wind up beyond
    the range.

    Args:
        target_entropy: H0 in nats.
        action_dim: D.
        log_std_max: Upper bound of log_std.
        initial: Starting value in nats.

    Raises:
        ValueError: If ``initial`` is outside [0, delta_max], or another argument outside its range.
    """

    def __init__(
        self,
        target_entropy: float,
        action_dim: int,
        *,
        log_std_max: float = 0.0,
        initial: float = 0.0,
    ) -> None:
        super().__init__()
        check_count("action_dim", action_dim)
        check_log_std_max(log_std_max)
        self._highest = action_dim * (log_std_max + GAUSSIAN_CONSTANT)
        self.follow(target_entropy)
        if not (0.0 <= initial <= self.delta_max and target_entropy > LOWEST_ENTROPY):
            raise ValueError(
                f"initial={initial} must be in [0, {self.delta_max:.6g}] nats, with "
                f"target_entropy={target_entropy} and log_std_max={log_std_max}"
            )
        self.parameter = nn.Parameter(torch.tensor(float(initial)))

    def follow(self, target_entropy: float) -> None:
        """Take another floor for that to be met, and with it another range."""
        self.target_entropy = target_entropy
        # a little less, so that H0 + delta is feasible when delta is rounded to float32
        self.delta_max = (self._highest - target_entropy) * (1.0 - 2.0**-23)

    def forward(self) -> Tensor:
        """Return delta, a scalar in [0, delta_max], detached: only :meth:`loss` trains it."""
        return self.parameter.detach().clamp(0.0, self.delta_max)

    def loss(self, entropy: Tensor) -> Tensor:
        """Return the dual loss for the given policy entropies (see :func:`delta_loss`)."""
        return delta_loss(self.parameter, entropy, self.target_entropy)

    @torch.no_grad()
    def project(self) -> None:
        """Clamp the parameter to [0, delta_max] in place."""
        self.parameter.clamp_(0.0, self.delta_max)
