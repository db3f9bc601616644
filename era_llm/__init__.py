"""ERA for reinforcement learning of language models.

The functions need torch alone; the trainers load TRL when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from era_llm.functional import (
    approximate_era_advantages,
    era_logps,
    era_reference,
    era_scale,
    paper_form,
    select_tokens,
    straight_through,
    token_entropies,
    top_entropy_mean,
)

if TYPE_CHECKING:
    from era_llm.trl import GRPOERAConfig, GRPOERATrainer, RLOOERAConfig, RLOOERATrainer

_TRAINERS = ("GRPOERAConfig", "GRPOERATrainer", "RLOOERAConfig", "RLOOERATrainer")

__all__ = [
    "GRPOERAConfig",
    "GRPOERATrainer",
    "RLOOERAConfig",
    "RLOOERATrainer",
    "approximate_era_advantages",
    "era_logps",
    "era_reference",
    "era_scale",
    "paper_form",
    "select_tokens",
    "straight_through",
    "token_entropies",
    "top_entropy_mean",
]


def __getattr__(name: str) -> object:
    """Load a trainer from its module on first use (PEP 562)."""
    if name not in _TRAINERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("era_llm.trl"), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
