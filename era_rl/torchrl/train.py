"""``python -m era_rl.torchrl.train sac|ppo``: train SAC-ERA or PPO-ERA, several seeds at once."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from era_rl.runs.command import Parser, add_arguments, exit_status
from era_rl.torchrl.config import PRESETS, Config, PPOConfig, SACConfig

ALGORITHMS: dict[str, type[Config]] = {"sac": SACConfig, "ppo": PPOConfig}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: not 0, with one line of text, for a failure."""
    options = vars(parser().parse_args(arguments))
    kind = ALGORITHMS[options.pop("algorithm")]
    preset = PRESETS[name] if (name := options.pop("preset", None)) else {}
    # nothing is rendered; without a display mujoco would warn of it
    os.environ.setdefault("MUJOCO_GL", "disabled")

    def command() -> None:
        sys.stdout.write(json.dumps(train(kind(**{**preset, **options}))) + "\n")

    return exit_status("era_rl.torchrl.train", command, extra="torchrl")


def train(config: Config) -> dict[str, Any]:
    """Train and return each seed's evaluation: the returns of its episodes."""
    from era_rl.torchrl.trainer import Trainer

    with Trainer(config) as trainer:
        returns = trainer.run().tolist()
    seeds = map(str, config.agent_seeds)
    return {"steps": trainer.learner.steps, "returns": dict(zip(seeds, returns, strict=True))}


def parser() -> argparse.ArgumentParser:
    """Return the parser, its options those of the settings."""
    top = Parser(prog="python -m era_rl.torchrl.train", description=__doc__)
    commands = top.add_subparsers(dest="algorithm", required=True)
    for name, kind in ALGORITHMS.items():
        command = commands.add_parser(name, help=kind.__doc__)
        if kind is SACConfig:
            command.add_argument("--preset", choices=sorted(PRESETS), help="settings to start from")
        add_arguments(command, kind)
    return top


if __name__ == "__main__":
    sys.exit(main())
