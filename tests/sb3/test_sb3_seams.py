"""Every hook of Stable-Baselines3 and sb3-contrib that we override is there, as we rely on it."""

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
import torch
from sb3_contrib import TQC, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.distributions import (
    MaskableCategoricalDistribution,
    MaskableMultiCategoricalDistribution,
)
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.torch_layers import BatchRenorm1d
from sb3_contrib.crossq.policies import Actor as CrossQActor
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.tqc.policies import Actor as TQCActor
from sb3_contrib.tqc.policies import TQCPolicy
from sb3_family import BOX, make_env
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy, ContinuousCritic
from stable_baselines3.sac.policies import Actor, SACPolicy

import era_rl.sb3
from tests.seams import check_attribute, check_hook

SB3, CONTRIB = "stable-baselines3", "sb3-contrib"
OFF_POLICY = ((SB3, SAC), (CONTRIB, TQC), (CONTRIB, CrossQ))
ON_POLICY = ((SB3, PPO), (SB3, A2C), (CONTRIB, MaskablePPO), (CONTRIB, RecurrentPPO))
OFF_POLICIES = ((SB3, SACPolicy), (CONTRIB, TQCPolicy), (CONTRIB, CrossQPolicy))
ACTORS = ((SB3, Actor), (CONTRIB, TQCActor), (CONTRIB, CrossQActor))
ON_POLICIES = (
    (SB3, ActorCriticPolicy),
    (CONTRIB, MaskableActorCriticPolicy),
    (CONTRIB, RecurrentActorCriticPolicy),
)
BUFFERS = ((SB3, ReplayBuffer),)
CALLBACK = ((SB3, BaseCallback),)
CATEGORICALS = ((SB3, CategoricalDistribution), (SB3, MultiCategoricalDistribution))
MASKABLE = (
    (CONTRIB, MaskableCategoricalDistribution),
    (CONTRIB, MaskableMultiCategoricalDistribution),
)
NORMALS = ((SB3, DiagGaussianDistribution), (SB3, SquashedDiagGaussianDistribution))
DISTRIBUTION = ((SB3, Distribution),)

