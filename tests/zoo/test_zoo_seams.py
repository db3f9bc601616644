"""Every hook of rl_zoo3 that the search for settings overrides or calls is as it relies on it."""

from typing import Any

import pytest
import rl_zoo3.hyperparams_opt
import rl_zoo3.utils
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.base_class import BaseAlgorithm

from tests.seams import check_attribute, check_hook

HOOKS: list[tuple[Any, str, str]] = [
    (ExperimentManager, "__init__", "self args algo env_id log_folder"),
    (ExperimentManager, "read_hyperparameters", "self"),
    (ExperimentManager, "create_log_folder", "self"),
    (ExperimentManager, "create_envs", "self n_envs eval_env no_log"),
    (ExperimentManager, "setup_experiment", "self"),
    (ExperimentManager, "objective", "self trial"),
    (ExperimentManager, "hyperparameters_optimization", "self"),
]


@pytest.mark.parametrize(
    ("owner", "name", "parameters"), [pytest.param(*hook, id=hook[1].strip("_")) for hook in HOOKS]
)
def test_the_hook_is_there(owner: Any, name: str, parameters: str) -> None:
    check_hook("rl_zoo3", owner, name, parameters)


def test_environments_are_wrapped_as_a_model_wraps_them() -> None:
    """SB3's own wrapping of images, which evaluation environments need too."""
    check_hook("stable_baselines3", BaseAlgorithm, "_wrap_env", "env verbose monitor_wrapper")


ARGUMENTS = "seed device vec_env_type verbose eval_freq n_eval_episodes optimize_hyperparameters"
ARGUMENTS += " n_trials n_jobs sampler pruner n_startup_trials n_evaluations storage study_name"
ARGUMENTS += " no_optim_plots env_kwargs"


def test_the_experiment_takes_our_arguments() -> None:
    import inspect

    found = inspect.signature(ExperimentManager.__init__).parameters
    missing = set(ARGUMENTS.split()) - found.keys()
    assert not missing, f"rl_zoo3's ExperimentManager takes no {', '.join(sorted(missing))}"


def test_its_tables_are_shared_dicts_of_algorithms() -> None:
    """Which the zoo adds its own to."""
    for module, name in (
        (rl_zoo3.utils, "ALGOS"),
        (rl_zoo3.hyperparams_opt, "HYPERPARAMS_SAMPLER"),
    ):
        check_attribute("rl_zoo3", module, name)
        assert isinstance(getattr(module, name), dict)
        assert {"sac", "tqc", "ppo", "a2c"} <= getattr(module, name).keys()
    assert issubclass(rl_zoo3.utils.ALGOS["sac"], BaseAlgorithm)
    assert rl_zoo3.exp_manager.ALGOS is rl_zoo3.utils.ALGOS
