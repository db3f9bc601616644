"""One training run of a suite, in a process of its own: trained, resumed and written as a result.

    python -m benchmarks.job SUITE RUN

The run's folder under ``--scratch`` has its checkpoints. Where there is one, the run goes on from it;
what a killed run has lost is what it did since. The result is written when the run is over.
"""

import argparse
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from rl_zoo3.utils import ALGOS
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed

import benchmarks.reaching  # noqa: F401 (registers ids)
import era_rl.envs  # noqa: F401 (registers ids)
from benchmarks import suite as suites
from benchmarks.acting import returns_by_action
from benchmarks.results import (
    RESULTS,
    SCRATCH,
    circumstances,
    peak_memory_mib,
    read,
)
from benchmarks.suite import TrainingRun
from benchmarks.trace import COLUMNS, PolicyTrace, drop_rows_after, read_rows
from era_rl.runs.folder import locked, write_json
from era_rl.sb3.gradient_conflict import CONFLICT_COLUMNS, GradientConflict
from era_rl.zoo.algorithms import algorithm_class
from era_rl.zoo.checkpoint import discard, newest_intact
from era_rl.zoo.cli import parser as zoo_parser
from era_rl.zoo.experiment import Experiment

TRACE, CONFLICT, RESUMED = "trace.csv", "gradient_conflict.csv", "resumed.txt"
CHECKS = 50
"""Rows in a run's trace."""


class MeasuredExperiment(Experiment):
    """The zoo's experiment with callbacks of the caller's.

    Args:
        *args: The experiment's arguments.
        measures: Callbacks to add.
        **kwargs: The experiment's arguments.
    """

    def __init__(self, *args: Any, measures: Sequence[BaseCallback], **kwargs: Any) -> None:
        self.measures = measures
        super().__init__(*args, **kwargs)

    def create_callbacks(self) -> None:
        """Add the callbacks to the zoo's (rl_zoo3's hook)."""
        super().create_callbacks()
        self.callbacks.extend(self.measures)


def main(argv: Sequence[str] | None = None) -> None:
    """Do a run, unless its result is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.job", description=__doc__)
    parser.add_argument("suite", help="name of a suite, or its file")
    parser.add_argument("run", help="name of a run of the suite")
    parser.add_argument("--results", type=Path, help="folder of the suite's results")
    parser.add_argument("--scratch", type=Path, help="folder of the suite's checkpoints")
    args = parser.parse_args(argv)
    suite = suites.load(args.suite)
    run = suite.run(args.run)
    results = args.results or RESULTS / suite.name
    folder = run.folder(args.scratch or SCRATCH / suite.name)
    with locked(folder):
        # at once: what cannot be written is not to be measured
        run.result(results).parent.mkdir(parents=True, exist_ok=True)
        if read(run, results) is None:
            write_json(run.result(results), execute(run, folder))
        # the result first: a kill in between must not cost the run
        for checkpoint in folder.glob("*/*/checkpoint-*"):
            discard(checkpoint)


def execute(run: TrainingRun, folder: Path) -> dict[str, Any]:
    """Train, from the last checkpoint in the folder if there is one, and return the result."""
    torch.set_num_threads(1)
    code = circumstances()  # of what is loaded now: hours later the checkout may be another
    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        for name in (TRACE, CONFLICT, RESUMED, run.config["algo"]):
            _remove(folder / name)
    else:
        steps = int(checkpoint.name.removeprefix("checkpoint-"))
        for name in (TRACE, CONFLICT):
            drop_rows_after(folder / name, steps)
        with (folder / RESUMED).open("a") as file:
            file.write(f"{steps}\n")
    experiment = _experiment(run, folder, checkpoint)
    model, _ = experiment.setup_experiment() or (None, None)
    assert model is not None
    experiment.learn(model)
    experiment.save_trained_model(model)
    result = _result(run, folder, Path(experiment.save_path))
    episodes = run.config["evaluation_episodes"]
    acting = returns_by_action(
        model, lambda: experiment.create_envs(episodes, eval_env=True), episodes
    )
    result["acting"] = {way: [_rounded(x) for x in returns] for way, returns in acting.items()}
    return {**result, **code}


def last_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint to go on from, or None."""
    found = [newest_intact(run) for run in folder.glob("*/*_1")]
    return next((checkpoint for checkpoint in found if checkpoint is not None), None)


