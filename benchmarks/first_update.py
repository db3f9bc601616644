"""How far the first update moves a policy: ``train/approx_kl`` of PPO and of PPOERA, of each seed.

Both have their defaults, one environment and no normalisation; the figure is that which
Stable-Baselines3 logs, of the last epoch on the first rollout.
"""

import statistics
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger

from benchmarks.measuring import Measurement, Out, run
from benchmarks.results import RESULTS
from era_rl.runs.settings import Setting
from era_rl.sb3 import PPOERA


@dataclass(frozen=True, kw_only=True)
class FirstUpdate(Measurement):
    """What is measured."""

    envs: Annotated[tuple[str, ...], Setting("environments")] = (
        "HalfCheetah-v5",
        "Hopper-v5",
        "Pendulum-v1",
    )
    seeds: Annotated[int, Setting("seeds, from 0 on", low=1)] = 5
    n_steps: Annotated[int, Setting("steps of the rollout", low=64)] = 2_048
    out: Out = RESULTS / "first-hour" / "first-update.json"


def approx_kl(algorithm: type[PPO], env: str, seed: int, n_steps: int) -> float:
    """Return what an algorithm logs of its first update."""
    model = algorithm("MlpPolicy", env, n_steps=n_steps, seed=seed, device="cpu")
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.learn(n_steps)
    return float(model.logger.name_to_value["train/approx_kl"])


def measure(settings: FirstUpdate) -> dict[str, Any]:
    """Return the figure of every environment, algorithm and seed, and the means over seeds."""
    torch.set_num_threads(1)
    found = {
        env: {
            algorithm.__name__: [
                approx_kl(algorithm, env, seed, settings.n_steps) for seed in range(settings.seeds)
            ]
            for algorithm in (PPO, PPOERA)
        }
        for env in settings.envs
    }
    means = {
        env: {name: statistics.fmean(values) for name, values in kinds.items()}
        for env, kinds in found.items()
    }
    return {"approx_kl_mean": means, "approx_kl": found}


if __name__ == "__main__":
    sys.exit(run(FirstUpdate, measure))
