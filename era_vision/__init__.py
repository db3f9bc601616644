"""ERA for image classification: a softmax whose entropy has a floor, on any torchvision model.

Public names are loaded on first use; the head needs torch alone, the trainer the ``vision`` extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from era_vision.config import Config
    from era_vision.data import Data, Images
    from era_vision.export import export_model
    from era_vision.head import ERAClassifier, ERAHead, attach_head
    from era_vision.metrics import evaluate
    from era_vision.models import build_model
    from era_vision.sources import load_data
    from era_vision.train import Trainer

_MODULES = {
    "config": ("Config",),
    "data": ("Data", "Images"),
    "head": ("ERAClassifier", "ERAHead", "attach_head"),
    "models": ("build_model",),
    "sources": ("load_data",),
    "train": ("Trainer",),
    "metrics": ("evaluate",),
    "export": ("export_model",),
}

__all__ = [
    "Config",
    "Data",
    "ERAClassifier",
    "ERAHead",
    "Images",
    "Trainer",
    "attach_head",
    "build_model",
    "evaluate",
    "export_model",
    "load_data",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
