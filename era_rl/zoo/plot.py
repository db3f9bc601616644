"""Learning curves of the zoo's runs, and the entropy of their dimensions."""

import re
import sys
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from era_rl.runs.folder import writable_file
from era_rl.runs.settings import SettingsError
from era_rl.sb3.callbacks import read_table
from era_rl.sb3.run_checkpoint import ENTROPY
from era_rl.sb3.run_parts import file_name
from era_rl.zoo.cli import Plot

NAMED = 10
"""Most dimensions that are named in a legend."""


def plot(args: Plot) -> None:
    """Draw what is asked for of runs, and print the last of it."""
    draw, ylabel, apart = FIGURES[args.what]
    panels = [
        (env_id, algos)
        for env_id in args.env
        for algos in ([(algo,) for algo in args.algo] if apart else [args.algo])
    ]
    figure = Figure(figsize=(6.4 * len(panels), 4.8), layout="constrained")
    formats = figure.canvas.get_supported_filetypes()
    if args.out.suffix[1:] not in formats:
        raise SettingsError(f"--out {args.out} must end in one of .{', .'.join(sorted(formats))}")
    writable_file(args.out)
    axes = np.atleast_1d(figure.subplots(1, len(panels)))
    for (env_id, algos), axis in zip(panels, axes, strict=True):
        axis.set(title=env_id, xlabel="steps", ylabel=ylabel)
        for algo in algos:
            said = draw(axis, algo, args.runs / algo / file_name(env_id))
            sys.stdout.write(f"{algo} on {env_id}: {said}\n")
        axis.legend(title=", ".join(algos) if apart else None)
    figure.savefig(args.out, dpi=120)
    sys.stdout.write(f"{args.out}\n")


def draw_returns(axis: Axes, algo: str, place: Path) -> str:
    """Draw evaluation returns, mean and standard error over runs; return the last of them."""
    paths = files_of_runs(place, "evaluations.npz", "evaluations")
    steps, returns = returns_of_runs(paths)
    mean, error = mean_and_error(returns)
    axis.plot(steps, mean, marker=".", label=f"{algo}, {_runs(paths)}")
    axis.fill_between(steps, mean - error, mean + error, alpha=0.3)
    spread = f" +/- {error[-1]:.1f}" if len(paths) > 1 else ""
    return f"{mean[-1]:.1f}{spread} at step {steps[-1]}, {_runs(paths)}"


def draw_dimensions(axis: Axes, algo: str, place: Path, *, figure: str) -> str:
    """Draw the entropy or the std of each dimension, means over runs; return the last of them."""
    paths = files_of_runs(place, ENTROPY, f"{ENTROPY} with each dimension")
    tables = [read_table(path) for path in paths]
    steps = common_steps([table.get("timesteps", np.empty(0)) for table in tables], paths)
    columns = [name for name in tables[0] if re.fullmatch(rf"{figure}_\d+", name)]
    if not columns or any(set(columns) - table.keys() for table in tables):
        raise SettingsError(f"{paths[0]} and its like must all have each dimension's {figure}")
    last = []
    for name in columns:
        mean = np.mean([np.interp(steps, t["timesteps"], t[name]) for t in tables], axis=0)
        axis.plot(steps, mean, label=name if len(columns) <= NAMED else None)
        last.append(mean[-1])
    lowest, highest = np.argmin(last), np.argmax(last)
    return (
        f"{columns[lowest]} {last[lowest]:.3f} to {columns[highest]} {last[highest]:.3f} at step "
        f"{steps[-1]:.0f}, {_runs(paths)}"
    )


FIGURES: dict[str, tuple[Callable[..., str], str, bool]] = {
    "return": (draw_returns, "evaluation return", False),
    "entropy": (partial(draw_dimensions, figure="entropy"), "entropy of a dimension, nats", True),
    "std": (partial(draw_dimensions, figure="std"), "std of a dimension, before truncation", True),
}
"""By name: what draws it, the axis' name, and whether each algorithm has a panel of its own."""


def files_of_runs(place: Path, name: str, what: str) -> list[Path]:
    """Return a file of all runs of ``<runs>/<algo>/<env>``; SettingsError where there is none."""
    paths = sorted(place.parent.glob(f"{place.name}_[0-9]*/{name}"))
    if not paths:
        algo, runs = place.parent.name, place.parent.parent
        raise SettingsError(f"no {what} of {algo} on {place.name} in {runs}")
    return paths


def _runs(paths: list[Path]) -> str:
    return f"{len(paths)} run{'s' * (len(paths) > 1)}"


def returns_of_runs(paths: list[Path]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the steps at which any run was evaluated, (steps,), and returns, (runs, steps).

    The steps are those that all runs have reached and begun by; between its own evaluations a run's
    returns are interpolated.
    """
    logs = [read_evaluations(path) for path in paths]
    steps = common_steps([log["timesteps"] for log in logs], paths)
    curves = [np.interp(steps, log["timesteps"], log["results"].mean(axis=1)) for log in logs]
    return steps, np.stack(curves)


def common_steps(steps_of_runs: list[NDArray[Any]], paths: list[Path]) -> NDArray[Any]:
    """Return the steps of any run that all runs have reached and begun by."""
    for steps, path in zip(steps_of_runs, paths, strict=True):
        if len(steps) == 0:
            raise SettingsError(f"{path} has no rows yet")
    steps = reduce(np.union1d, steps_of_runs)
    first, last = max(s[0] for s in steps_of_runs), min(s[-1] for s in steps_of_runs)
    steps = steps[(first <= steps) & (steps <= last)]
    if len(steps) == 0:
        raise SettingsError(
            f"no step is between the evaluations of all runs: {', '.join(map(str, paths))}"
        )
    return steps


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
