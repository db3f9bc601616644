"""XQCERA: its losses, the scale of its rewards, its unit rows and its delays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_family import small
from sb3_toys import TargetEnv
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

from era_rl.networks import BatchNormMLP
from era_rl.sb3 import XQCERA, DeviceReplayBuffer, SACERAPolicy
from era_rl.sb3.gradients import Transitions
from era_rl.sb3.xqc import xqc_critic_loss


def weights(network: Any) -> list[Tensor]:
    return [parameter for parameter in network.parameters() if parameter.ndim == 2]


def test_has_the_recipe_s_networks_and_settings() -> None:
    """Four layers of 256, two critics of 101 bins on [-5, 5]; Adam 3e-4 to 3e-5; 5,000; 2; 3; .005."""
    model: Any = XQCERA("MlpPolicy", TargetEnv(), buffer_size=10, device="cpu")
    for body in (model.actor.latent_pi, *(q_net.body for q_net in model.critic.q_networks)):
        assert isinstance(body, BatchNormMLP)
        assert [m.out_features for m in body if isinstance(m, nn.Linear)] == [256] * 4
        norms = [m for m in body if isinstance(m, nn.BatchNorm1d)]
        # the actor moves at every third update
        momentum = 1 - 0.99 ** (3 if body is model.actor.latent_pi else 1)
        assert [(m.momentum, m.eps) for m in norms] == [(pytest.approx(momentum), 1e-3)] * 5
        assert all(m.bias is None for m in body if isinstance(m, nn.Linear))
    torch.testing.assert_close(model.critic.qf1.value.z, torch.linspace(-5.0, 5.0, 101))
    assert [model.lr_schedule(progress) for progress in (1.0, 0.0)] == pytest.approx([3e-4, 3e-5])
    given = (model.learning_starts, model.gradient_steps, model.policy_delay, model.tau)
    assert given == (5_000, 2, 3, 0.005)
    assert XQCERA("MlpPolicy", TargetEnv(), 1e-3, 10, learning_starts=7).learning_starts == 7


@torch.no_grad()
def test_the_critics_loss_is_its_definition() -> None:
    """-sum_i t_i log q_i, t the projected r + gamma z of the lesser target critic, summed over both."""
    model: Any = small("XQCERA")
    model.policy.double().set_training_mode(True)
    model.critic_target.train()
    for parameter in model.critic_target.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    rand = lambda *shape: torch.rand(*shape, dtype=torch.float64) * 2 - 1  # noqa: E731
    dones = (rand(8, 1) > 0).double()
    data = Transitions(rand(8, 2), rand(8, 2), rand(8, 2), rand(8, 1), dones, torch.tensor(0.9))
    next_actions = rand(8, 2)
    loss = xqc_critic_loss(model.critic, model.critic_target, data, next_actions)
    x = torch.cat(
        [torch.cat([data.obs, data.actions], 1), torch.cat([data.next_obs, next_actions], 1)]
    )
    z = model.critic.qf0.value.z
    expected = 0.0
    following = [q.logits(x, slice(None))[8:].softmax(1) for q in model.critic_target.q_networks]
    for q_net in model.critic.q_networks:
        log_q = q_net.logits(x, slice(None))[:8].log_softmax(1)
        for i in range(8):
            lesser = min((p[i] for p in following), key=lambda p: float(p @ z))
            target = torch.zeros(101, dtype=torch.float64)
            for probability, atom in zip(lesser, z, strict=True):
                value = data.rewards[i, 0] + (1 - dones[i, 0]) * 0.9 * atom
                target += probability * (1 - (value.clamp(-5, 5) - z).abs() * 10).clamp_min(0)
            expected -= float(target @ log_q[i]) / 8
    assert loss.item() == pytest.approx(expected, rel=1e-5)  # the bins were made in float32


def test_rewards_are_divided_by_the_scale_of_the_returns_so_far() -> None:
    """max(std, (|mean| + 2 std) / 5) of G_t = .99 G_{t-1} + r_t within episodes."""
    model: Any = small("XQCERA", make_vec_env(lambda: TargetEnv(horizon=7), 2, seed=0))
    model.learn(60)
    rewards, dones = model.replay_buffer.rewards[:30], model.replay_buffer.dones[:30]
    g, returns = np.zeros(2), []
    for reward, done in zip(rewards, dones, strict=True):
        g = 0.99 * g + reward
        returns.append(g)
        g = g * (1 - done)
    scale = max(np.std(returns), (abs(np.mean(returns)) + 2 * np.std(returns)) / 5)
    assert model.reward_scale().item() == pytest.approx(scale, rel=1e-6)
    data = model.replay_buffer.sample(8)
    torch.testing.assert_close(model._transitions(data).rewards, data.rewards / scale)


def test_the_scale_is_saved_and_goes_on_with_other_environments(tmp_path: Path) -> None:
    model: Any = small("XQCERA", n_envs=2)
    model.learn(40)
    model.save(tmp_path / "model")
    loaded: Any = XQCERA.load(tmp_path / "model", env=TargetEnv(horizon=10), device="cpu")
    assert loaded.reward_scale().item() == model.reward_scale().item()
    assert torch.equal(loaded.reward_scale.returns, model.reward_scale.returns)
    loaded.learn(30, reset_num_timesteps=False)
    assert loaded.reward_scale.moments.count == model.reward_scale.moments.count + 30


def test_an_episode_that_a_checkpoint_cut_off_does_not_go_on_in_the_scale(tmp_path: Path) -> None:
    """G starts at 0 where learn resets the environment, and goes on where it does not."""
    model: Any = small("XQCERA", TargetEnv(horizon=10_000))
    model.learn(40)
    model.reward_scale.returns.fill_(1e6)
    model.learn(1, reset_num_timesteps=False)
    assert model.reward_scale.returns.item() > 1e5
    model.save(tmp_path / "model")
    for _ in range(2):  # by its default learn begins a new training
        model.learn(1)
        assert model.reward_scale.returns.abs().item() < 1e3
    env = TargetEnv(horizon=10_000)  # not of one step, which would end the episode itself
    loaded: Any = XQCERA.load(tmp_path / "model", env=env, device="cpu")
    assert loaded.reward_scale.returns.item() > 1e5
    loaded.learn(1, reset_num_timesteps=False)
    assert loaded.reward_scale.returns.abs().item() < 1e3


def test_rows_keep_unit_norm_and_the_actor_waits() -> None:
    """|w_i| = 1 in actor and critics throughout; the actor moves at every third update."""
    model: Any = small(
        "XQCERA", gradient_steps=1, slack=0.3, replay_buffer_class=DeviceReplayBuffer
    )
    model.learn(22)
    for _ in range(6):
        before = [weight.clone() for weight in weights(model.actor)]
        critics = [weight.clone() for weight in weights(model.critic)]
        model.train(1, 16)
        moved = [not torch.equal(a, b) for a, b in zip(before, weights(model.actor), strict=True)]
        assert all(moved) if model._n_updates % 3 == 0 else not any(moved)
        assert all(
            not torch.equal(a, b) for a, b in zip(critics, weights(model.critic), strict=True)
        )
        for weight in weights(model.actor) + weights(model.critic):
            torch.testing.assert_close(weight.norm(dim=1), torch.ones(len(weight)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_norm": True}, "layer_norm=True must be False"),
        ({"policy_delay": True}, "policy_delay=True must be at least 1, an integer"),
        ({"policy_kwargs": {"bound": "5"}}, "bound='5' must be a number"),
        ({"policy_delay": 0}, "policy_delay=0 must be at least 1"),
        ({"policy_delay": 1.5}, r"policy_delay=1\.5 must be at least 1, an integer"),
        ({"ent_coef": 0.1}, r"ent_coef=0\.1 must be 0"),
        ({"policy_kwargs": {"activation_fn": nn.Tanh}}, "activation_fn=.*Tanh.* must be left out"),
        ({"policy_kwargs": {"bins": 1}}, "bins=1 must be at least 2"),
        ({"policy_kwargs": {"net_arch": []}}, r"net_arch=\[\] must have one layer or more"),
        ({"policy_kwargs": {"net_arch": {"pi": [8], "qf": []}}}, "'qf': .* one layer or more"),
        ({"policy_kwargs": {"bins": 2.5}}, r"bins=2\.5 must be at least 2, an integer"),
        ({"policy_kwargs": {"bound": 0.0}}, r"bound=0\.0 must be positive and finite"),
        ({"policy_kwargs": {"bound": float("inf")}}, "bound=inf must be positive and finite"),
    ],
)
def test_refuses_what_it_has_no_use_for(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small("XQCERA", **options)


def test_refuses_a_policy_without_categorical_critics() -> None:
    with pytest.raises(ValueError, match="policy=SACERAPolicy must be one of 'MlpPolicy', 'C"):
        small("XQCERA", policy=SACERAPolicy)
