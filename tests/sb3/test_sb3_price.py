"""The price of a floor: what a nat more would cost in return, in the gradient that is taken anyway."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, DISCRETE, MULTI_DISCRETE, OFF_POLICY, small
from sb3_toys import DoubleExtractor, logging_to, read_rows, small_sacera, states
from stable_baselines3.common.logger import Logger
from torch import Tensor

from era_rl.core import TruncatedGaussianHead, truncated_normal_sample
from era_rl.core.truncation import entropy_slopes

OPTIONS: list[dict[str, Any]] = [
    {},
    {"slack": 0.3},
    {"min_entropy_per_dim": -0.6},
    {"floor": "gaussian", "delta": 0.2},
    {"distribution": "tanh"},
]
H = 1e-5


def double_model(name: str, **options: Any) -> Any:
    """Return a model whose networks are in float64, with shares of the budget that differ."""
    extractor = {"features_extractor_class": DoubleExtractor}
    model: Any = small(name, BOX, target_entropy=-1.0, policy_kwargs=extractor, **options)
    model.policy.double()
    with torch.no_grad():
        model.actor.log_std.weight.mul_(5.0)
    return model


def price_and_loss(model: Any, noise: Tensor) -> tuple[float, float]:
    """Return dL/dH0 of the actor's loss on some states, and the loss."""
    step = model._bound_update().actor
    for module, mode in step.modes:
        module.training = mode
    obs = states(model, len(noise)).double()
    gradients, loss, *_ = step.by_transform(obs, noise)
    assert len(gradients) == len(step.parameters) + 1
    return gradients[-1].item(), loss.item()


@pytest.mark.parametrize(
    ("name", "options"),
    [*(("SACERA", each) for each in OPTIONS), *((name, {}) for name in OFF_POLICY)],
    ids=str,
)
def test_the_price_is_the_slope_of_the_loss(name: str, options: dict[str, Any]) -> None:
    """dL/dH0 = (L(H0 + h) - L(H0 - h)) / 2 h, in float64, same states and noise."""
    model, noise = double_model(name, **options), torch.rand(64, 2, dtype=torch.float64)
    found, _ = price_and_loss(model, noise)
    losses = []
    for shift in (H, -H):
        model.target_entropy = -1.0 + shift
        losses.append(price_and_loss(model, noise)[1])
    assert abs(found) > 1e-6
    assert found == pytest.approx((losses[0] - losses[1]) / (2.0 * H), rel=1e-4)


def test_the_price_is_the_gradient_by_log_std_along_the_shares() -> None:
    """dL/dH0 = sum_i dL/dlog_std_i w_i / (dh_i/dlog_std_i), w = softmax(raw_log_std)."""
    model, noise = double_model("SACERA"), torch.rand(32, 2, dtype=torch.float64)
    obs = states(model, 32).double()
    found, _ = price_and_loss(model, noise)
    loc, log_std = (
        x.detach().requires_grad_() for x in model.actor.head.params(model.actor.raw_params(obs))
    )
    values = model.critic(obs, truncated_normal_sample(loc, log_std, noise))
    loss = -torch.cat(values, dim=1).amin(dim=1).mean()
    (slope,) = torch.autograd.grad(loss, log_std)
    shares = model.actor.raw_params(obs)[:, 2:].softmax(-1)
    expected = (slope * shares / entropy_slopes(loc, log_std)[1]).sum()
    assert found == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.filterwarnings("ignore:target_entropy=-30 has no effect")
def test_a_floor_that_log_std_min_guarantees_alone_is_free() -> None:
    model = small_sacera(target_entropy=-30.0, log_std_min=-1.0)
    noise = torch.rand(16, 2)
    (*_, price), _, _, _ = model._bound_update().actor.by_autograd(states(model, 16), noise)
    assert price.item() == 0.0


@pytest.mark.parametrize("name", OFF_POLICY)
def test_the_mean_price_since_the_last_time_is_logged(name: str, tmp_path: Path) -> None:
    """In return per nat: XQCERA's critics see rewards divided by their scale."""
    model: Any = small(name, BOX, learning_starts=10_000).learn(60)
    model.critic.requires_grad_(False)
    update, found = model._bound_update(), []
    step = update.step

    def noted(*args: Any) -> Any:
        results = step(*args)
        found.extend(results[2:3])
        return results

    update.step = noted
    with logging_to(tmp_path, model):
        model.train(6, 16)
        model.dump_logs()
    (row,) = read_rows(tmp_path / "progress.csv")
    scale = model.reward_scale().item() if name == "XQCERA" else 1.0
    assert len(found) == 6 // model.policy_delay
    expected = scale * torch.stack(found).mean().item()
    assert float(row["train/entropy_price"]) == pytest.approx(expected, rel=1e-5)


def test_the_floor_is_followed_by_autograd_in_the_update_alone() -> None:
    model = small_sacera().learn(40)
    head = model.actor.head
    assert not head._target_entropy.requires_grad
    assert np.isfinite(head.target_entropy)
    model.target_entropy = -2.0


def test_a_frozen_actor_has_no_price(tmp_path: Path) -> None:
    model = small_sacera()
    model.actor.requires_grad_(False)
    with logging_to(tmp_path, model):
        model.learn(40, log_interval=1)
    assert read_rows(tmp_path / "progress.csv")[-1]["train/entropy_price"] == "nan"


