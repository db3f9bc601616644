"""Does the TorchRL trainer learn? Stacked seeds on small tasks, written to benchmarks/results/torchrl.

::

    python -m benchmarks.torchrl.learning pendulum walker-walk cartpole
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torchrl.modules import RandomPolicy

from benchmarks.results import RESULTS, circumstances
from era_rl.runs.command import Parser
from era_rl.runs.folder import write_json
from era_rl.runs.settings import plain
from era_rl.torchrl.config import Config, PPOConfig, SACConfig
from era_rl.torchrl.trainer import Trainer, episode_rollouts

RUNS: dict[str, Config] = {
    "pendulum": SACConfig(
        env="Pendulum-v1", seeds=3, steps=10_000, hidden=(64, 64), lr=1e-3, eval_episodes=20
    ),
    "walker-walk": SACConfig(
        env="dm_control/walker-walk-v0", seeds=3, steps=25_000, hidden=(128, 128), lr=1e-3
    ),
    "cartpole": PPOConfig(
        env="CartPole-v1",
        seeds=3,
        steps=40_960,
        n_envs=4,
        steps_per_batch=128,
        minibatches=4,
        epochs=4,
        lr=1e-3,
        target_entropy=0.05,
    ),
}


def measure(config: Config) -> dict[str, Any]:
    """Train and return the settings, each seed's returns and, of as many episodes, random ones.

    Returns are those of whole episodes, the policy's with deterministic actions.
    """
    started = time.process_time()
    with Trainer(config) as trainer:
        envs = trainer.evaluation_envs
        torch.manual_seed(config.seed)
        at_random = episode_rollouts(envs, RandomPolicy(envs.action_spec), seed=0)
        at_random = at_random.view(config.seeds, -1)
        returns = trainer.run()
    means = {"mean_return": returns.mean(1), "mean_random_return": at_random.mean(1)}
    return {
        "config": plain(asdict(config)),
        **{
            name: dict(zip(config.agent_seeds, values.tolist(), strict=True))
            for name, values in means.items()
        },
        "returns": returns.tolist(),
        "random_returns": at_random.tolist(),
        "cpu_seconds": round(time.process_time() - started, 1),
        **circumstances(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is named and write one JSON file each."""
    parser = Parser(prog="python -m benchmarks.torchrl.learning")
    parser.add_argument("names", nargs="+", choices=sorted(RUNS))
    parser.add_argument("--out", type=Path, default=RESULTS / "torchrl")
    parser.add_argument("--runs", type=Path, default=Path("runs/torchrl"), help="for the logs")
    options = parser.parse_args(arguments)
    for name in options.names:
        try:
            result = measure(replace(RUNS[name], out=options.runs / name))
        except ValueError as error:  # the folder has a run
            parser.error(str(error))
        command = f"python -m benchmarks.torchrl.learning {name}"
        write_json(options.out / f"{name}.json", {"command": command, **result})
        sys.stdout.write(f"{name}: {result['mean_return']}\n")


if __name__ == "__main__":
    main()
