"""Networks and normalisers that hard tasks need, in torch alone, below every adapter."""

from era_rl.networks.batch_norm import BatchNormMLP
from era_rl.networks.moments import RewardScale, RunningNorm
from era_rl.networks.simba import SimbaEncoder, orthogonal
from era_rl.networks.values import CategoricalValue

__all__ = [
    "BatchNormMLP",
    "CategoricalValue",
    "RewardScale",
    "RunningNorm",
    "SimbaEncoder",
    "orthogonal",
]
