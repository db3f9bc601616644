"""GradientConflict measures what its docstring says, and leaves the training as it is."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import TQC, CrossQ
from sb3_family import BOX, DISCRETE, OFF_POLICY, same_parameters, small
from sb3_toys import TargetEnv, read_rows
from stable_baselines3 import A2C, DQN, PPO, SAC

from era_rl.core import TruncatedNormal, truncated_normal_entropy
from era_rl.sb3 import GradientConflict, HeadDistribution, plot_gradient_conflict
from era_rl.sb3.gradient_conflict import CONFLICT_COLUMNS

COSINES = (CONFLICT_COLUMNS.index("cosine_params"), CONFLICT_COLUMNS.index("cosine_actor"))


def _measure(model: Any, batch_size: int = 64) -> np.ndarray:
    """Return the figures of one check, by column, of a model trained for a moment."""
    callback = GradientConflict(10, batch_size)
    model.learn(60, callback=callback)
    return np.array(callback.rows[-1])


@pytest.mark.parametrize("name", OFF_POLICY)
def test_equals_finite_differences_of_the_same_draws(name: str) -> None:
    """cosine_params, from a loop over loc and log_std, with the draws that the callback made."""
    model: Any = small(name)
    model.learn(60)
    callback = GradientConflict(1, 8)
    callback.init_callback(model)
    states = np.random.get_state(), torch.get_rng_state()
    measured = callback._measure()
    np.random.set_state(states[0])
    data = model.replay_buffer.sample(8)
    torch.set_rng_state(states[1])
    u = torch.get_rng_state()

    def objective(loc: torch.Tensor, log_std: torch.Tensor) -> tuple[float, float]:
        torch.set_rng_state(u)
        distribution = HeadDistribution(model.actor.head).proba_distribution(loc, log_std)
        values = model.critic(data.observations, distribution.sample())
        q = values.mean((1, 2)) if name == "TQCERA" else torch.cat(values, 1).amin(1)
        return q.double().mean().item(), distribution.entropy().double().mean().item()

    with torch.no_grad():
        params = model.policy.dist_params(model.policy.raw_params(data.observations))
        gradients = np.zeros((2, 2 * params[0].numel()))
        for i in range(gradients.shape[1]):
            values = []
            for step in (1e-2, -1e-2):
                moved = [param.clone() for param in params]
                moved[i // params[0].numel()].view(-1)[i % params[0].numel()] += step
                values.append(objective(*moved))
            gradients[:, i] = (np.array(values[0]) - np.array(values[1])) / 2e-2
    norms = np.linalg.norm(gradients, axis=1)
    assert measured[1:3] == pytest.approx(norms, rel=2e-2)
    assert measured[0] == pytest.approx(gradients[0] @ gradients[1] / norms.prod(), abs=2e-2)


def _cosine(model: Any, objective: torch.Tensor, entropy: torch.Tensor) -> float:
    """Return the cosine between the gradients at the actor's weights."""
    weights = model.policy.actor_parameters()
    gradients = [
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(
                    value, weights, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            ]
        )
        for value in (objective, entropy)
    ]
    return torch.nn.functional.cosine_similarity(*gradients, dim=0).item()


def _plain_entropy(model: Any, obs: torch.Tensor) -> torch.Tensor:
    """Return the mean entropy that the raw outputs would have without a floor."""
    loc, raw_log_std = model.policy.raw_params(obs).chunk(2, dim=-1)
    return truncated_normal_entropy(loc.tanh(), raw_log_std.clamp(-20.0, 2.0)).sum(-1).mean()


def test_the_cosine_at_the_weights_is_that_of_the_returns_and_a_plain_bonus() -> None:
    model: Any = small("SACERA")
    model.learn(60)
    with torch.no_grad():
        model.actor.log_std.bias.fill_(-1.0)
    callback = GradientConflict(1, 32)
    callback.init_callback(model)
    np.random.seed(3)
    torch.manual_seed(3)
    measured = dict(zip(CONFLICT_COLUMNS[1:], callback._measure(), strict=True))
    np.random.seed(3)
    torch.manual_seed(3)
    obs = model.replay_buffer.sample(32).observations
    actions = (
        HeadDistribution(model.actor.head)
        .proba_distribution(*model.policy.dist_params(model.policy.raw_params(obs)))
        .sample()
    )
    q = torch.cat(model.critic(obs, actions), dim=1).amin(1).mean()
    expected = _cosine(model, q, _plain_entropy(model, obs))
    assert measured["cosine_actor"] == pytest.approx(expected, abs=1e-4)
    assert abs(expected) > 5e-3  # so that a sign would show


