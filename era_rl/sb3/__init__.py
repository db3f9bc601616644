"""ERA for Stable-Baselines3."""

from era_rl.sb3.algorithms import SACERA, paper_preset
from era_rl.sb3.callbacks import EntropyMonitor
from era_rl.sb3.distributions import TanhNormalDistribution, TruncatedNormalDistribution
from era_rl.sb3.policies import SACERACnnPolicy, SACERAMultiInputPolicy, SACERAPolicy

__all__ = [
    "SACERA",
    "EntropyMonitor",
    "SACERACnnPolicy",
    "SACERAMultiInputPolicy",
    "SACERAPolicy",
    "TanhNormalDistribution",
    "TruncatedNormalDistribution",
    "paper_preset",
]
