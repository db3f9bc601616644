"""What one loss computation knows about its responses: selection, H_resp, scales, metrics."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from era_llm.functional import era_reference, era_scale, select_tokens, selected_mean
from era_llm.options import ERAOptions


@dataclass
class LossCall:
    """The responses of one loss computation.

    Attributes:
        options: The era_* options.
        active: Whether the update is ERA's; otherwise the call only measures.
        inputs: TRL's: completion_mask, advantages, perhaps tool_mask and ref_per_token_logps, and
            era_scale where an earlier pass froze it.
        low: era_entropy_low, in nats.
        seed: Seed of tokens="random".
        scale: s of each token, (responses, time).
        plain: Log-probabilities with their plain gradient, (responses, time), where a KL term asks.
        log_ratio: log p_s(y) - log p(y), (responses, time); None until the head has run.
    """

    options: ERAOptions
    active: bool
    inputs: dict[str, Any]
    low: float
    seed: int = 0
    plain: Tensor | None = None
    log_ratio: Tensor | None = None
    h_resp: Tensor = field(init=False)
    h_rest: Tensor = field(init=False)
    token_entropy: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Take the tensors that ERA reads; the head scores `scored`, entropies count in `mask`."""
        self.scored: Tensor = self.inputs["completion_mask"]
        self.mask = self.scored * self.inputs.get("tool_mask", 1)
        self.advantages: Tensor = self.inputs["advantages"].view(len(self.scored), -1)
        self.scale: Tensor | None = self.inputs.get("era_scale")
        self.reference: Tensor | None = self.inputs.get("ref_per_token_logps")

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
        # not by a product with the mask: what is masked may be anything
        self.token_entropy = torch.where(self.mask.bool(), entropies.detach(), 0.0)
        if self.scale is None:
            self.scale = self._decide(selection)
        return self.scale

    def _decide(self, selection: Tensor) -> Tensor:
        one = self.h_resp.new_ones(selection.shape)
        if not self.active:
            return one
        high, k = self.options.era_entropy_high, self.options.era_k
        scale = one * era_scale(self.h_resp.unsqueeze(-1), self.advantages, self.low, high, k)
        everywhere = self.options.era_apply_to == "response"
        return scale if everywhere else torch.where(selection, scale, one)

    def keep_kl(self, logp: Tensor, bias_correction: bool) -> None:
        """Give TRL's KL term the reference with which its gradient stays that of the plain policy."""
        if self.plain is not None and self.reference is not None and (self.scale != 1).any():
            self.inputs["ref_per_token_logps"] = era_reference(
                self.reference, logp, self.plain, bias_correction
            )

    def sums(self) -> dict[str, Tensor]:
        """Return numerator and denominator of each metric, (2,); processes add them."""
        scale, h_resp = self.scale, self.h_resp
        assert scale is not None, "observe() comes first"
        known, rest = ~h_resp.isnan(), ~self.h_rest.isnan()
        low, high = h_resp < self.low, h_resp > self.options.era_entropy_high
        positive = (self.advantages > 0).any(-1)
        negative = (self.advantages < 0).any(-1) & ~positive
        sharpened, all_of_them = (scale > 1).any(-1), torch.ones_like(known)
        level, scaled = h_resp.nan_to_num(), (scale != 1) & self.mask.bool()
        pairs = {
            "h_resp": (level, known),
            "h_resp_positive": (level * positive, known & positive),
            "h_resp_negative": (level * negative, known & negative),
            "h_rest": (self.h_rest.nan_to_num(), rest),
            "entropy": (self.token_entropy, self.mask),
            "frac_low": (low, known),
            "frac_mid": (known & ~low & ~high, known),
            "frac_high": (high, known),
            "frac_sharpened": (sharpened, all_of_them),
            "frac_flattened": ((scale < 1).any(-1), all_of_them),
            "frac_positive": (positive, all_of_them),
            "frac_positive_sharpened": (sharpened, positive),
        }
        if self.log_ratio is not None:
            ratio = self.log_ratio.exp()
            # Over y from p the mean of w log w - w + 1 is KL(p_s || p), and no term is negative.
            terms = (ratio * self.log_ratio - ratio + 1).masked_fill(~scaled, 0.0)
            pairs["kl"] = (terms, scaled)
        return {
            f"era/{n}": torch.stack([a.float().sum(), b.float().sum()])
            for n, (a, b) in pairs.items()
        }
