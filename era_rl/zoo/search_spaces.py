"""Optuna search spaces: rl_zoo3's of the host algorithm, and the arguments of ERA."""

from functools import partial
from typing import Any

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from era_rl.zoo.algorithms import ALGORITHMS

# algorithm -> the one whose search space rl_zoo3 has; CrossQ has none there
HOSTS = {
    "sac_era": "sac",
    "sac_era_paper": "sac",
    "fastsac_era": "sac",
    "sac_paper": "sac",
    "crossq_era": "sac",
    "crossq": "sac",
    "tqc_era": "tqc",
    "ppo_era": "ppo",
    "a2c_era": "a2c",
}


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
    """Drop what the host's space draws and the algorithm does not have: CrossQ's targets."""
    return {k: v for k, v in settings.items() if not (name.startswith("crossq") and k == "tau")}
