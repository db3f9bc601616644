"""Learning curves of the zoo's runs, by rl_zoo3."""

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
from huggingface_sb3 import EnvironmentName
from matplotlib import pyplot as plt

from era_rl.zoo.names import ConfigError


def plot(args: argparse.Namespace) -> None:
    """Draw evaluation returns, mean and standard error over runs, and print a table of the last.

    One figure an environment; with several, each file's name ends in the environment's. A run
    needs two evaluations to be drawn.
    """
    mpl.use("Agg")
    from rl_zoo3.plots import all_plots

    names = [EnvironmentName(env) for env in args.env]
    for name in names:
        runs = [f"{algo}/{name}_[0-9]*/evaluations.npz" for algo in args.algo]
        if not any(path for pattern in runs for path in args.log_folder.glob(pattern)):
            raise ConfigError(
                f"no evaluations of {', '.join(args.algo)} on {name} in {args.log_folder}"
            )
    # rl_zoo3's function reads the command line
    arguments, sys.argv = sys.argv, [
        *("all_plots", "--no-display", "--no-million", "--print-n-trials"),
        *("--algos", *args.algo, "--env", *names, "--exp-folders", str(args.log_folder)),
        *("--max-timesteps", str(args.max_timesteps)),
    ]  # fmt: skip
    try:
        all_plots()
    finally:
        sys.argv = arguments
    args.output.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = _path(args.output, name if len(names) > 1 else "")
        plt.figure(f"Results {name}").savefig(path, dpi=120)
        sys.stdout.write(f"{path}\n")
    plt.close("all")


def _path(output: Path, name: str) -> Path:
    return output.with_stem(f"{output.stem}-{name}") if name else output
