"""The price of a floor: what a nat more would cost in return, in the gradient that is taken anyway."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_family import BOX, OFF_POLICY, small
from sb3_toys import DoubleExtractor, logging_to, read_rows, small_sacera, states
from torch import Tensor

from era_rl.core import truncated_normal_sample
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