def test_the_return_of_a_rollout_is_that_of_its_advantages() -> None:
    model: Any = small("PPOERA", BOX)
    model.learn(64)
    callback = GradientConflict(1, 32)
    callback.init_callback(model)
    np.random.seed(3)
    measured = dict(zip(CONFLICT_COLUMNS[1:], callback._measure(), strict=True))
    np.random.seed(3)
    data = next(model.rollout_buffer.get(32))
    advantages = (data.advantages - data.advantages.mean()) / data.advantages.std()
    loc, log_std = model.policy.dist_params(model.policy.raw_params(data.observations))
    at_params = [param.detach().requires_grad_() for param in (loc, log_std)]
    gradients = []
    for value in (
        lambda policy: (advantages * policy.log_prob(data.actions)).mean(),
        lambda policy: policy.entropy().mean(),
    ):
        policy = TruncatedNormal(at_params[0], at_params[1].exp())
        found = torch.autograd.grad(value(policy), at_params)
        gradients.append(torch.cat([g.flatten() for g in found]))
    expected = torch.nn.functional.cosine_similarity(*gradients, dim=0).item()
    assert measured["cosine_params"] == pytest.approx(expected, abs=1e-3)
    assert abs(expected) > 5e-3
    policy = TruncatedNormal(loc, log_std.exp())
    objective = (advantages * policy.log_prob(data.actions)).mean()
    expected = _cosine(model, objective, _plain_entropy(model, data.observations))
    assert measured["cosine_actor"] == pytest.approx(expected, abs=1e-3)
    assert abs(expected) > 5e-3


def test_waits_for_the_first_transition() -> None:
    model: Any = small("SACERA", learning_starts=0)
    callback = GradientConflict(check_freq=1, batch_size=4)
    model.learn(5, callback=callback)
    assert [row[0] for row in callback.rows] == [2, 3, 4, 5]


@pytest.mark.parametrize("host", [SAC, TQC, CrossQ], ids=lambda host: host.__name__)
def test_measures_stock_off_policy_algorithms(host: Any) -> None:
    options = {"learning_starts": 20, "policy_kwargs": {"net_arch": [16, 16]}, "seed": 0}
    row = _measure(host("MlpPolicy", TargetEnv(horizon=10), device="cpu", **options))
    assert np.isfinite(row).all()
    assert (np.abs(row[list(COSINES)]) <= 1.0).all()


@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=["box", "discrete"])
@pytest.mark.parametrize("host", [PPO, A2C], ids=lambda host: host.__name__)
def test_measures_on_policy_algorithms_and_their_hosts(host: Any, space: Any) -> None:
    ours: Any = small(f"{host.__name__}ERA", space)
    stock = host("MlpPolicy", ours.get_env(), n_steps=64, device="cpu")
    for model in (ours, stock):
        row = _measure(model)
        assert np.isfinite(row).all()
        assert (np.abs(row[list(COSINES)]) <= 1.0).all()


def test_an_entropy_pinned_by_the_head_has_no_gradient_of_its_own() -> None:
    """Which is why the bonus is measured through a plain head."""
    model: Any = small("SACERA")
    row = _measure(model)
    obs = model.replay_buffer.sample(64).observations
    weights = list(model.actor.parameters())
    pinned = torch.autograd.grad(model.policy.entropy(obs).mean(), weights, allow_unused=True)
    norm = math.sqrt(sum(g.square().sum().item() for g in pinned if g is not None))
    assert norm < 1e-4
    assert row[CONFLICT_COLUMNS.index("entropy_norm_actor")] > 1e-2


def test_a_gradient_without_direction_has_no_cosine() -> None:
    model: Any = small("SACERA")
    model.learn(30)
    with torch.no_grad():
        for parameter in model.critic.parameters():
            parameter.zero_()  # Q = 0 everywhere
    callback = GradientConflict(1, 16)
    callback.init_callback(model)
    row = dict(zip(CONFLICT_COLUMNS[1:], callback._measure(), strict=True))
    assert row["return_norm_params"] == row["return_norm_actor"] == 0.0
    assert math.isnan(row["cosine_params"])
    assert math.isnan(row["cosine_actor"])


@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_leaves_the_training_as_it_is(name: str, tmp_path: Path) -> None:
    callback = GradientConflict(10, 16, csv_path=tmp_path / "conflict.csv")
    # one after the other: the seed is that of the whole process
    plain = small(name).learn(70)
    watched = small(name).learn(70, callback=callback)
    assert same_parameters(plain.policy, watched.policy)
    rows = read_rows(tmp_path / "conflict.csv")
    assert [int(row["timesteps"]) for row in rows] == [row[0] for row in callback.rows]
    assert len(rows) >= 2


def test_draws_a_figure(tmp_path: Path) -> None:
    row = (10, 0.5, 1.0, 1.0, float("nan"), 0.0, 1.0)
    plot_gradient_conflict({"SACERA": [row, row], "SAC": [row]}, tmp_path / "conflict.png")
    assert (tmp_path / "conflict.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match=r"curves\['SAC'\] is empty"):
        plot_gradient_conflict({"SAC": []}, tmp_path / "conflict.png")


def test_refuses_what_it_cannot_measure() -> None:
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        GradientConflict(batch_size=0)
    with pytest.raises(ValueError, match="check_freq=0 must be at least 1"):
        GradientConflict(check_freq=0)
    dqn = DQN("MlpPolicy", small("PPOERA", DISCRETE).get_env(), buffer_size=100, device="cpu")
    for model in (dqn, small("MaskablePPOERA", DISCRETE)):
        with pytest.raises(ValueError, match=f"model={type(model).__name__} must be a SAC"):
            model.learn(10, callback=GradientConflict())
