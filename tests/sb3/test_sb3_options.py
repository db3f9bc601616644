"""SACERA under the options of SB3's SAC: policies, environments, buffers, schedules, networks."""

import copy
import re
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_family import REPLAY, small
from sb3_toys import NormalisedExtractor, TargetEnv, small_sacera, states, trained
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from era_rl.sb3 import SACERA, SACERACnnPolicy, SACERAMultiInputPolicy, SACERAPolicy, paper_preset
from era_rl.sb3.policies import SACERAActor


def _falling_rate(progress_remaining: float) -> float:
    return 1e-3 * progress_remaining


def test_the_toy_environment_is_a_proper_environment() -> None:
    check_env(TargetEnv(action_dim=3, horizon=4))


@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 3},
        {
            "optimize_memory_usage": True,
            "replay_buffer_kwargs": {"handle_timeout_termination": False},
        },
        {"train_freq": (1, "episode"), "gradient_steps": -1},
        {"action_noise": NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))},
        {"target_update_interval": 2, "gradient_steps": 2},
        {"learning_rate": _falling_rate},
        {"layer_norm": True},
        {"slack": 0.3},
        {"floor": "gaussian"},
        {"floor": "gaussian", "delta": "auto"},
        {"floor": "gaussian", "distribution": "tanh"},
        {"policy": SACERAPolicy},
        {"policy_kwargs": {"share_features_extractor": True}},
        {"policy_kwargs": {"net_arch": {"pi": [8], "qf": [24, 8]}}},
        {"policy_kwargs": {"net_arch": []}, "layer_norm": True},
        {"policy_kwargs": {"n_critics": 1}},
        {"policy_kwargs": {"n_critics": 3}},
        {"policy_kwargs": {"optimizer_class": torch.optim.RMSprop}},
        {"policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5}}},
    ],
    ids=lambda options: re.sub(r" at 0x\w+", "", str(options)),  # the same in every process
)
def test_trains_with(options: dict[str, Any]) -> None:
    model = trained(small_sacera(**options))
    assert model._n_updates >= 20
    action, _ = model.predict(model.observation_space.sample())
    assert model.action_space.contains(action)


@pytest.mark.parametrize("name", REPLAY)
@pytest.mark.parametrize(
    "told", [{}, {"eps": 1e-5}, {"fused": False}, {"foreach": True}], ids=lambda told: str(*told)
)
def test_adam_runs_fused_unless_told_otherwise(name: str, told: dict[str, Any]) -> None:
    model = small(name, policy_kwargs={"optimizer_kwargs": {**told}} if told else {})
    for network in (model.actor, model.critic):
        for group in network.optimizer.param_groups:
            assert group["fused"] is (None if "foreach" in told else told.get("fused", True))


def test_critics_decay_with_the_optimizer_of_the_rest() -> None:
    kwargs = {"eps": 1e-5, "betas": (0.5, 0.99)}
    model = small_sacera(policy_kwargs={"optimizer_kwargs": kwargs, "critic_weight_decay": 0.1})
    actor, critic = (n.optimizer.param_groups[0] for n in (model.actor, model.critic))
    for group, decay in ((actor, 0.0), (critic, 0.1)):
        assert {name: group[name] for name in kwargs} == kwargs
        assert group["weight_decay"] == decay


def test_an_actor_of_ones_own_acts_and_trains_by_its_own_parameters() -> None:
    """SB3's hook for another distribution is the one seam, for prediction, sampling and training."""

    class Residual(SACERAActor):
        def get_action_dist_params(self, obs: Any) -> Any:
            loc, log_std, rest = super().get_action_dist_params(obs)
            return 0.0 * loc + 0.5, log_std, rest

    class ResidualPolicy(SACERAPolicy):
        actor_class = Residual

    model = small_sacera(policy=ResidualPolicy)
    obs, noise = states(model, 5), torch.full((5, 2), 0.5)  # the median
    with torch.no_grad():
        sampled = model.actor.act(obs, noise)
        trained_on, loc, _ = model._bound_update().actor.loss.actor.reparameterise(obs, noise)
    assert torch.equal(loc, torch.full((5, 2), 0.5))
    assert torch.equal(sampled, trained_on)
    assert model.predict(obs.numpy(), deterministic=True)[0] == pytest.approx(0.5)


def test_trains_on_images() -> None:
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=False)
    extractor = {"features_extractor_kwargs": {"features_dim": 16}}
    model = small_sacera(env, "CnnPolicy", policy_kwargs=extractor, learning_starts=5, batch_size=4)
    assert isinstance(trained(model, 15).policy, SACERACnnPolicy)
    assert model.action_space.contains(model.predict(env.observation_space.sample())[0])


