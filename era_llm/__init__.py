"""ERA for reinforcement learning of language models.

Public names are loaded on first use: the functions need torch alone, the trainers TRL.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from era_llm.functional import (
        approximate_era_advantages,
        era_logps,
        era_reference,
        era_scale,
        select_tokens,
        straight_through,
        token_entropies,
        top_entropy_mean,
    )
    from era_llm.trl import GRPOERAConfig, GRPOERATrainer, RLOOERAConfig, RLOOERATrainer

__all__ = [
    "GRPOERAConfig",
    "GRPOERATrainer",
    "RLOOERAConfig",
    "RLOOERATrainer",
    "approximate_era_advantages",
    "era_logps",
    "era_reference",
    "era_scale",
    "select_tokens",
    "straight_through",
    "token_entropies",
    "top_entropy_mean",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    of_trl = name.endswith(("Config", "Trainer"))
    return getattr(import_module("era_llm.trl" if of_trl else "era_llm.functional"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
