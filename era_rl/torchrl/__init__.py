"""ERA for TorchRL: actors, losses and a multi-seed trainer."""

from era_rl.torchrl.actors import ERAActor, ERAParamExtractor
from era_rl.torchrl.objectives import CrossQERALoss, DeltaLoss, REDQERALoss, SACERALoss
from era_rl.torchrl.specs import raw_dim

__all__ = [
    "CrossQERALoss",
    "DeltaLoss",
    "ERAActor",
    "ERAParamExtractor",
    "REDQERALoss",
    "SACERALoss",
    "raw_dim",
]
