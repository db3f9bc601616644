"""Eq. 11's compensation, learned beside any algorithm."""

import math
from typing import Any

import torch
from torch import Tensor

from era_rl.core import LearnedDelta
from era_rl.core.compensation import DELTA_LEARNING_RATE
from era_rl.core.head import as_number
from era_rl.sb3.base import ERAMixin


class LearnedDeltaMixin(ERAMixin):
    """Learns Eq. 11's compensation delta beside any algorithm, and logs and saves it."""

    def _setup_model(self) -> None:
        super()._setup_model()
        if self.learn_delta:
            head = self.era_policy.head
            self.delta_learner = LearnedDelta(
                self.target_entropy, head.action_dim, log_std_max=head.log_std_max
            ).to(self.device)
            self.delta_optimizer = torch.optim.SGD(
                self.delta_learner.parameters(), lr=DELTA_LEARNING_RATE
            )

    def _hold(self, target_entropy: float) -> None:
        if self.learn_delta:  # a higher floor leaves less room for delta
            learner = self.delta_learner
            learner.follow(as_number("target_entropy", target_entropy))
            if learner.delta_max >= 0.0:
                learner.project()
                self.era_policy.head.delta.copy_(learner())
        super()._hold(target_entropy)

    def _update_delta(self, entropy: Tensor) -> None:
        """Take one step of the dual loss at the given entropies, and hand delta to the head."""
        self.delta_learner.follow(self.target_entropy)
        self.delta_optimizer.zero_grad()
        self.delta_learner.loss(entropy).backward()
        self.delta_optimizer.step()
        self.delta_learner.project()
        self.era_policy.head.delta.copy_(self.delta_learner())

    @torch.no_grad()
    def _entropy(self, obs: Any, *memory: Any) -> Tensor:
        """Return the entropies at observations, without a trace in batch statistics."""
        policy: Any = self.era_policy  # a recurrent one takes the states of its memory
        policy.set_training_mode(False)
        return policy.entropy(obs, *memory)

    def set_parameters(self, *args: Any, **kwargs: Any) -> None:
        """Load parameters, and delta with the head's; arguments as SB3's."""
        super().set_parameters(*args, **kwargs)
        if self.learn_delta:
            with torch.no_grad():
                self.delta_learner.parameter.copy_(self.era_policy.head.delta)

    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Log the learned delta (SB3's hook)."""
        if self.learn_delta:
            delta = self.delta_learner().item()
            self.logger.record("train/delta", delta)
            saturated = math.isclose(delta, self.delta_learner.delta_max, rel_tol=1e-6)  # float32
            self.logger.record("train/delta_saturated", saturated)
        super().dump_logs(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "delta_learner", "delta_optimizer"]