def _experiment(run: TrainingRun, folder: Path, checkpoint: Path | None) -> MeasuredExperiment:
    config = run.config
    settings = {**config["settings"], "n_timesteps": run.steps}
    if config["nats_per_dim"] is not None:
        settings["target_entropy"] = config["nats_per_dim"] * _action_dim(config)
    command = ["train", "--algo", config["algo"], "--env", config["env"], "--seed", str(run.seed)]
    command += ["--log-folder", str(folder), "--device", config["device"], "--verbose", "0"]
    args = zoo_parser().parse_args([*command, "--save-freq", str(run.checkpoint_every)])
    ALGOS[config["algo"]] = algorithm_class(config["algo"])
    set_random_seed(run.seed)
    every = max(run.steps // CHECKS // settings.get("n_envs", 1), 1)
    measures: list[BaseCallback] = [PolicyTrace(every, folder / TRACE)]
    if config["gradient_conflict"]:
        measures.append(GradientConflict(every, csv_path=folder / CONFLICT))
    return MeasuredExperiment(
        args,
        settings,
        checkpoint,
        measures=measures,
        env_kwargs=settings.get("env_kwargs", {}),
        eval_freq=config["evaluate_every"],
        n_eval_episodes=config["evaluation_episodes"],
        # side by side, for one pass through the actor a step
        n_eval_envs=config["evaluation_episodes"],
    )


def _result(run: TrainingRun, folder: Path, logs: Path) -> dict[str, Any]:
    evaluations = np.load(logs / "evaluations.npz")
    trace = read_rows(folder / TRACE)
    seconds = trace[-1][-1]
    resumed = folder / RESUMED
    result: dict[str, Any] = {
        "suite": Path(run.suite).stem,
        "task": run.task,
        "arm": run.arm,
        "seed": run.seed,
        "command": f"python -m benchmarks.job {Path(run.suite).stem} {run.name}",
        "config": run.config,
        "config_hash": run.config_hash,
        "action_dim": _action_dim(run.config),
        "wall_seconds": round(seconds, 1),
        "steps_per_second": _rounded(run.steps / seconds),
        "peak_memory_mib": peak_memory_mib(),
        "peak_gpu_memory_mib": _peak_gpu_memory_mib(),
        "resumed_at": [int(x) for x in resumed.read_text().split()] if resumed.exists() else [],
        "evaluation": {
            "timesteps": evaluations["timesteps"].tolist(),
            "returns": [[_rounded(x) for x in row] for row in evaluations["results"].tolist()],
        },
        "trace": _table(COLUMNS, trace),
    }
    if run.config["gradient_conflict"]:
        result["gradient_conflict"] = _table(CONFLICT_COLUMNS, read_rows(folder / CONFLICT))
    return result


def _table(columns: Sequence[str], rows: list[list[float]]) -> dict[str, list[float | None]]:
    """Return rows as columns by name, with None for what is not a number."""
    return {name: [_rounded(row[i]) for row in rows] for i, name in enumerate(columns)}


def _rounded(value: float) -> float | None:
    """Return six significant digits: results are kept in the repository."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _action_dim(config: dict[str, Any]) -> int:
    env = gymnasium.make(config["env"], **config["settings"].get("env_kwargs", {}))
    shape = env.action_space.shape
    env.close()
    assert shape is not None
    return math.prod(shape)


def _peak_gpu_memory_mib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else None


def _remove(path: Path) -> None:
    """Remove what a run left that was killed before its first checkpoint."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
