"""The zoo's algorithms by name; each name has its configuration in ``zoo_configs/<name>.yml``."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

# module and class, imported on use: a wrong name on the command line should not cost seconds
ALGORITHMS = {
    "sac_era": ("era_rl.sb3", "SACERA"),
    "sac_era_paper": ("era_rl.sb3", "SACERA"),
    "fastsac_era": ("era_rl.sb3", "SACERA"),
    "tqc_era": ("era_rl.sb3", "TQCERA"),
    "crossq_era": ("era_rl.sb3", "CrossQERA"),
    "ppo_era": ("era_rl.sb3", "PPOERA"),
    "a2c_era": ("era_rl.sb3", "A2CERA"),
    "sac": ("stable_baselines3", "SAC"),
    "sac_paper": ("stable_baselines3", "SAC"),
    "tqc": ("sb3_contrib", "TQC"),
    "crossq": ("sb3_contrib", "CrossQ"),
    "ppo": ("stable_baselines3", "PPO"),
    "a2c": ("stable_baselines3", "A2C"),
}


def algorithm_class(name: str) -> "type[BaseAlgorithm]":
    """Return the class of an algorithm of the zoo.

    Raises:
        KeyError: For a name that is not in ``ALGORITHMS``.
    """
    module, attribute = ALGORITHMS[name]
    return getattr(import_module(module), attribute)
