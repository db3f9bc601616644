"""Learning curves of the zoo's runs."""

import sys
from functools import reduce
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from era_rl.runs.settings import SettingsError
from era_rl.sb3.run_parts import file_name
from era_rl.zoo.cli import Plot


def plot(args: Plot) -> None:
    """Draw evaluation returns, mean and standard error over runs, and print the last of them."""
    figure = Figure(figsize=(6.4 * len(args.env), 4.8), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if args.out.suffix[1:] not in formats:
        raise SettingsError(f"--out {args.out} must end in one of .{', .'.join(sorted(formats))}")
    axes = np.atleast_1d(figure.subplots(1, len(args.env)))
    for env_id, axis in zip(args.env, axes, strict=True):
        name = file_name(env_id)
        axis.set(title=env_id, xlabel="steps", ylabel="evaluation return")
        for algo in args.algo:
            paths = sorted(args.runs.glob(f"{algo}/{name}_[0-9]*/evaluations.npz"))
            if not paths:
                raise SettingsError(f"no evaluations of {algo} on {env_id} in {args.runs}")
            steps, returns = returns_of_runs(paths)
            mean, error = mean_and_error(returns)
            runs = f"{len(paths)} run{'s' * (len(paths) > 1)}"
            axis.plot(steps, mean, marker=".", label=f"{algo}, {runs}")
            axis.fill_between(steps, mean - error, mean + error, alpha=0.3)
            spread = f" +/- {error[-1]:.1f}" if len(paths) > 1 else ""
            sys.stdout.write(
                f"{algo} on {env_id}: {mean[-1]:.1f}{spread} at step {steps[-1]}, {runs}\n"
            )
        axis.legend()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=120)
    sys.stdout.write(f"{args.out}\n")


def returns_of_runs(paths: list[Path]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps at which any run was evaluated, (steps,), and returns, (runs, steps).

    The steps are those that all runs have reached and begun by; between its own evaluations a run's
    returns are interpolated.
    """
    logs = [read_evaluations(path) for path in paths]
    steps = reduce(np.union1d, [log["timesteps"] for log in logs])
    first = max(log["timesteps"][0] for log in logs)
    last = min(log["timesteps"][-1] for log in logs)
    steps = steps[(first <= steps) & (steps <= last)]
    if len(steps) == 0:
        raise SettingsError(
            f"no step is between the evaluations of all runs: {', '.join(map(str, paths))}"
        )
    curves = [np.interp(steps, log["timesteps"], log["results"].mean(axis=1)) for log in logs]
    return steps, np.stack(curves)


def read_evaluations(path: Path) -> dict[str, NDArray[Any]]:
    """Return a run's evaluations by name; SettingsError where the file is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as log:
            return {name: log[name] for name in ("timesteps", "results")}
    except (ValueError, KeyError, EOFError, BadZipFile) as error:
        raise SettingsError(
            f"{path} is truncated or damaged; era-zoo train --resume {path.parent} writes it anew for "
            "a run that has not ended, else remove it"
        ) from error


def mean_and_error(returns: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard error over runs, each (steps,), of returns (runs, steps).

    The error of a single run is unknown: NaN, which matplotlib leaves out.
    """
    runs = len(returns)
    if runs == 1:
        return returns[0], np.full_like(returns[0], np.nan)
    return returns.mean(axis=0), returns.std(axis=0, ddof=1) / runs**0.5