def test_trains_on_dict_observations() -> None:
    env = SimpleMultiObsEnv(discrete_actions=False)
    extractor = {"features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = small_sacera(
        env, "MultiInputPolicy", policy_kwargs=extractor, learning_starts=5, batch_size=4
    )
    assert isinstance(trained(model, 15).policy, SACERAMultiInputPolicy)
    assert model.action_space.contains(model.predict(env.observation_space.sample())[0])


@pytest.mark.parametrize("gradient_steps", [1, -1])
def test_trains_on_several_environments(gradient_steps: int) -> None:
    env = make_vec_env(lambda: TargetEnv(horizon=7), n_envs=3, vec_env_cls=DummyVecEnv)
    noise = NormalActionNoise(np.zeros(2), 0.1 * np.ones(2))
    model = trained(small_sacera(env, gradient_steps=gradient_steps, action_noise=noise))
    # 14 rounds of 3 steps, of which the first 6 only collect
    assert model._n_updates == 8 * (3 if gradient_steps == -1 else 1)
    assert model.predict(env.reset())[0].shape == (3, 2)


def test_trains_on_normalised_observations() -> None:
    env = VecNormalize(DummyVecEnv([lambda: TargetEnv(horizon=7)]))
    model = trained(small_sacera(env))
    assert model.replay_buffer is not None
    batch = model.replay_buffer.sample(200, env=env)
    assert batch.observations.std() == pytest.approx(1.0, abs=0.3)  # 0.58 as stored


def test_episodes_take_as_many_updates_as_steps() -> None:
    model = small_sacera(train_freq=(1, "episode"), gradient_steps=-1, learning_starts=25)
    assert trained(model, 40)._n_updates == 20  # of ten steps each, from the third on


def test_casts_float64_observations() -> None:
    model = trained(small_sacera(TargetEnv(dtype=np.float64)))
    assert model.predict(np.zeros(2))[0].dtype == np.float32
    assert next(model.actor.parameters()).dtype == torch.float32


def test_actions_are_rescaled_to_the_bounds_of_the_environment() -> None:
    env = TargetEnv(bounds=(-3.0, 5.0))
    model = trained(small_sacera(env))
    obs = states(model, 5)
    with torch.no_grad():
        loc, _, _ = model.actor.get_action_dist_params(obs)
    predicted, _ = model.predict(obs.numpy(), deterministic=True)
    np.testing.assert_allclose(predicted, 1.0 + 4.0 * loc.numpy(), atol=1e-6)
    assert model.replay_buffer is not None
    assert np.abs(model.replay_buffer.actions[:40]).max() <= 1.0
    torch.manual_seed(1)
    sampled, _ = model.predict(obs.numpy())
    torch.manual_seed(1)
    with torch.no_grad():
        np.testing.assert_allclose(sampled, 1.0 + 4.0 * model.actor(obs).numpy(), atol=1e-6)


def test_follows_the_schedule_of_the_learning_rate() -> None:
    model = small_sacera(learning_rate=lambda left: 1e-3 * left)
    trained(model)
    # the last update comes after the last step
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


def test_a_callback_stops_the_training() -> None:
    model = small_sacera()
    model.learn(60, callback=lambda locals_, _: locals_["self"].num_timesteps < 30)
    assert model.num_timesteps == 30


class TestNormalisationLayers:
    """Batch statistics and dropout are on in updates and off elsewhere."""

    extractor: ClassVar[dict[str, Any]] = {"features_extractor_class": NormalisedExtractor}

    def test_running_statistics_are_learned_and_copied_to_the_target(self) -> None:
        model = trained(small_sacera(policy_kwargs=self.extractor))
        online = dict(model.critic.features_extractor.named_buffers())
        target = dict(model.critic_target.features_extractor.named_buffers())
        running = [name for name in online if "running" in name]
        assert len(running) == 2
        for name in running:
            assert torch.equal(online[name], target[name])
        actor = model.actor.features_extractor.get_buffer("layers.2.running_var")
        assert not torch.equal(actor, torch.ones(8))

    @pytest.mark.parametrize("dropout", [0.0, 0.5])
    def test_predictions_are_deterministic_and_leave_the_statistics(self, dropout: float) -> None:
        extractor = {**self.extractor, "features_extractor_kwargs": {"dropout": dropout}}
        model = trained(small_sacera(policy_kwargs=extractor))
        before = copy.deepcopy(model.policy.state_dict())
        obs = states(model, 20).numpy()
        first, _ = model.predict(obs, deterministic=True)
        assert np.array_equal(first, model.predict(obs, deterministic=True)[0])
        np.testing.assert_allclose(
            first[:1], model.predict(obs[:1], deterministic=True)[0], rtol=1e-5, atol=1e-6
        )
        for name, value in model.policy.state_dict().items():
            assert torch.equal(value, before[name])

    @pytest.mark.parametrize("leave", ["actor.predict", "actor.eval", "critic.eval", "policy.eval"])
    def test_an_update_is_in_training_mode_whatever_came_before(self, leave: str) -> None:
        model = trained(small_sacera(policy_kwargs=self.extractor))
        calls: dict[str, Any] = {
            "actor.predict": lambda: model.actor.predict(np.zeros((3, 2), np.float32)),
            "actor.eval": lambda: model.actor.set_training_mode(False),
            "critic.eval": lambda: model.critic.set_training_mode(False),
            "policy.eval": lambda: model.policy.set_training_mode(False),
        }
        calls[leave]()
        before = copy.deepcopy(model.policy.state_dict())
        model.train(gradient_steps=1, batch_size=16)
        for network in ("actor", "critic"):
            name = f"{network}.features_extractor.layers.2.running_mean"
            assert not torch.equal(model.policy.state_dict()[name], before[name]), network
        assert not model.critic_target.training

    def test_collection_is_in_evaluation_mode(self) -> None:
        modes: list[bool] = []

        def note(locals_: dict[str, Any], _: Any) -> bool:
            modules = locals_["self"].actor.modules()
            modes.extend(
                m.training
                for m in modules
                if isinstance(m, torch.nn.BatchNorm1d | torch.nn.Dropout)
            )
            return True

        small_sacera(policy_kwargs=self.extractor).learn(40, callback=note)
        assert len(modes) >= 40
        assert not any(modes)


