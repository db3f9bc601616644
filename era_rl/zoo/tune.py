"""The search for settings: rl_zoo3's, in its search spaces of the host algorithms and those of ERA."""

import argparse
import copy
from functools import partial
from typing import Any

import gymnasium
import optuna
import torch
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS
from sqlalchemy.exc import SQLAlchemyError
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from era_rl.devices import check_device
from era_rl.runs.agent import ALGORITHMS, algorithm_class
from era_rl.runs.settings import SettingsError
from era_rl.sb3.run import Run
from era_rl.sb3.run_settings import with_objects
from era_rl.zoo.cli import Tune
from era_rl.zoo.commands import run_of

# algorithm -> the one whose search space rl_zoo3 has: SAC's for those of a kind that has none there
HOSTS = {
    name: kind if (kind := name.partition("_")[0]) in HYPERPARAMS_SAMPLER else "sac"
    for name in ALGORITHMS
    if name not in HYPERPARAMS_SAMPLER
}


def tune(search: Tune, **arguments: Any) -> None:
    """Search for settings with Optuna; the report and the best trial go to the folder of runs."""
    run = run_of(search, **arguments)
    _check_storage(search.storage)
    check_device(run.device)
    register_search_spaces()
    ALGOS[run.algo] = algorithm_class(run.algo)
    if run.threads > 0:
        torch.set_num_threads(run.threads)
    set_random_seed(run.seed)
    experiment = Search(run, search)
    try:
        experiment.setup_experiment()
    except (TypeError, ValueError, AssertionError, gymnasium.error.Error) as error:
        raise SettingsError(f"{run.algo} on {run.env}: {error}") from error
    experiment.hyperparameters_optimization()


class Search(ExperimentManager):
    """rl_zoo3's search, from the settings of a run; a trial that diverges is pruned.

    Args:
        run: The run whose settings are varied.
        search: How.
    """

    def __init__(self, run: Run, search: Tune) -> None:
        self.run = run
        names = ("n_trials", "n_jobs", "n_startup_trials", "n_evaluations", "sampler", "pruner")
        super().__init__(
            argparse.Namespace(),
            run.algo,
            run.env,
            str(search.out),
            env_kwargs=run.settings.get("env_kwargs", {}),
            optimize_hyperparameters=True,
            seed=run.seed,
            device=run.device,
            vec_env_type=run.vec_env,
            verbose=run.verbose,
            eval_freq=-1,
            n_eval_episodes=run.eval_episodes,
            storage=search.storage,
            study_name=search.study_name,
            no_optim_plots=True,
            **{name: getattr(search, name) for name in names},
        )

    def read_hyperparameters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings for use and for the record (rl_zoo3's hook)."""
        return with_objects(self.run.settings), copy.deepcopy(self.run.settings)

    def create_log_folder(self) -> None:
        """Make none: a search writes a report and no run (rl_zoo3's hook)."""

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """Return environments that log nothing (rl_zoo3's hook)."""
        return super().create_envs(n_envs, eval_env, no_log=True)

    def objective(self, trial: optuna.Trial) -> float:
        """Return a trial's return; one that diverges is pruned, as by ValueError (rl_zoo3's hook)."""
        self.study = trial.study
        try:
            return super().objective(trial)
        except FloatingPointError as error:
            raise optuna.TrialPruned(str(error)) from error

    def hyperparameters_optimization(self) -> None:
        """Search, and write the report (rl_zoo3's hook).

        Raises:
            FloatingPointError: If no trial was finished.
        """
        try:
            super().hyperparameters_optimization()
        except ValueError as error:  # Optuna's, where there is no best trial
            if self.study.get_trials(states=[optuna.trial.TrialState.COMPLETE]):
                raise
            raise FloatingPointError(
                f"none of {len(self.study.trials)} trials was finished: they diverged or were pruned"
            ) from error


def _check_storage(storage: str | None) -> None:
    """Raise SettingsError for the address of a data base that Optuna cannot open."""
    if storage is not None and not storage.endswith(".log"):
        try:
            optuna.storages.get_storage(storage)
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise SettingsError(f"--storage {storage}: {error}") from error


def register_search_spaces() -> None:
    """Give rl_zoo3's optimiser the search spaces of the zoo's algorithms."""
    for name in HOSTS:
        HYPERPARAMS_SAMPLER[name] = partial(_sample, name)
        HYPERPARAMS_CONVERTER[name] = partial(_convert, name)


def sample_era(trial: optuna.Trial, action_dim: int) -> dict[str, Any]:
    """Draw the arguments of the floor.

    H0 is drawn from -1 to -0.1 nats a dimension, the range of the paper's ablation; for discrete
    actions (``action_dim`` 0) from 5% to 60% of the largest entropy.
    """
    if action_dim == 0:
        return {
            "target_entropy_fraction": trial.suggest_float("target_entropy_fraction", 0.05, 0.6)
        }
    settings: dict[str, Any] = {
        "target_entropy": trial.suggest_float("target_entropy", -action_dim, -0.1 * action_dim),
        "log_std_min": trial.suggest_float("log_std_min", -8.0, -4.0),
        "floor": trial.suggest_categorical("floor", ["exact", "gaussian"]),
    }
    if settings["floor"] == "exact":
        settings["slack"] = trial.suggest_categorical("slack", [None, 0.05, 0.2])
    return settings


def _sample(
    name: str, trial: optuna.Trial, n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, Any]:
    settings = HYPERPARAMS_SAMPLER[HOSTS[name]](trial, n_actions, n_envs, additional_args)
    if ALGORITHMS[name][0] == "era_rl.sb3":
        settings.update(sample_era(trial, n_actions))
    return _without_foreign(name, settings)


def _convert(name: str, sampled_params: dict[str, Any]) -> dict[str, Any]:
    return _without_foreign(name, HYPERPARAMS_CONVERTER[HOSTS[name]](sampled_params))


def _without_foreign(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Drop what the host's space draws and the algorithm does not have."""
    foreign = {"tau"} if name.startswith("crossq") else set()  # it has no targets
    if "simba" in name:
        foreign = {"policy_kwargs"}  # blocks of several widths
    return {k: v for k, v in settings.items() if k not in foreign}
