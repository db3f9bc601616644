"""One training run of a suite, in a process of its own: trained, resumed and written as a result.

    python -m benchmarks.job SUITE RUN

The run's folder under ``--scratch`` has its checkpoints. Where there is one, the run goes on from it;
what a killed run has lost is what it did since. The result is written when the run is over.
"""

import argparse
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

import benchmarks.reaching  # noqa: F401 (registers ids)
from benchmarks import suite as suites
from benchmarks.acting import ActingAlong, returns_by_action
from benchmarks.exploration import Exploration
from benchmarks.results import RESULTS, SCRATCH, circumstances
from benchmarks.suite import AGENT, TrainingRun
from benchmarks.trace import PolicyTrace
from era_rl.runs.folder import cut_rows, locked, newest_intact, step_of, write_json
from era_rl.runs.record import peak_memory_mib, rounded
from era_rl.sb3.callbacks import read_table
from era_rl.sb3.gradient_conflict import GradientConflict
from era_rl.sb3.run import Run, has_ended, has_run

TRACE, RESUMED = "trace.csv", "resumed.txt"
MEASURES = {
    "gradient_conflict": GradientConflict,
    "exploration": Exploration,
    "acting_along": ActingAlong,
}
"""Measures besides the trace, of suites that ask for them by name; each has a file of its own."""
CHECKS = 50
"""Rows in a run's trace."""


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
        if not run.is_done(results):
            write_json(run.result(results), execute(run, folder))


def execute(run: TrainingRun, folder: Path) -> dict[str, Any]:
    """Train, from the last checkpoint in the folder if there is one, and return the result."""
    code = circumstances()  # of what is loaded now: hours later the checkout may be another
    agent, began = folder / AGENT, _went_on(run, folder)
    if not began:
        for name in (TRACE, RESUMED, AGENT):
            _remove(folder / name)
    training, measures = agent_run(run), _measures(run, folder)
    model = training.resume(agent, measures) if began else training.train(agent, measures)
    result = _result(run, folder)
    episodes = run.config["evaluation_episodes"]
    acting = returns_by_action(model, lambda: training.make_env(episodes), episodes)
    result["acting"] = {way: [rounded(x) for x in returns] for way, returns in acting.items()}
    return {**result, **code}


def agent_run(run: TrainingRun) -> Run:
    """Return the run of an agent that a suite's run stands for."""
    config = run.config
    settings = {**config["settings"], "n_timesteps": run.steps}
    if config["nats_per_dim"] is not None:
        settings["nats_per_dim"] = config["nats_per_dim"]
    return Run(
        config["algo"],
        config["env"],
        settings,
        run.seed,
        device=config["device"],
        eval_freq=config["evaluate_every"],
        eval_episodes=config["evaluation_episodes"],
        # side by side, for one pass through the actor a step
        eval_envs=config["evaluation_episodes"],
        save_freq=run.checkpoint_every,
        threads=1,
        monitor=False,  # traced by PolicyTrace
        verbose=0,
    )


def _went_on(run: TrainingRun, folder: Path) -> bool:
    """Cut the logs at the checkpoint to go on from; return whether there is one, or the run's end."""
    agent = folder / AGENT
    if not has_run(agent) or has_ended(agent):
        return has_run(agent)
    checkpoint = newest_intact(agent)
    if checkpoint is None:
        return False
    for path in (folder / TRACE, *_asked_for(run, folder).values()):
        cut_rows(path, step_of(checkpoint))
    with (folder / RESUMED).open("a") as file:
        file.write(f"{step_of(checkpoint)}\n")
    return True


def _measures(run: TrainingRun, folder: Path) -> list[BaseCallback]:
    every = max(run.steps // CHECKS, 1)
    others, episodes = [], run.config["evaluation_episodes"]
    for name, path in _asked_for(run, folder).items():
        if name == "acting_along":
            make_env = partial(agent_run(run).make_env, episodes)
            others += [ActingAlong(run.config["evaluate_every"], path, make_env, episodes)]
        else:
            others += [MEASURES[name](every, csv_path=path)]
    return [PolicyTrace(every, folder / TRACE), *others]


def _asked_for(run: TrainingRun, folder: Path) -> dict[str, Path]:
    """Return the files of the measures that a run's suite asks for, by name."""
    return {name: folder / f"{name}.csv" for name in MEASURES if run.config.get(name)}


def _result(run: TrainingRun, folder: Path) -> dict[str, Any]:
    evaluations = np.load(folder / AGENT / "evaluations.npz")
    trace = read_table(folder / TRACE)
    seconds = float(trace["seconds"][-1])
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
        "steps_per_second": rounded(run.steps / seconds),
        "peak_memory_mib": peak_memory_mib(),
        "peak_gpu_memory_mib": _peak_gpu_memory_mib(),
        "resumed_at": [int(x) for x in resumed.read_text().split()] if resumed.exists() else [],
        "evaluation": {
            "timesteps": evaluations["timesteps"].tolist(),
            "returns": [[rounded(x) for x in row] for row in evaluations["results"].tolist()],
        },
        "trace": _rounded(trace),
    }
    tables = {name: read_table(path) for name, path in _asked_for(run, folder).items()}
    return {**result, **{name: _rounded(table) for name, table in tables.items()}}


def _rounded(table: Mapping[str, Iterable[float]]) -> dict[str, list[float | None]]:
    """Return columns with few digits, and None for what is not a number."""
    return {name: [rounded(value) for value in values] for name, values in table.items()}


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
