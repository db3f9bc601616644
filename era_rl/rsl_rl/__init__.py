"""An entropy floor for rsl_rl, the PPO trainer of Isaac Lab, mjlab and MuJoCo Playground."""

from era_rl.rsl_rl.distribution import ERADistribution

__all__ = ["ERADistribution"]
