"""ERA for TorchRL: actors, losses and a multi-seed trainer."""

from era_rl.torchrl.actors import ERAActor, ERAParamExtractor
from era_rl.torchrl.objectives import DeltaLoss, SACERALoss
from era_rl.torchrl.specs import raw_dim

__all__ = [
    "DeltaLoss",
    "ERAActor",
    "ERAParamExtractor",
    "SACERALoss",
    "raw_dim",
]
