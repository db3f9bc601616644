"""Saving, loading and resuming SACERA."""

import copy
import types
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from resuming import loaded_to_go_on
from sb3_toys import NormalisedExtractor, TargetEnv, small_sacera, states, trained
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file

from era_rl.sb3 import SACERA, HeadDistribution, SACERAPolicy

OPTIONS: list[dict[str, Any]] = [
    {},
    {"slack": 0.3, "target_entropy": -1.5},
    {"floor": "gaussian", "delta": "auto"},
    {"floor": "gaussian", "delta": 0.1, "log_std_min": -5.0, "log_std_max": -0.5},
    {"floor": "gaussian", "distribution": "tanh"},
    {"layer_norm": True, "policy_kwargs": {"critic_weight_decay": 1e-2}},
    {"policy_kwargs": {"features_extractor_class": NormalisedExtractor}},
    {"policy_kwargs": {"share_features_extractor": True, "n_critics": 3}},
]


def assert_same_actions(first: Any, second: Any, obs: np.ndarray) -> None:
    """Assert that modes, samples under one seed and entropies are exactly equal."""
    assert np.array_equal(
        first.predict(obs, deterministic=True)[0], second.predict(obs, deterministic=True)[0]
    )
    samples = []
    for model in (first, second):
        torch.manual_seed(5)
        samples.append(model.predict(obs)[0])
    assert np.array_equal(*samples)


@pytest.fixture(scope="module", params=OPTIONS, ids=str)
def model(request: pytest.FixtureRequest) -> SACERA:
    """A trained model, not to be trained further."""
    return trained(small_sacera(**request.param))


def test_a_loaded_model_is_equal(model: SACERA, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = SACERA.load(tmp_path / "model", device="cpu")
    obs = states(model, 20)
    assert_same_actions(model, loaded, obs.numpy())
    assert torch.equal(model.policy.entropy(obs), loaded.policy.entropy(obs))
    assert loaded.target_entropy == model.target_entropy
    assert loaded.policy_kwargs == model.policy_kwargs
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[name])


def test_a_loaded_policy_is_equal(model: SACERA, tmp_path: Path) -> None:
    model.policy.save(str(tmp_path / "policy"))
    obs = states(model, 20)
    for policy in (
        SACERAPolicy.load(str(tmp_path / "policy"), device="cpu"),
        cloudpickle.loads(cloudpickle.dumps(model.policy)),
        copy.deepcopy(model.policy),
    ):
        assert_same_actions(model.policy, policy, obs.numpy())
        assert torch.equal(model.policy.entropy(obs), policy.entropy(obs))
        assert policy.target_entropy == model.policy.target_entropy


def _optimizer_states(model: SACERA) -> list[Any]:
    optimizers = [model.actor.optimizer, model.critic.optimizer]
    if model.learn_delta:
        optimizers.append(model.delta_optimizer)
    return [optimizer.state_dict() for optimizer in optimizers]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_resumed_training_equals_uninterrupted_training(
    options: dict[str, Any], tmp_path: Path
) -> None:
    model = trained(small_sacera(**options))
    resumed = loaded_to_go_on(model, tmp_path, 30)
    assert (resumed.num_timesteps, resumed._n_updates) == (model.num_timesteps, model._n_updates)
    torch.testing.assert_close(
        _optimizer_states(model), _optimizer_states(resumed), rtol=0.0, atol=0.0
    )
    if model.learn_delta:
        assert model.delta_learner().item() > 0.0
        assert torch.equal(model.delta_learner(), resumed.delta_learner())


def test_training_in_two_calls_equals_training_in_one() -> None:
    once = small_sacera().learn(70)
    twice = small_sacera().learn(40).learn(30, reset_num_timesteps=False)
    for name, value in once.policy.state_dict().items():
        assert torch.equal(value, twice.policy.state_dict()[name])


def test_loads_onto_another_environment(tmp_path: Path) -> None:
    model = trained(small_sacera())
    model.save(tmp_path / "model")
    env = make_vec_env(lambda: TargetEnv(horizon=3), n_envs=3)
    loaded = SACERA.load(tmp_path / "model", env=env, device="cpu", buffer_size=300)
    assert loaded.n_envs == 3
    assert trained(loaded)._n_updates > 0
    with pytest.raises(ValueError, match="Action spaces do not match"):
        SACERA.load(tmp_path / "model", env=TargetEnv(bounds=(-2.0, 2.0)), device="cpu")


@pytest.mark.parametrize("options", [{"slack": 0.3}, {"floor": "gaussian", "delta": "auto"}])
def test_loading_does_not_take_another_floor(options: dict[str, Any], tmp_path: Path) -> None:
    """Which SB3 would set as attributes that nothing reads."""
    small_sacera(**options, target_entropy=-1.5).save(tmp_path / "model")
    SACERA.load(tmp_path / "model", device="cpu", target_entropy=-1.5, **options)
    with pytest.raises(ValueError, match=r"target_entropy=-3.0 must be -1.5, or left out"):
        SACERA.load(tmp_path / "model", device="cpu", target_entropy=-3.0)
    with pytest.raises(ValueError, match=r"target_entropy=-3.0 must be -1.5, or left out"):
        SACERA.load(tmp_path / "model", device="cpu", custom_objects={"target_entropy": -3.0})
    other = small_sacera(**options, target_entropy=-3.0)
    other.set_parameters(str(tmp_path / "model"), device="cpu")
    assert other.policy.head.target_entropy == -1.5  # a floor is part of what a model is


def test_sets_parameters_of_another_model() -> None:
    model = trained(small_sacera(floor="gaussian", delta="auto"))
    other = small_sacera(seed=1, floor="gaussian", delta="auto")
    other.set_parameters(model.get_parameters(), device="cpu")
    assert_same_actions(model, other, states(model, 10).numpy())
    assert torch.equal(model.delta_learner(), other.delta_learner())


def test_a_file_holds_what_sacs_does_and_the_arguments(model: SACERA, tmp_path: Path) -> None:
    sac = SAC("MlpPolicy", TargetEnv(), ent_coef=0.1, device="cpu").learn(10)
    sac.save(tmp_path / "sac")
    model.save(tmp_path / "sacera")
    expected, _, _ = load_from_zip_file(tmp_path / "sac", device="cpu")
    data, parameters, _ = load_from_zip_file(tmp_path / "sacera", device="cpu")
    assert expected is not None
    assert data is not None
    own = {"compile", "saved_as"}
    assert set(data) - set(expected) == own
    for name, value in data.items():
        assert not isinstance(value, torch.Tensor | torch.nn.Module | types.FunctionType), name
    assert set(parameters) == {"policy", "actor.optimizer", "critic.optimizer"}


def test_a_model_can_be_pickled_whole() -> None:
    model = trained(small_sacera())
    restored = cloudpickle.loads(cloudpickle.dumps(model))
    assert_same_actions(model, restored, states(model, 10).numpy())
    assert isinstance(restored.actor.action_dist, HeadDistribution)
    restored.learn(30, reset_num_timesteps=False)
    assert restored._n_updates == model._n_updates + 30
