"""Every hook of Stable-Baselines3 and sb3-contrib that we override is there, as we rely on it."""

from typing import Any

import pytest
import torch
from sb3_contrib import TQC, CrossQ, MaskablePPO
from sb3_contrib.common.maskable.distributions import MaskableDistribution
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.crossq.policies import Actor as CrossQActor
from sb3_contrib.crossq.policies import CrossQPolicy
from sb3_contrib.tqc.policies import Actor as TQCActor
from sb3_contrib.tqc.policies import TQCPolicy
from sb3_family import BOX, make_env
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.sac.policies import Actor, SACPolicy

from tests.seams import check_attribute, check_hook

SB3, CONTRIB = "stable-baselines3", "sb3-contrib"
OFF_POLICY = ((SB3, SAC), (CONTRIB, TQC), (CONTRIB, CrossQ))
ON_POLICY = ((SB3, PPO), (SB3, A2C), (CONTRIB, MaskablePPO))
OFF_POLICIES = ((SB3, SACPolicy), (CONTRIB, TQCPolicy), (CONTRIB, CrossQPolicy))
ACTORS = ((SB3, Actor), (CONTRIB, TQCActor), (CONTRIB, CrossQActor))
ON_POLICIES = ((SB3, ActorCriticPolicy), (CONTRIB, MaskableActorCriticPolicy))

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
    (OFF_POLICY + ON_POLICY, "_excluded_save_params", "self"),
    (OFF_POLICY + ON_POLICY, "_get_torch_save_params", "self"),
    (OFF_POLICIES, "make_actor", "self features_extractor"),
    (OFF_POLICIES, "make_critic", "self features_extractor"),
    (OFF_POLICIES, "make_features_extractor", "self"),
    (OFF_POLICIES, "_update_features_extractor", "self net_kwargs features_extractor"),
    (OFF_POLICIES, "set_training_mode", "self mode"),
    (OFF_POLICIES + ON_POLICIES, "_build", "self lr_schedule"),
    (OFF_POLICIES + ON_POLICIES + ACTORS, "_get_constructor_parameters", "self"),
    (ACTORS, "forward", "self obs deterministic"),
    (ACTORS, "get_action_dist_params", "self obs"),
    (ACTORS, "action_log_prob", "self obs"),
    (ACTORS, "extract_features", "self obs features_extractor"),
    (ON_POLICIES, "_get_action_dist_from_latent", "self latent_pi"),
    (ON_POLICIES, "forward", "self obs deterministic"),
    (ON_POLICIES, "evaluate_actions", "self obs actions"),
    (ON_POLICIES, "get_distribution", "self obs"),
    (((CONTRIB, MaskableDistribution),), "apply_masking", "self masks"),
    (((SB3, CategoricalDistribution),), "__init__", "self action_dim"),
]
CASES = [
    pytest.param(package, owner, name, parameters, id=f"{package}-{owner.__name__}-{name}")
    for owners, name, parameters in HOOKS
    for package, owner in owners
]


@pytest.mark.parametrize(("package", "owner", "name", "parameters"), CASES)
def test_the_hook_is_there(package: str, owner: Any, name: str, parameters: str) -> None:
    check_hook(package, owner, name, parameters)


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
