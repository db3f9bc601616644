"""ERA for TorchRL: actors, losses and a multi-seed trainer; public names are loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from era_rl.torchrl.actors import ERAActor, ERAParamExtractor
    from era_rl.torchrl.objectives import DeltaLoss, SACERALoss, XQCERALoss
    from era_rl.torchrl.specs import raw_dim

__all__ = ["DeltaLoss", "ERAActor", "ERAParamExtractor", "SACERALoss", "XQCERALoss", "raw_dim"]
_MODULES = {
    "ERAActor": "actors",
    "ERAParamExtractor": "actors",
    "DeltaLoss": "objectives",
    "SACERALoss": "objectives",
    "XQCERALoss": "objectives",
    "raw_dim": "specs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
