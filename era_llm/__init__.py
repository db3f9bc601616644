"""ERA for reinforcement learning of language models.

`era_llm.functional` needs torch alone; the trainers load TRL when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from era_llm.functional import (
        approximate_era_advantages,
        era_logps,
        era_scale,
        paper_form,
        select_tokens,
        straight_through,
        token_entropies,
        top_entropy_mean,
    )
    from era_llm.trl import GRPOERAConfig, GRPOERATrainer, RLOOERAConfig, RLOOERATrainer

_MODULES = {
    "approximate_era_advantages": "functional",
    "era_logps": "functional",
    "era_scale": "functional",
    "paper_form": "functional",
    "select_tokens": "functional",
    "straight_through": "functional",
    "token_entropies": "functional",
    "top_entropy_mean": "functional",
    "GRPOERAConfig": "trl",
    "GRPOERATrainer": "trl",
    "RLOOERAConfig": "trl",
    "RLOOERATrainer": "trl",
}

__all__ = [
    "GRPOERAConfig",
    "GRPOERATrainer",
    "RLOOERAConfig",
    "RLOOERATrainer",
    "approximate_era_advantages",
    "era_logps",
    "era_scale",
    "paper_form",
    "select_tokens",
    "straight_through",
    "token_entropies",
    "top_entropy_mean",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *_MODULES})