HOOKS: list[tuple[tuple[tuple[str, Any], ...], str, str]] = [
    (OFF_POLICY, "train", "self gradient_steps batch_size"),
    (
        OFF_POLICY,
        "_store_transition",
        "self replay_buffer buffer_action new_obs reward dones infos",
    ),
    (ON_POLICY, "train", "self"),
    (ON_POLICY, "_maybe_recommend_cpu", "self mlp_class_name"),
    (OFF_POLICY, "dump_logs", "self"),
    (ON_POLICY, "dump_logs", "self iteration"),
    (OFF_POLICY + ON_POLICY, "_setup_model", "self"),
    (
        OFF_POLICY + ON_POLICY,
        "_setup_learn",
        "self total_timesteps callback reset_num_timesteps tb_log_name progress_bar",
    ),
    (OFF_POLICY + ON_POLICY, "learn", "self total_timesteps callback log_interval tb_log_name"),
    (OFF_POLICY + ON_POLICY, "_get_policy_from_name", "self policy_name"),
    (OFF_POLICY + ON_POLICY, "_excluded_save_params", "self"),
    (OFF_POLICY + ON_POLICY, "_get_torch_save_params", "self"),
    (OFF_POLICIES, "make_actor", "self features_extractor"),
    (OFF_POLICIES, "make_critic", "self features_extractor"),
    (OFF_POLICIES, "make_features_extractor", "self"),
    (OFF_POLICIES, "_update_features_extractor", "self net_kwargs features_extractor"),
    (OFF_POLICIES + ON_POLICIES, "set_training_mode", "self mode"),
    (OFF_POLICIES + ON_POLICIES, "_build", "self lr_schedule"),
    (OFF_POLICIES + ON_POLICIES + ACTORS, "_get_constructor_parameters", "self"),
    (ACTORS, "forward", "self obs deterministic"),
    (ACTORS, "get_action_dist_params", "self obs"),
    (ACTORS, "action_log_prob", "self obs"),
    (ACTORS, "extract_features", "self obs features_extractor"),
    (ON_POLICIES, "_get_action_dist_from_latent", "self latent_pi"),
    (ON_POLICIES[:2], "forward", "self obs deterministic"),
    (OFF_POLICIES + ON_POLICIES[:2], "_predict", "self observation deterministic"),
    (OFF_POLICY + ON_POLICY, "set_parameters", "self load_path_or_dict exact_match device"),
    (OFF_POLICY + ON_POLICY, "_update_learning_rate", "self optimizers"),
    (CALLBACK, "_on_training_start", "self"),
    (ON_POLICIES[:2], "evaluate_actions", "self obs actions"),
    (ON_POLICIES[:2], "get_distribution", "self obs"),
    (OFF_POLICY, "collect_rollouts", "self env callback train_freq replay_buffer"),
    (ON_POLICY, "collect_rollouts", "self env callback rollout_buffer n_rollout_steps"),
    *(
        (owners, "predict", "self observation state episode_start deterministic")
        for owners in (OFF_POLICY + ON_POLICY, OFF_POLICIES + ON_POLICIES)
    ),
    (OFF_POLICY + ON_POLICY, "save", "self path exclude include"),
    (OFF_POLICIES + ON_POLICIES, "save", "self path"),
    (OFF_POLICY + ON_POLICY, "load", "path env device custom_objects"),
    (BUFFERS, "add", "self obs next_obs action reward done infos"),
    (BUFFERS, "_get_samples", "self batch_inds env"),
    *((CALLBACK, hook, "self") for hook in ("_init_callback", "_on_step", "_on_training_end")),
    *((CALLBACK, hook, "self") for hook in ("_on_rollout_start", "_on_rollout_end")),
    (((CONTRIB, BatchRenorm1d),), "forward", "self x"),
    (((SB3, ContinuousCritic),), "forward", "self obs actions"),
    (
        ((CONTRIB, RecurrentActorCriticPolicy),),
        "_process_sequence",
        "features lstm_states episode_starts lstm",
    ),
    (MASKABLE, "apply_masking", "self masks"),
    (MASKABLE, "proba_distribution", "self action_logits"),
    (NORMALS, "proba_distribution", "self mean_actions log_std"),
    (DISTRIBUTION, "actions_from_params", "self"),
    (DISTRIBUTION, "log_prob_from_params", "self"),
    (NORMALS + DISTRIBUTION, "log_prob", "self actions"),
    (NORMALS + DISTRIBUTION, "get_actions", "self deterministic"),
    *((NORMALS + DISTRIBUTION, name, "self") for name in ("entropy", "sample", "mode")),
    (DISTRIBUTION, "proba_distribution", "self"),
    (DISTRIBUTION, "proba_distribution_net", "self"),
    (((SB3, CategoricalDistribution),), "__init__", "self action_dim"),
    (CATEGORICALS, "proba_distribution", "self action_logits"),
]
CASES = [
    pytest.param(package, owner, name, parameters, id=f"{package}-{owner.__name__}-{name}")
    for owners, name, parameters in HOOKS
    for package, owner in owners
]


@pytest.mark.parametrize(("package", "owner", "name", "parameters"), CASES)
def test_the_hook_is_there(package: str, owner: Any, name: str, parameters: str) -> None:
    check_hook(package, owner, name, parameters)


def _overridden() -> set[tuple[type, str]]:
    """Return every method of a host that a class of ours overrides, by the host's class."""
    found = set()
    for info in pkgutil.iter_modules(era_rl.sb3.__path__):
        module = importlib.import_module(f"era_rl.sb3.{info.name}")
        for cls in filter(inspect.isclass, vars(module).values()):
            mro = cls.__mro__ if cls.__module__.startswith("era_rl.") else ()
            hosts = [
                c for c in mro if c.__module__.startswith(("stable_baselines3", "sb3_contrib"))
            ]
            ours = [c for c in mro if c.__module__.startswith("era_rl.")]
            names = {
                name for c in ours for name, value in vars(c).items() if _is_method(name, value)
            }
            found |= {(c, name) for name in names for c in hosts if name in vars(c)}
    return found


