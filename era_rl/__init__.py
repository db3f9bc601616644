"""Entropy Regularizing Activation (ERA): policies with a guaranteed minimum entropy.

``SACERA("MlpPolicy", env)`` in a Stable-Baselines3 script; the mathematics is in ``era_rl.core``.
Public names are loaded on first use, so that importing a part needs only that part's dependencies.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from era_rl.core import (
        CategoricalHead,
        EntropySchedule,
        MultiCategoricalHead,
        TruncatedGaussianHead,
        TruncatedNormal,
        gaussian_era,
        softmax_era,
        std_for_target_entropy,
        target_entropy_for_std,
        truncated_normal_entropy,
        truncated_normal_era,
        truncated_normal_log_std,
        truncated_normal_sample,
    )
    from era_rl.sb3 import (
        A2CERA,
        PPOERA,
        SACERA,
        TQCERA,
        XQCERA,
        CrossQERA,
        DeviceReplayBuffer,
        DiscreteSACERA,
        EntropyMonitor,
        GradientConflict,
        MaskablePPOERA,
        RecurrentPPOERA,
    )
    from era_rl.torchrl import ERAActor, SACERALoss

__version__ = "0.1.0"

__all__ = [
    "A2CERA",
    "PPOERA",
    "SACERA",
    "TQCERA",
    "XQCERA",
    "CategoricalHead",
    "CrossQERA",
    "DeviceReplayBuffer",
    "DiscreteSACERA",
    "ERAActor",
    "EntropyMonitor",
    "EntropySchedule",
    "GradientConflict",
    "MaskablePPOERA",
    "MultiCategoricalHead",
    "RecurrentPPOERA",
    "SACERALoss",
    "TruncatedGaussianHead",
    "TruncatedNormal",
    "gaussian_era",
    "softmax_era",
    "std_for_target_entropy",
    "target_entropy_for_std",
    "truncated_normal_entropy",
    "truncated_normal_era",
    "truncated_normal_log_std",
    "truncated_normal_sample",
]

_ADAPTERS = {
    "era_rl.sb3": (
        *("A2CERA", "PPOERA", "SACERA", "TQCERA", "CrossQERA", "XQCERA"),
        *("DiscreteSACERA", "MaskablePPOERA", "RecurrentPPOERA"),
        *("DeviceReplayBuffer", "EntropyMonitor", "GradientConflict"),
    ),
    "era_rl.torchrl": ("ERAActor", "SACERALoss"),
}
_MODULES = {name: module for module, names in _ADAPTERS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = _MODULES.get(name, "era_rl.core")
    try:
        return getattr(import_module(place), name)
    except ModuleNotFoundError as error:
        if name in _MODULES:
            extra = place.rpartition(".")[2]
            error.add_note(f"{place} needs the extra {extra}: pip install -e '.[{extra}]'")
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