ON_POLICY: list[tuple[str, Any, dict[str, Any]]] = [
    ("PPOERA", BOX, {}),
    ("PPOERA", BOX, {"slack": 0.3, "ent_coef": 0.05}),
    ("PPOERA", BOX, {"min_entropy_per_dim": -0.6, "normalize_advantage": False}),
    ("PPOERA", DISCRETE, {}),
    ("MaskablePPOERA", MULTI_DISCRETE, {}),
    ("A2CERA", BOX, {}),
]


def rolled_out(name: str, space: Any, **options: Any) -> Any:
    """Return a model in float64 that keeps its networks, with a rollout acted at a lower floor."""
    extractor = {"features_extractor_class": DoubleExtractor}
    floor = -1.0 if space is BOX else 0.9
    model: Any = small(
        name, space, target_entropy=floor, learning_rate=0.0, policy_kwargs=extractor, **options
    )
    model.policy.double()
    if name == "MaskablePPOERA":  # torch 2.11 has no gradient of the host's mse_loss in two dtypes
        model.rollout_buffer.to_torch = lambda array: torch.tensor(array, dtype=torch.float64)
    with torch.no_grad():  # actions that the floor takes probability from
        model.policy.action_net.weight.mul_(30.0 if space is BOX else 2000.0)
    model.learn(32)
    model.target_entropy = floor + 0.1
    model.set_logger(Logger(None, []))
    return model


def surrogate(model: Any, data: Any) -> Tensor:
    """Return the part of the host's loss on a minibatch that depends on the policy."""
    advantages = data.advantages
    if model.normalize_advantage:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    mask = {"action_masks": data.action_masks} if hasattr(data, "action_masks") else {}
    actions = data.actions if isinstance(model.action_space, spaces.Box) else data.actions.long()
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.flatten()
    _, log_prob, entropy = model.policy.evaluate_actions(data.observations, actions, **mask)
    gain = advantages * log_prob
    if hasattr(model, "clip_range"):
        ratio, limit = torch.exp(log_prob - data.old_log_prob), model.clip_range(1.0)
        gain = torch.min(advantages * ratio, advantages * ratio.clamp(1.0 - limit, 1.0 + limit))
    return -gain.mean() - model.ent_coef * entropy.mean()


@pytest.mark.parametrize(("name", "space", "options"), ON_POLICY, ids=str)
def test_the_price_on_policy_is_the_slope_of_the_surrogate(
    name: str, space: Any, options: dict[str, Any]
) -> None:
    """std(A) (L(H0 + h) - L(H0 - h)) / 2 h over the first pass, L of normalised A, in float64."""
    model = rolled_out(name, space, **options)
    floor, buffer = model.target_entropy, model.rollout_buffer
    np.random.seed(0)
    minibatches = list(buffer.get(getattr(model, "batch_size", None)))
    losses = []
    for shift in (H, -H):
        model.target_entropy = floor + shift
        with torch.no_grad():
            losses.append(torch.stack([surrogate(model, data) for data in minibatches]).mean())
    model.target_entropy = floor
    np.random.seed(0)
    model.train()
    found = model.logger.name_to_value["train/entropy_price"]
    scale = buffer.advantages.std() if model.normalize_advantage else 1.0
    assert abs(found) > 1e-4
    assert found == pytest.approx(scale * (losses[0] - losses[1]).item() / (2.0 * H), rel=1e-3)
    head = model.policy.head
    assert not head._target_entropy.requires_grad
    assert head._target_entropy.grad is None


def test_the_price_by_actions_taken_is_that_of_the_value() -> None:
    """E[A(a) dln pi(a)/dH0] = dE[A(a)]/dH0, here of A(a) = -|a - g|^2, in float64."""
    head, goal = TruncatedGaussianHead(2, target_entropy=-1.0), torch.tensor([0.5, -0.2])
    raw = torch.tensor([0.3, -0.4, 0.6, -0.6], dtype=torch.float64).expand(400_000, 4)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(400_000, 2, generator=generator, dtype=torch.float64)
    floor = head._target_entropy.requires_grad_()
    params = head.params(raw)
    actions = head.sample(params, noise)
    values = -(actions - goal).square().sum(-1)
    (expected,) = torch.autograd.grad(values.mean(), floor, retain_graph=True)
    fixed = actions.detach()
    advantage = values.detach() - values.detach().mean()
    (found,) = torch.autograd.grad((advantage * head.log_prob(params, fixed)).mean(), floor)
    assert expected.item() < -0.04
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.parametrize("name", ["PPOERA", "A2CERA", "RecurrentPPOERA"])
def test_the_price_on_policy_is_logged(name: str, tmp_path: Path) -> None:
    """With a floor that moves in each round of updates, where autograd follows it."""
    model: Any = small(name, BOX, nats_per_dim=lambda progress: progress - 1.5)
    with logging_to(tmp_path, model):
        model.learn(64, log_interval=1)
    assert np.isfinite(float(read_rows(tmp_path / "progress.csv")[-1]["train/entropy_price"]))
    assert model.target_entropy < -2.0
