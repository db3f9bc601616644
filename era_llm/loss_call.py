"""What one loss computation knows about its responses: selection, H_resp, scales, metrics."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from era_llm.functional import era_scale, select_tokens, selected_mean
from era_llm.options import ERAOptions

_METRICS = (
    "h_resp",
    "h_rest",
    "frac_low",
    "frac_mid",
    "frac_high",
    "frac_sharpened",
    "frac_flattened",
    "frac_positive",
    "positive_mass",
)


@dataclass
class LossCall:
    """The responses of one loss computation.

    Attributes:
        options: The era_* options.
        active: Whether the update is ERA's; otherwise the call only measures.
        mask: Tokens that count for entropy, (responses, time): completion and tool masks.
        scored: Tokens the log-probability head scores, (responses, time): the completion mask.
        advantages: (responses,) or (responses, time).
        scale: s of each token, (responses, time); given where an earlier pass froze it.
        seed: Seed of tokens="random".
    """

    options: ERAOptions
    active: bool
    mask: Tensor
    scored: Tensor
    advantages: Tensor
    scale: Tensor | None = None
    seed: int = 0
    h_resp: Tensor = field(init=False)
    h_rest: Tensor = field(init=False)

    def observe(self, entropies: Tensor) -> Tensor:
        """Measure the responses and return their scales, deciding them unless frozen.

        Args:
            entropies: Token entropies in nats, (responses, time).

        Returns:
            s of each token, (responses, time).
        """
        options = self.options
        generator = torch.Generator(entropies.device).manual_seed(self.seed)
        selection = select_tokens(
            entropies, self.mask, options.era_top_ratio, options.era_tokens, generator
        )
        self.h_resp = selected_mean(entropies, selection)
        self.h_rest = selected_mean(entropies, self.mask.bool() & ~selection)
        if self.scale is None:
            self.scale = self._decide(selection)
        return self.scale

    def _decide(self, selection: Tensor) -> Tensor:
        one = self.h_resp.new_ones(selection.shape)
        if not self.active:
            return one
        options = self.options
        scale = one * era_scale(
            self.h_resp.unsqueeze(-1),
            self.advantages.view(len(selection), -1),
            options.era_entropy_low,
            options.era_entropy_high,
            options.era_k,
        )
        return scale if options.era_apply_to == "response" else torch.where(selection, scale, one)

    def sums(self) -> Tensor:
        """Return numerators and denominators of the metrics, (2, metrics); processes add them."""
        options, scale, h_resp = self.options, self.scale, self.h_resp
        assert scale is not None, "observe() comes first"
        known, rest = ~h_resp.isnan(), ~self.h_rest.isnan()
        low, high = h_resp < options.era_entropy_low, h_resp > options.era_entropy_high
        positive = self.advantages.clamp(min=0)
        responses = torch.ones_like(known)
        pairs = (
            (h_resp.nan_to_num(), known),
            (self.h_rest.nan_to_num(), rest),
            (low, known),
            (known & ~low & ~high, known),
            (high, known),
            ((scale > 1).any(-1), responses),
            ((scale < 1).any(-1), responses),
            (positive > 0, torch.ones_like(positive)),
            (positive, self.advantages.abs()),
        )
        return torch.stack([torch.stack([a.float().sum(), b.float().sum()]) for a, b in pairs]).T


def metrics(sums: Tensor) -> dict[str, float]:
    """Return the era/ metrics from summed numerators and denominators; NaN where nothing counts.

    Args:
        sums: Shape (2, metrics), from `LossCall.sums` and added over processes.
    """
    return dict(
        zip((f"era/{name}" for name in _METRICS), (sums[0] / sums[1]).tolist(), strict=True)
    )
