"""The era_* options that the TRL configurations carry."""

import logging
from dataclasses import dataclass, field
from math import inf
from typing import Any, get_args

from era_llm.functional import ApplyTo, Tokens, check_selection, check_thresholds

logger = logging.getLogger(__name__)


@dataclass
class ERAOptions:
    """ERA's own options; mixed into a TRL configuration.

    The thresholds depend on vocabulary, temperature and task: `era-llm calibrate` suggests some.

    Raises:
        ValueError: If an option is out of range.
    """

    era_enabled: bool = field(
        default=True,
        metadata={"help": "Apply ERA to updates. If False the update is TRL's; era/ metrics stay."},
    )
    era_entropy_low: float | str = field(
        default=0.45,
        metadata={
            "help": "Mean entropy of the selected tokens (nats) under which a response is sharpened; "
            "auto: the 0.1 quantile over the first 20 steps."
        },
    )
    era_entropy_high: float = field(default=3.0, metadata={"help": "Flattened above it (nats)."})
    era_k: float = field(default=2.0, metadata={"help": "Factor of the logits, above 1."})
    era_top_ratio: float = field(default=0.2, metadata={"help": "Share of tokens selected."})
    era_tokens: Tokens = field(default="top", metadata={"help": "Which tokens to select."})
    era_apply_to: ApplyTo = field(
        default="response",
        metadata={"help": "Scale every token of a response, or (forking) the selected ones."},
    )
    era_advantage_scale: bool = field(default=True, metadata={"help": "A / s, as in the paper."})
    era_patience: int = field(default=50, metadata={"help": "Unscaled steps before a warning."})

    def __post_init__(self) -> None:
        """Check the options, after those of the configuration that they are mixed into."""
        getattr(super(), "__post_init__", lambda: None)()
        low, places = self.era_entropy_low, get_args(ApplyTo)
        if isinstance(low, str) and low != "auto":
            raise ValueError(f"era_entropy_low must be a number of nats or 'auto', got {low!r}")
        check_thresholds(-inf if isinstance(low, str) else low, self.era_entropy_high, self.era_k)
        check_selection(self.era_top_ratio, self.era_tokens)
        if self.era_apply_to not in places:
            raise ValueError(f"era_apply_to must be one of {places}, got {self.era_apply_to!r}")
        if self.era_patience < 1:
            raise ValueError(f"era_patience must be at least 1, got {self.era_patience}")


def check_grpo_options(args: Any) -> None:
    """Refuse a KL term whose plain gradient cannot be kept, and warn of a second controller.

    Raises:
        ValueError: If the KL term is multiplied by the importance ratio of a whole response.
    """
    if not args.era_enabled:
        return
    by_response = args.importance_sampling_level == "sequence" and args.use_bias_correction_kl
    if args.beta != 0 and by_response:
        raise ValueError(
            f"use_bias_correction_kl must be False with ERA, beta={args.beta} and "
            "importance_sampling_level='sequence', got True: the ratio of a response has ERA's gradient"
        )
    if args.entropy_coef != 0 or args.use_adaptive_entropy:
        logger.warning(
            "entropy_coef / use_adaptive_entropy and ERA are two controllers of the same entropy"
        )
