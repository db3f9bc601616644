"""The era_* options that the TRL configurations carry."""

import logging
from dataclasses import dataclass, field
from math import inf
from typing import Any, get_args

from era_llm.functional import ApplyTo, Tokens, check_selection, check_thresholds
from era_rl.core.feasibility import check_flag

logger = logging.getLogger(__name__)
_FLAGS = ("era_enabled", "era_advantage_scale")
_NUMBERS = ("era_entropy_high", "era_k", "era_top_ratio", "era_patience")


def option(about: str, **default: Any) -> Any:
    """Return the field of a configuration whose help says what it is about."""
    return field(metadata={"help": about}, **default)


@dataclass
class ERAOptions:
    """ERA's own options; mixed into a TRL configuration.

    The thresholds depend on vocabulary, temperature and task: `era-llm calibrate` suggests some.

    Raises:
        ValueError: If an option is out of range.
    """

    era_enabled: bool = option(
        "Apply ERA to updates. If False the update is TRL's; era/ metrics stay.", default=True
    )
    era_entropy_low: float | str = option(
        "Mean entropy of the selected tokens (nats) under which a response is sharpened; auto: the 0.1 "
        "quantile over the first 20 steps.",
        default=0.45,
    )
    era_entropy_high: float = option("Flattened above it (nats).", default=3.0)
    era_k: float = option("Factor of the logits, above 1 and at most 1e6.", default=2.0)
    era_top_ratio: float = option("Share of tokens selected.", default=0.2)
    era_tokens: Tokens = option("Which tokens to select.", default="top")
    era_apply_to: ApplyTo = option(
        "Scale every token of a response, or (forking) the selected ones.", default="response"
    )
    era_advantage_scale: bool = option("A / s, as in the paper.", default=True)
    era_patience: int = option("Unscaled steps before a warning.", default=50)

    def __post_init__(self) -> None:
        """Check the options, after those of the configuration that they are mixed into."""
        getattr(super(), "__post_init__", lambda: None)()
        low, places = self.era_entropy_low, get_args(ApplyTo)
        for name in _FLAGS:
            check_flag(name, getattr(self, name))
        for name in _NUMBERS:
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ValueError(f"{name} must be a number, got {value!r}")
        if low != "auto" and (not isinstance(low, int | float) or isinstance(low, bool)):
            raise ValueError(f"era_entropy_low must be a number of nats or 'auto', got {low!r}")
        check_thresholds(-inf if isinstance(low, str) else low, self.era_entropy_high, self.era_k)
        check_selection(self.era_top_ratio, self.era_tokens)
        if self.era_apply_to not in places:
            raise ValueError(f"era_apply_to must be one of {places}, got {self.era_apply_to!r}")
        if not self.era_patience >= 1:
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
