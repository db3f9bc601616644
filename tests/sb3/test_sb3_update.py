"""The update of SACERA equals a plainly written one, in float64 and given the same noise."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib.common.torch_layers import BatchRenorm1d
from sb3_toys import DoubleExtractor, TargetEnv, small_sacera, states
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor

from era_rl.core import (
    TanhGaussianHead,
    TruncatedGaussianHead,
    gaussian_era,
    truncated_normal_era,
    truncated_normal_sample,
)
from era_rl.sb3 import SACERA
from era_rl.sb3.gradients import TraceableBatchRenorm

BATCH, ACTION_DIM = 16, 2


class Reference:
    """SAC without its entropy terms, one pass a purpose, on a copy of a model's networks.

    Holds copies of the actor, the critics and the target critics, with Adam of their own.
    """

    def __init__(self, model: SACERA, log_std: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        policy = copy.deepcopy(model.policy)
        self.actor, self.critic, self.target = policy.actor, policy.critic, policy.critic_target
        # with a shared features extractor only the actor's loss trains it
        shared = "features_extractor" if policy.share_features_extractor else "none"
        trained = [p for name, p in self.critic.named_parameters() if shared not in name]
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        self.critic_optimizer = torch.optim.Adam(trained, lr=1e-3)
        self.log_std, self.tau = log_std, model.tau

    def act(self, obs: Tensor, noise: Tensor) -> Tensor:
        latent = self.actor.latent_pi(self.actor.features_extractor(obs))
        loc = torch.tanh(self.actor.mu(latent))
        raw = self.actor.log_std(latent)
        log_std = self.log_std(loc, raw[:, :ACTION_DIM], raw[:, ACTION_DIM:])
        return truncated_normal_sample(loc, log_std, noise)

    def step(self, data: Any, noise: Tensor, next_noise: Tensor, gamma: float | Tensor) -> None:
        with torch.no_grad():
            next_actions = self.act(data.next_observations, next_noise)
            q_values = self.target(data.next_observations, next_actions)
            value = torch.stack(q_values).min(dim=0).values
            target = data.rewards + gamma * (1 - data.dones) * value
        losses = [((q - target) ** 2).mean() for q in self.critic(data.observations, data.actions)]
        self.critic_optimizer.zero_grad()
        (0.5 * sum(losses)).backward()
        self.critic_gradients = [_gradient(p) for p in self.critic.parameters()]
        self.critic_optimizer.step()

        actions = self.act(data.observations, noise)
        q_values = self.critic(data.observations, actions)
        self.actor_optimizer.zero_grad()
        (-torch.stack(q_values).min(dim=0).values.mean()).backward()
        self.actor_optimizer.step()

    def update_target(self) -> None:
        with torch.no_grad():
            for target, online in zip(
                self.target.parameters(), self.critic.parameters(), strict=True
            ):
                target.copy_((1 - self.tau) * target + self.tau * online)


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros(()) if parameter.grad is None else parameter.grad.clone()


def _exact(loc: Tensor, raw: Tensor, slack: Tensor) -> Tensor:
    return truncated_normal_era(loc, raw, target_entropy=-1.0)


def _with_slack(loc: Tensor, raw: Tensor, slack: Tensor) -> Tensor:
    offset = np.log(2.0) + np.log(0.3 / 0.7)
    return truncated_normal_era(loc, raw, target_entropy=-1.0, slack_logit=slack + offset)


def _eq_11(loc: Tensor, raw: Tensor, slack: Tensor) -> Tensor:
    return gaussian_era(raw, target_entropy=-1.0, delta=0.2)


def double_model(**kwargs: Any) -> SACERA:
    """Return a model in float64 whose replay buffer is filled and whose target differs."""
    policy_kwargs = {"features_extractor_class": DoubleExtractor, **kwargs.pop("policy_kwargs", {})}
    env = kwargs.pop("env", None) or TargetEnv(horizon=7)
    model = small_sacera(
        env, learning_starts=150, tau=0.1, gamma=0.9, policy_kwargs=policy_kwargs, **kwargs
    )
    model.policy.double()
    for parameter in model.critic_target.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.learn(120)
    return model


def draw(seed: int, model: SACERA) -> tuple[Any, Tensor, Tensor]:
    """Return the batch and the noise, for the states and for the next ones, of :func:`train`."""
    set_random_seed(seed)
    assert model.replay_buffer is not None
    data = model.replay_buffer.sample(BATCH, env=model.get_vec_normalize_env())
    noise, next_noise = torch.rand(2, BATCH, ACTION_DIM, dtype=torch.float64)
    return data, noise, next_noise


def train(seed: int, model: SACERA, gradient_steps: int = 1) -> None:
    set_random_seed(seed)
    model.train(gradient_steps, BATCH)


def assert_equal_networks(model: SACERA, reference: Reference) -> None:
    for network, other in (
        (model.actor, reference.actor),
        (model.critic, reference.critic),
        (model.critic_target, reference.target),
    ):
        for name, value in other.state_dict().items():
            torch.testing.assert_close(
                network.state_dict()[name], value, rtol=1e-9, atol=1e-12, check_dtype=True
            )


@pytest.mark.parametrize(
    ("options", "log_std"),
    [
        ({}, _exact),
        ({"slack": 0.3}, _with_slack),
        ({"floor": "gaussian", "delta": 0.2}, _eq_11),
        ({"layer_norm": True}, _exact),
        ({"policy_kwargs": {"n_critics": 1}}, _exact),
        ({"policy_kwargs": {"n_critics": 3}}, _exact),
        ({"policy_kwargs": {"share_features_extractor": True}}, _exact),
        ({"env": VecNormalize(DummyVecEnv([lambda: TargetEnv(horizon=7)]))}, _exact),
    ],
    ids=[
        "exact",
        "slack",
        "eq_11",
        "layer_norm",
        "one_critic",
        "three_critics",
        "shared_extractor",
        "normalised",
    ],
)
def test_three_updates_equal_the_reference(options: dict[str, Any], log_std: Any) -> None:
    model = double_model(**options)
    reference = Reference(model, log_std)
    for seed in range(3):
        reference.step(*draw(seed, model), gamma=0.9)
        reference.update_target()
        train(seed, model)
        # the critics got no gradient from the actor's loss
        for parameter, gradient in zip(
            model.critic.parameters(), reference.critic_gradients, strict=True
        ):
            if parameter.grad is not None and not model.policy.share_features_extractor:
                torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)
    assert_equal_networks(model, reference)


def test_a_wrong_reference_is_told_apart() -> None:
    model = double_model()
    reference = Reference(model, _exact)
    reference.step(*draw(0, model), gamma=0.9001)
    train(0, model)
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_networks(model, reference)


def test_several_steps_discount_by_the_number_of_steps() -> None:
    model = double_model(n_steps=3)
    reference = Reference(model, _exact)
    data, noise, next_noise = draw(0, model)
    steps = torch.log(data.discounts) / np.log(0.9)
    assert set(steps.round().flatten().int().tolist()) == {1, 2, 3}
    reference.step(data, noise, next_noise, gamma=0.9 ** steps.round().double())
    reference.update_target()
    train(0, model)
    for name, value in reference.critic.state_dict().items():
        # the buffer keeps the discounts in float32
        torch.testing.assert_close(model.critic.state_dict()[name], value, rtol=1e-5, atol=1e-7)


def test_the_interval_of_target_updates_counts_within_a_call() -> None:
    model = double_model(target_update_interval=2)
    reference = Reference(model, _exact)
    set_random_seed(0)
    assert model.replay_buffer is not None
    for step in range(4):
        data = model.replay_buffer.sample(BATCH)
        reference.step(data, *torch.rand(2, BATCH, ACTION_DIM, dtype=torch.float64), gamma=0.9)
        if step % 2 == 0:
            reference.update_target()
    train(0, model, gradient_steps=4)
    assert_equal_networks(model, reference)


def test_a_target_rate_of_one_copies_and_of_zero_keeps() -> None:
    model = double_model()
    kept = copy.deepcopy(model.critic_target.state_dict())
    model.tau = 0.0
    model.train(gradient_steps=2, batch_size=BATCH)
    for name, value in model.critic_target.state_dict().items():
        assert torch.equal(value, kept[name])
    model.tau = 1.0
    model.train(gradient_steps=1, batch_size=BATCH)
    for name, value in model.critic_target.state_dict().items():
        assert torch.equal(value, model.critic.state_dict()[name])


def test_terminal_states_are_not_bootstrapped() -> None:
    model = double_model()
    reference = Reference(model, _exact)
    data, noise, next_noise = draw(0, model)
    assert 0 < data.dones.sum() < BATCH
    wrong = data._replace(dones=torch.zeros_like(data.dones))
    reference.step(wrong, noise, next_noise, gamma=0.9)
    train(0, model)
    with pytest.raises(AssertionError, match="not close"):
        assert_equal_networks(model, reference)


@pytest.mark.parametrize("steps", [0, 9], ids=["batch", "running"])
def test_batch_renormalisation_is_the_hosts(steps: int) -> None:
    """Output, gradients and running statistics, before and after the first ``warmup_steps``."""
    layers = [cls(3, warmup_steps=5).double() for cls in (BatchRenorm1d, TraceableBatchRenorm)]
    x = torch.randn(32, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 1
    results = []
    for layer in layers:
        layer.steps.fill_(steps)
        y = layer(inputs := x.clone().requires_grad_())
        y.pow(3).sum().backward()
        results.append([y, inputs.grad, layer.scale.grad, layer.ra_mean, layer.ra_var, layer.steps])
        results[-1].append(layer.eval()(x))
    for ours, hosts in zip(*results, strict=True):
        torch.testing.assert_close(ours, hosts, rtol=1e-12, atol=1e-12)


def test_batch_renormalisation_has_a_gradient_where_a_feature_is_dead() -> None:
    """The derivative of its standard deviation is infinite there."""
    layer = TraceableBatchRenorm(1, warmup_steps=0)
    layer.steps.fill_(1)
    layer(x := torch.zeros(4, 1, requires_grad=True)).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    "options", [{}, {"floor": "gaussian", "distribution": "tanh"}, {"slack": 0.3}], ids=str
)
def test_no_log_probability_is_computed(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Tensor:
        raise AssertionError("log_prob was called")

    model = small_sacera(**options)
    for head in (TruncatedGaussianHead, TanhGaussianHead):
        monkeypatch.setattr(head, "log_prob", refuse)
    model.learn(30)
    assert model._n_updates > 0
    with pytest.raises(AssertionError, match="log_prob was called"):
        model.actor.action_log_prob(states(model, 3))


def test_the_target_critics_are_not_differentiated() -> None:
    model = double_model()
    model.train(gradient_steps=2, batch_size=BATCH)
    assert all(parameter.grad is None for parameter in model.critic_target.parameters())
