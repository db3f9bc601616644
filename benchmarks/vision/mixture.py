"""A third head with the same guarantee, for comparison alone: mixed with the uniform distribution."""

import math

import torch
from torch import Tensor

from era_rl.core import categorical_entropy
from era_vision import ERAHead, Trainer


class MixtureHead(ERAHead):
    """Logits ln((1 - eps) p + eps / n) with eps = max(H0 - H, 0) / (ln n - H), H = H(p).

    Entropy is concave, so that H((1 - eps) p + eps u) >= (1 - eps) H + eps ln n = H0. Not tight,
    but where H = H0.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Return log-probabilities (..., num_classes) with the floor, float32."""
        logits = logits if logits.dtype.itemsize > 2 else logits.float()
        entropy = categorical_entropy(logits)
        room = (math.log(self.num_classes) - entropy).clamp_min(1e-6)
        share = ((self.target_entropy - entropy).clamp_min(0.0) / room).unsqueeze(-1)
        # in logs, for probabilities that underflow; a share of zero becomes one that does
        uniform = share.clamp_min(1e-30).log() - math.log(self.num_classes)
        return torch.logaddexp(torch.log1p(-share) + logits.log_softmax(-1), uniform)

    def _most_confident(self) -> Tensor:
        # Not at one-hot probabilities: those of entropy H0 with all other classes alike, which are the
        # most confident of that entropy, pass unchanged.
        return ERAHead(
            self.num_classes, self.target_entropy, method="temperature"
        )._most_confident()


class MixtureTrainer(Trainer):
    """The trainer with a :class:`MixtureHead`."""

    def build_head(self) -> ERAHead:
        """Return the head of the comparison."""
        return MixtureHead(len(self.data.classes), self.config.target_entropy)
