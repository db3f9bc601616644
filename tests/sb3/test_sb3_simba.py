"""SimbaPolicy: networks, normaliser and optimizer, beside every other option."""

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_family import FAMILY, same_parameters, some_states
from sb3_toys import TargetEnv
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from era_rl.networks import SimbaEncoder
from era_rl.sb3 import DeviceReplayBuffer, EntropyMonitor

HOSTS = pytest.mark.parametrize("name", ["SACERA", "TQCERA"])
SIZES = {"pi": [8], "qf": [8, 8]}


def simba(name: str, env: Any = None, policy: Any = "SimbaPolicy", **kwargs: Any) -> Any:
    """Return a small model whose observations are far from standard."""
    policy_kwargs = {"net_arch": SIZES, **kwargs.pop("policy_kwargs", {})}
    defaults = {"learning_starts": 20, "batch_size": 16, "buffer_size": 400, "seed": 0}
    env = TargetEnv(horizon=10) if env is None else env
    return FAMILY[name](
        policy, env, policy_kwargs=policy_kwargs, device="cpu", **{**defaults, **kwargs}
    )


def norm(model: Any) -> Any:
    return model.actor.features_extractor.norm


@HOSTS
def test_has_the_recipe_s_networks_and_optimizer(name: str) -> None:
    """Actor one block of 128, critics two of 256; AdamW, 1e-4, weight decay 1e-2."""
    model = FAMILY[name]("SimbaPolicy", TargetEnv(), buffer_size=10, device="cpu")
    for network, blocks, width in ((model.actor.latent_pi, 1, 128), (model.critic.qf0[0], 2, 256)):
        assert isinstance(network, SimbaEncoder)
        assert (len(network) - 2, network[0].out_features) == (blocks, width)
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        assert type(optimizer) is torch.optim.AdamW
        group = optimizer.param_groups[0]
        assert (group["lr"], group["weight_decay"]) == (1e-4, 1e-2)
    trained = {id(p) for p in model.critic.optimizer.param_groups[0]["params"]}
    assert trained == {id(p) for p in model.critic.parameters()}
    assert simba(name, learning_rate=1e-2).learning_rate == 1e-2


@HOSTS
def test_the_normaliser_has_numpy_s_moments_of_what_was_acted_on(name: str) -> None:
    """Mean and variance over all observations that steps started from, in every network."""
    model = simba(name, make_vec_env(lambda: TargetEnv(horizon=7), 2, seed=0))
    model.learn(60)
    seen = model.replay_buffer.observations[:30].reshape(60, -1)
    for network in (model.actor, model.critic, model.critic_target):
        assert network.features_extractor.norm.count == 60
        np.testing.assert_allclose(network.features_extractor.norm.mean, seen.mean(0), rtol=1e-4)
        np.testing.assert_allclose(network.features_extractor.norm.var, seen.var(0), rtol=1e-4)


@HOSTS
def test_output_layers_begin_orthogonal_and_without_biases(name: str) -> None:
    """W W^T = I of each output layer, as published; targets begin as their critics."""
    model = simba(name, policy_kwargs={"net_arch": {"pi": [16], "qf": [32]}})
    assert same_parameters(model.critic, model.critic_target)
    last = [q_net[-1] for q_net in model.critic.q_networks]
    for layer in (model.actor.mu, model.actor.log_std, *last):
        rows = layer.weight @ layer.weight.T
        torch.testing.assert_close(rows, torch.eye(len(rows)))
        assert not layer.bias.any()


@HOSTS
def test_predict_and_evaluation_leave_the_normaliser_as_it_is(name: str) -> None:
    model = simba(name)
    model.learn(30)
    before = copy.deepcopy(model.policy.state_dict())
    model.predict(some_states(model))
    model.policy.entropy(torch.as_tensor(some_states(model)))
    assert all(torch.equal(before[k], v) for k, v in model.policy.state_dict().items())


@HOSTS
def test_a_loaded_model_predicts_and_resumes_exactly(name: str, tmp_path: Path) -> None:
    model = simba(name, floor="gaussian", delta="auto", target_entropy=0.6)
    model.learn(40)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    env, noise = copy.deepcopy(model.get_env()), (np.random.get_state(), torch.get_rng_state())
    loaded = FAMILY[name].load(tmp_path / "model", env=env, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert same_parameters(model.policy, loaded.policy)
    assert norm(loaded).count == 40
    assert norm(loaded) is loaded.critic.features_extractor.norm
    loaded._last_obs = copy.deepcopy(model._last_obs)
    model.env = copy.deepcopy(env)
    for each in (model, loaded):
        np.random.set_state(noise[0])
        torch.set_rng_state(noise[1])
        each.learn(20, reset_num_timesteps=False)
    assert same_parameters(model.policy, loaded.policy)
    assert norm(model).count == norm(loaded).count == 60
    loaded.policy.save(str(tmp_path / "policy"))
    policy = type(loaded.policy).load(str(tmp_path / "policy"), device="cpu")
    assert same_parameters(policy, loaded.policy)


@HOSTS
@pytest.mark.parametrize(
    "option", [{"slack": 0.3}, {"n_steps": 3}, {"replay_buffer_class": DeviceReplayBuffer}]
)
def test_floors_hold_beside_other_options(name: str, option: dict[str, Any]) -> None:
    monitor = EntropyMonitor(check_freq=10)
    model = simba(name, **option)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(30, callback=monitor)
    assert monitor.margin >= 0.0
    after = model.policy.state_dict()
    assert all(
        any(not torch.equal(before[k], after[k]) for k in after if k.startswith(part))
        for part in ("actor.latent_pi.1.", "critic.qf1.0.1.", "critic_target.qf1.0.1.")
    )


@HOSTS
def test_dict_observations_and_hindsight(name: str) -> None:
    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=5)
    model = simba(
        name, env, "SimbaMultiInputPolicy", replay_buffer_class=HerReplayBuffer, learning_starts=30
    )
    model.learn(40)
    assert norm(model).mean.shape == (9,)
    assert norm(model).count == 40


@HOSTS
def test_warns_where_both_normalise(name: str) -> None:
    env = VecNormalize(make_vec_env(lambda: TargetEnv(), 1, seed=0))
    with pytest.warns(UserWarning, match="both normalise observations"):
        simba(name, env).learn(1, reset_num_timesteps=False)
    model = simba(name, env, policy_kwargs={"normalize_obs": False})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.learn(1, reset_num_timesteps=False)
    assert norm(model).count == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"net_arch": [8, 16]}, "net_arch=.8, 16. must have one width"),
        ({"net_arch": {"pi": [], "qf": [8]}}, "net_arch=.* must have one width"),
        ({"activation_fn": nn.Tanh}, "activation_fn=.*Tanh.* must be left out"),
    ],
)
def test_refuses_what_is_not_simba(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simba("SACERA", policy_kwargs=options)
    with pytest.raises(ValueError, match="layer_norm=True must be left out"):
        simba("SACERA", layer_norm=True)


@pytest.mark.parametrize("policy", ["SimbaPolicy", "SimbaMultiInputPolicy"])
def test_refuses_images(policy: str) -> None:
    is_dict = policy == "SimbaMultiInputPolicy"
    env = SimpleMultiObsEnv(discrete_actions=False) if is_dict else FakeImageEnv(discrete=False)
    with pytest.raises(ValueError, match=r"observation_space=.* must have no images"):
        simba("SACERA", env, policy)