class TestLayerNorm:
    @pytest.mark.parametrize("net_arch", [[16, 16], {"pi": [8], "qf": [32, 16, 8]}], ids=str)
    def test_follows_every_hidden_layer_of_the_critics_only(self, net_arch: Any) -> None:
        model = small_sacera(layer_norm=True, policy_kwargs={"net_arch": net_arch})
        widths = net_arch["qf"] if isinstance(net_arch, dict) else net_arch
        for critic in (model.critic, model.critic_target):
            for q_net in critic.q_networks:
                norms = [m for m in q_net if isinstance(m, torch.nn.LayerNorm)]
                assert [m.normalized_shape for m in norms] == [(width,) for width in widths]
                assert isinstance(q_net[-1], torch.nn.Linear)
        assert not any(isinstance(m, torch.nn.LayerNorm) for m in model.actor.modules())

    def test_its_parameters_are_trained(self) -> None:
        model = trained(small_sacera(layer_norm=True))
        optimized = {id(p) for p in model.critic.optimizer.param_groups[0]["params"]}
        for module in model.critic.modules():
            if isinstance(module, torch.nn.LayerNorm):
                assert id(module.weight) in optimized
                assert not torch.equal(module.weight, torch.ones_like(module.weight))


def test_optimizers_take_the_users_class_and_arguments() -> None:
    model = small_sacera(
        policy_kwargs={
            "optimizer_class": torch.optim.SGD,
            "optimizer_kwargs": {"momentum": 0.5},
            "features_extractor_class": BaseFeaturesExtractorWithAWidth,
        }
    )
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        assert isinstance(optimizer, torch.optim.SGD)
        assert optimizer.param_groups[0]["momentum"] == 0.5


class BaseFeaturesExtractorWithAWidth(BaseFeaturesExtractor):
    def __init__(self, observation_space: gym.Space) -> None:
        super().__init__(observation_space, 2)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations


def test_the_papers_preset_has_the_settings_of_its_reference_code() -> None:
    env = TargetEnv(action_dim=3)
    model = SACERA("MlpPolicy", env, device="cpu", **paper_preset(env.action_space))
    head = model.actor.head
    assert head.floor == "gaussian"
    assert (head.target_entropy, head.log_std_min) == (0.75, -8.0)
    assert (head.log_std_max, head.delta.item()) == (0.0, 0.0)
    assert head.raw_dim == 6
    for network in (model.actor.latent_pi, *model.critic.q_networks):
        linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
        assert [m.out_features for m in linear][:2] == [512, 512]
        assert sum(isinstance(m, torch.nn.ELU) for m in network.modules()) == 2
    for q_net in model.critic.q_networks:
        assert sum(isinstance(m, torch.nn.LayerNorm) for m in q_net.modules()) == 2
    assert len(model.critic.q_networks) == 2
    actor_group, critic_group = (
        network.optimizer.param_groups[0] for network in (model.actor, model.critic)
    )
    assert type(model.actor.optimizer) is torch.optim.Adam
    assert type(model.critic.optimizer) is torch.optim.AdamW
    assert (actor_group["lr"], critic_group["lr"]) == (3e-4, 3e-4)
    assert (actor_group["weight_decay"], critic_group["weight_decay"]) == (0.0, 1e-4)
    assert (model.gamma, model.tau, model.batch_size) == (0.99, 0.005, 256)
    assert (model.learning_starts, model.gradient_steps, model.buffer_size) == (5_000, 2, 1_000_000)
