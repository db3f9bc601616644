"""What the zoo has."""

import argparse
import sys

from era_rl.zoo.algorithms import ALGORITHMS
from era_rl.zoo.config import config_path, read_config


def show(args: argparse.Namespace) -> None:
    """Print the algorithms with their classes, and the environments each has settings for."""
    for algo in [args.algo] if args.algo else ALGORITHMS:
        sys.stdout.write(f"{algo} ({'.'.join(ALGORITHMS[algo])})\n")
        for env_id in read_config(config_path(algo)):
            sys.stdout.write(f"  {env_id}\n")