def _is_method(name: str, value: Any) -> bool:
    return not name.startswith("__") and (
        inspect.isroutine(value) or isinstance(value, property | classmethod)
    )


def test_every_method_that_we_override_is_in_the_list() -> None:
    """By the classes' own method resolution order, so that none can be missed."""
    listed = [(owner, name) for owners, name, _ in HOOKS for _, owner in owners]
    missed = {
        f"{host.__name__}.{name}"
        for host, name in _overridden()
        if not any(name == hook and issubclass(owner, host) for owner, hook in listed)
    }
    assert missed == set()


def test_a_hook_that_is_gone_is_reported_with_the_version() -> None:
    with pytest.raises(
        AssertionError, match=r"stable-baselines3 \d+\.\d+.*: SAC has no learn_more"
    ):
        check_hook(SB3, SAC, "learn_more", "self")
    with pytest.raises(
        AssertionError, match=r"SAC\.train\(self, gradient_steps, batch_size\), era_rl"
    ):
        check_hook(SB3, SAC, "train", "self batch_size")
    with pytest.raises(AssertionError, match="needs gradient_steps, of which era_rl does not know"):
        check_hook(SB3, SAC, "train", "self")


def _small(host: Any, env: Any, **kwargs: Any) -> Any:
    return host("MlpPolicy", env, policy_kwargs={"net_arch": [4]}, device="cpu", **kwargs)


@pytest.mark.parametrize(("package", "host"), OFF_POLICY, ids=["SAC", "TQC", "CrossQ"])
def test_attributes_of_off_policy_models(package: str, host: Any) -> None:
    model = _small(host, make_env(BOX), buffer_size=10)
    for name in ("actor", "critic", "_n_updates", "replay_buffer", "train_freq", "gradient_steps"):
        check_attribute(package, model, name)
    for name in ("_vec_normalize_env", "policy_aliases", "ent_coef", "num_timesteps", "_last_obs"):
        check_attribute(package, model, name)
    for name in ("mu", "log_std", "latent_pi", "action_dist", "features_extractor", "optimizer"):
        check_attribute(package, model.actor, name)
    if host is SAC:
        for name in ("batch_norm_stats", "batch_norm_stats_target", "critic_target", "tau"):
            check_attribute(package, model, name)
        assert model.target_update_interval >= 1
        critics = model.critic(torch.zeros(2, 2), torch.zeros(2, 2))
        assert [q.shape for q in critics] == [(2, 1)] * 2, f"{package}: critics return {critics}"


@pytest.mark.parametrize(("package", "host"), ON_POLICY[:2], ids=["PPO", "A2C"])
def test_attributes_of_on_policy_models(package: str, host: Any) -> None:
    model = _small(host, make_env(BOX), n_steps=64)
    for name in ("rollout_buffer", "_n_updates", "_last_obs", "n_envs"):
        check_attribute(package, model, name)
    for name in ("observations", "actions", "rewards"):
        check_attribute(package, model.rollout_buffer, name)
    for name in ("action_net", "mlp_extractor", "pi_features_extractor", "_squash_output"):
        check_attribute(package, model.policy, name)
    check_attribute(package, model.policy.mlp_extractor, "forward_actor")
    check_attribute(package, model.policy.mlp_extractor, "policy_net")


def test_the_loggers_pending_values() -> None:
    logger = Logger(None, [])
    for name in ("name_to_value", "name_to_count", "name_to_excluded"):
        check_attribute(SB3, logger, name)
    logger.record("train/loss", 1.0)
    assert logger.name_to_value["train/loss"] == 1.0


def test_transitions_of_the_replay_buffer() -> None:
    model = _small(SAC, make_env(BOX), buffer_size=20)
    data = model.learn(10).replay_buffer.sample(4)
    for name in ("observations", "actions", "next_observations", "dones", "rewards", "discounts"):
        check_attribute(SB3, data, name)
