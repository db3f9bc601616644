"""Training and tuning runs of the zoo."""

import argparse
import sys
from pathlib import Path
from typing import Any

import gymnasium
import optuna
import torch
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import ALGOS
from sqlalchemy.exc import SQLAlchemyError
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed

import era_rl.envs  # noqa: F401 (registers ids)
from era_rl.zoo.algorithms import algorithm_class
from era_rl.zoo.checkpoint import check_finite, checkpoints, discard, newest_intact
from era_rl.zoo.cli import import_packages, parser
from era_rl.zoo.config import check, config_path, entry_for, override, read_mapping
from era_rl.zoo.experiment import Experiment
from era_rl.zoo.names import ConfigError
from era_rl.zoo.search_spaces import register_search_spaces


def train(args: argparse.Namespace) -> None:
    """Train a new agent, or go on with a killed run; a run that ends keeps no checkpoint."""
    checkpoint = None
    if args.resume is None:
        settings = _settings(args)
    else:
        run = args.resume
        if next(run.glob("*/args.yml"), None) is None:
            raise ConfigError(f"{run} is not a run's folder: it has no */args.yml")
        args, settings = _record(run)
        if (run / f"{EnvironmentName(args.env)}.zip").exists() and not checkpoints(run):
            sys.stdout.write(f"nothing to resume: {run} has no checkpoint, so it has ended\n")
            return
        checkpoint = newest_intact(run)
        if checkpoint is None:
            raise ConfigError(f"{run} has no checkpoint to go on from: begin a new run")
    options = {"eval_freq": args.eval_freq, "n_eval_episodes": args.eval_episodes}
    experiment, model = _experiment(args, settings, checkpoint, **options)
    assert model is not None
    experiment.learn(model)
    run = Path(experiment.save_path)
    check_finite(model, run)
    experiment.save_trained_model(model)
    for folder in checkpoints(run):
        discard(folder)


def tune(args: argparse.Namespace) -> None:
    """Search for settings with Optuna; the report and the best trial go to the log folder."""
    _check_storage(args.storage)
    register_search_spaces()
    experiment, _ = _experiment(
        args,
        _settings(args),
        eval_freq=-1,
        n_eval_episodes=args.eval_episodes,
        optimize_hyperparameters=True,
        n_trials=args.n_trials,
        n_jobs=args.n_jobs,
        sampler=args.sampler,
        pruner=args.pruner,
        n_startup_trials=args.n_startup_trials,
        n_evaluations=args.n_evaluations,
        storage=args.storage,
        study_name=args.study_name,
        no_optim_plots=True,
    )
    experiment.hyperparameters_optimization()


def _experiment(
    args: argparse.Namespace,
    settings: dict[str, Any],
    checkpoint: Path | None = None,
    **options: Any,
) -> tuple[Experiment, BaseAlgorithm | None]:
    """Return an experiment that is set up, and its model, None for a search."""
    ALGOS[args.algo] = algorithm_class(args.algo)
    if args.num_threads > 0:
        torch.set_num_threads(args.num_threads)
    set_random_seed(args.seed)
    env_kwargs = settings.get("env_kwargs", {})
    try:
        experiment = Experiment(args, settings, checkpoint, env_kwargs=env_kwargs, **options)
        model, _ = experiment.setup_experiment() or (None, None)
    except ValueError as error:  # a setting outside its range: the message names it
        raise ConfigError(str(error)) from error
    except (
        TypeError,
        AssertionError,
        gymnasium.error.Error,
    ) as error:  # an argument of others' code
        raise ConfigError(f"{args.algo} on {args.env}: {error}") from error
    return experiment, model


def _check_storage(storage: str | None) -> None:
    """Raise ConfigError for the address of a data base that Optuna cannot open."""
    if storage is not None and not storage.endswith(".log"):
        try:
            optuna.storages.get_storage(storage)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise ConfigError(f"--storage {storage}: {error}") from error


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings of the configuration with those of the command line, checked."""
    path = args.config or config_path(args.algo)
    settings = entry_for(args.env, path)
    for name in ("n_timesteps", "n_envs"):
        if getattr(args, name) is not None:
            settings[name] = getattr(args, name)
    settings = override(settings, args.params)
    settings = override(settings, [f"env_kwargs.{item}" for item in args.env_kwargs])
    check(settings, algorithm_class(args.algo))
    return settings


def _record(run: Path) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Return the arguments and the settings that a run began with."""
    (file,) = run.glob("*/args.yml")
    args = argparse.Namespace(**_arguments(file))
    import_packages(args.gym_packages)
    settings = read_mapping(file.with_name("config.yml"))
    check(settings, algorithm_class(args.algo))
    return args, settings


def _arguments(path: Path) -> dict[str, Any]:
    """Return the arguments that a run began with; ConfigError where the file is damaged."""
    arguments = read_mapping(path)
    needed = vars(parser().parse_args(["train"])).keys() - {"command", "resume"}
    if missing := sorted(needed - arguments.keys()):
        raise ConfigError(
            f"{path} is damaged, {', '.join(missing)} missing: "
            f"{path.with_name('command.txt')} has the command of the run"
        )
    return arguments
