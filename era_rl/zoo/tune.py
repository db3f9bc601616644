"""The search for settings: rl_zoo3's, in its search spaces of the host algorithms and those of ERA."""

import argparse
import copy
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import optuna
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from rl_zoo3.utils import ALGOS
from sqlalchemy.exc import SQLAlchemyError
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from era_rl.devices import check_device, set_threads
from era_rl.runs.agent import ALGORITHMS, algorithm_class
from era_rl.runs.settings import SettingsError
from era_rl.runs.yaml_files import override, write_mapping
from era_rl.sb3.run import Run
from era_rl.sb3.run_settings import config_path, entry_for, in_words, with_objects
from era_rl.zoo.cli import Tune
from era_rl.zoo.commands import run_of

SPACES = dict(HYPERPARAMS_SAMPLER)
"""rl_zoo3's search spaces."""

# algorithm -> the one whose search space rl_zoo3 has: SAC's for those of a kind that has none there
HOSTS = {
    name: kind if (kind := name.partition("_")[0]) in SPACES else "sac"
    for name in ALGORITHMS
    if name not in SPACES
}
HOSTS["recurrent_ppo_era"] = "ppo_lstm"

DRAWN = "settings"
"""Name under which a trial keeps what was drawn and fixed, as settings."""


def tune(search: Tune, **arguments: Any) -> None:
    """Search for settings with Optuna; the report and the best trial go to the folder of runs.

    What ``--params`` gives is not searched. The best trial's settings become a file for ``--config``.
    """
    run, _ = run_of(search, **arguments)
    _check_storage(search.storage)
    check_device(run.device)
    register_search_spaces(run.settings, _names(override({}, search.params)))
    ALGOS[run.algo] = algorithm_class(run.algo)
    set_threads(run.threads, 0)  # of many sizes; several searches may share a machine
    set_random_seed(run.seed)
    experiment = Search(run, search)
    try:
        experiment.setup_experiment()
    except (TypeError, ValueError, AssertionError, gymnasium.error.Error) as error:
        raise SettingsError(f"{run.algo} on {run.env}: {error}") from error
    experiment.hyperparameters_optimization()
    _write_best(experiment, search)


def _write_best(experiment: "Search", search: Tune) -> None:
    """Write the best trial's settings, and say how to train with them."""
    run = experiment.run
    zoos = entry_for(run.env, search.config or config_path(run.algo))
    best = experiment.study.best_trial.user_attrs.get(DRAWN)
    if best is None:
        sys.stdout.write("the best trial is of an earlier version: the report has its settings\n")
        return
    steps = {"n_timesteps": zoos.get("n_timesteps", run.total_steps)}  # not those of a trial
    settings = {**run.settings, **steps, **best}
    path = search.out / run.algo / f"{run.name}_best.yml"
    write_mapping(path, {run.env: settings})
    command = ["era-zoo", "train", "--algo", run.algo, "--env", run.env, "--config", str(path)]
    sys.stdout.write(f"to train with the best settings: {shlex.join(command)}\n")


class Search(ExperimentManager):
    """rl_zoo3's search, from the settings of a run; a trial that diverges is pruned."""

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


def register_search_spaces(settings: Mapping[str, Any], fixed: Collection[str]) -> None:
    """Give rl_zoo3's optimiser the search spaces of the zoo's algorithms.

    Args:
        settings: What is varied.
        fixed: Names of settings that are not, those within ``policy_kwargs`` and the like too.
    """
    for name in ALGORITHMS:
        HYPERPARAMS_SAMPLER[name] = partial(_sample, name, settings, fixed)


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


class _Part:
    """A trial that draws nothing for what is fixed; any value of the space stands for it meanwhile."""

    def __init__(self, trial: optuna.Trial, fixed: Collection[str]) -> None:
        self.trial, self.fixed = trial, fixed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trial, name)

    def _is_fixed(self, name: str) -> bool:
        # rl_zoo3 draws some in another form
        return name.removeprefix("one_minus_").removesuffix("_pow") in self.fixed

    def suggest_int(self, name: str, low: int, high: int, **kwargs: Any) -> int:
        return low if self._is_fixed(name) else self.trial.suggest_int(name, low, high, **kwargs)

    def suggest_float(self, name: str, low: float, high: float, **kwargs: Any) -> float:
        return low if self._is_fixed(name) else self.trial.suggest_float(name, low, high, **kwargs)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return choices[0] if self._is_fixed(name) else self.trial.suggest_categorical(name, choices)

    def set_user_attr(self, name: str, value: Any) -> None:
        if not self._is_fixed(name):
            self.trial.set_user_attr(name, value)


def _sample(
    name: str,
    settings: Mapping[str, Any],
    fixed: Collection[str],
    trial: optuna.Trial,
    n_actions: int,
    n_envs: int,
    additional_args: dict[str, Any],
) -> dict[str, Any]:
    """Draw the settings of a trial that are not fixed (a search space of rl_zoo3's)."""
    fixed = {*fixed, *_absent(name)}
    part: Any = _Part(trial, fixed)
    drawn = SPACES[HOSTS.get(name, name)](part, n_actions, n_envs, additional_args)
    if ALGORITHMS[name][0] == "era_rl.sb3":
        drawn.update(sample_era(part, n_actions))
    drawn = in_words(_without(fixed, drawn))
    for key in {k for k, v in drawn.items() if isinstance(v, dict)} & settings.keys():
        drawn[key] = {**settings[key], **drawn[key]}
    trial.set_user_attr(DRAWN, drawn)
    return with_objects(drawn)


def _absent(name: str) -> set[str]:
    """Return what a host's space draws and the algorithm does not have, or ERA has the floor for."""
    absent = {"ent_coef"} if ALGORITHMS[name][0] == "era_rl.sb3" else set()
    if name.startswith("crossq"):
        absent.add("tau")  # it has no targets
    if "simba" in name:
        absent |= {"net_arch", "activation_fn"}  # blocks of several widths
    return absent


def _names(settings: Mapping[str, Any]) -> set[str]:
    """Return the names of settings, and of those within ``policy_kwargs`` and the like."""
    within = [name for name in settings if name.endswith("_kwargs")]
    return {*(settings.keys() - within), *(key for name in within for key in settings[name])}


def _without(fixed: Collection[str], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those of some names, and mappings without them."""
    kept = {name: value for name, value in drawn.items() if name not in fixed}
    return {
        name: {k: v for k, v in value.items() if k not in fixed}
        if name.endswith("_kwargs")
        else value
        for name, value in kept.items()
    }
