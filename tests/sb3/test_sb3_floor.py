"""The entropy floor on the states that a policy visits, its default, and the learned delta."""

import math
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_family import BOX, small
from sb3_toys import TargetEnv, logging_to, read_rows, small_sacera, states, trained

from era_rl.core import TruncatedNormal, tanh_normal_entropy
from era_rl.sb3 import SACERA, EntropyMonitor


def _environment(name: str) -> gym.Env:
    return gym.make("Pendulum-v1") if name == "Pendulum-v1" else TargetEnv(6, horizon=20)


@pytest.mark.parametrize("name", ["Pendulum-v1", "six actions"])
@pytest.mark.parametrize("slack", [None, 0.3])
def test_holds_on_every_visited_state(name: str, slack: float | None) -> None:
    monitor = EntropyMonitor(check_freq=20)
    model = small_sacera(_environment(name), slack=slack, learning_rate=1e-2)
    trained(model, 150, callback=monitor)
    floor = model.actor.head.target_entropy
    assert floor <= monitor.minimum
    with torch.no_grad():
        loc, log_std, _ = model.actor.get_action_dist_params(states(model, 500))
        entropy = model.policy.entropy(states(model, 500))
    oracle = TruncatedNormal(loc.double(), log_std.double().exp()).entropy()
    torch.testing.assert_close(entropy.double(), oracle, rtol=1e-5, atol=1e-5)
    assert oracle.min() >= floor
    if slack is None:
        assert oracle.max() < floor + 1e-3  # pinned; with slack see below


def test_slack_lets_the_entropy_rise_and_fall() -> None:
    def mean_entropy(model: SACERA) -> float:
        with torch.no_grad():
            return model.policy.entropy(states(model, 500)).mean().item()

    model = small_sacera(TargetEnv(6, horizon=20), slack=0.3)
    floor, ceiling = -3.0, 6 * math.log(2.0)
    start = mean_entropy(model)
    # the head starts with about the share 0.3 of the budget unspent
    assert start == pytest.approx(floor + 0.3 * (ceiling - floor), abs=0.5)
    trained(model, 200)
    assert floor < mean_entropy(model) < start  # the task wants precise actions
    with torch.no_grad():
        model.actor.log_std.bias[-1] += 20.0
    assert mean_entropy(model) > 0.99 * ceiling


def test_eq_11_holds_the_entropy_before_truncation() -> None:
    model = trained(small_sacera(TargetEnv(6, horizon=20), floor="gaussian"), 60)
    with torch.no_grad():
        loc, log_std, _ = model.actor.get_action_dist_params(states(model, 500))
    gaussian = (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)
    assert (gaussian >= -3.0 - 1e-5).all()
    # truncation takes entropy away: no floor of the policy's own
    assert TruncatedNormal(loc, log_std.exp()).entropy().min() < -3.0


def test_the_squashed_policy_reports_the_entropy_of_its_actions() -> None:
    model = small_sacera(floor="gaussian", distribution="tanh", target_entropy=0.0)
    trained(model)
    with torch.no_grad():
        loc, log_std, _ = model.actor.get_action_dist_params(states(model, 50))
        entropy = model.policy.entropy(states(model, 50))
    gaussian = (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)
    assert (gaussian >= -1e-5).all()
    torch.testing.assert_close(
        entropy.double(),
        tanh_normal_entropy(loc.double(), log_std.double()).sum(-1),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(("target_entropy", "expected"), [("auto", -3.0), (-1, -1.0), (0.5, 0.5)])
def test_the_target_is_a_number_after_construction(target_entropy: Any, expected: float) -> None:
    model = small_sacera(TargetEnv(6), target_entropy=target_entropy)
    assert type(model.target_entropy) is float
    assert model.target_entropy == model.policy.target_entropy == expected


class TestLearnedDelta:
    def _model(self, **kwargs: Any) -> SACERA:
        options: dict[str, Any] = {"floor": "gaussian", "delta": "auto", "learning_starts": 1_000}
        return small_sacera(TargetEnv(6, horizon=20), **{**options, **kwargs})

    def _converge(self, model: SACERA, steps: int) -> float:
        """Update delta alone, the networks frozen, and return the mean entropy over the states."""
        obs = states(model, 2_000)
        for _ in range(steps):
            model._update_delta(model._entropy(obs))
        with torch.no_grad():
            return model.policy.entropy(obs).mean().item()

    @pytest.mark.parametrize("options", [{}, {"distribution": "tanh"}], ids=str)
    def test_brings_the_mean_entropy_to_the_target(self, options: dict[str, Any]) -> None:
        model = self._model(target_entropy=2.0, **options)
        before = model.policy.entropy(states(model, 2_000)).mean().item()
        assert before < 1.9
        assert self._converge(model, 200) == pytest.approx(2.0, rel=0.02)
        assert 0.0 < model.delta_learner().item() < model.delta_learner.delta_max

    def test_the_head_follows_the_learner(self) -> None:
        model = trained(small_sacera(floor="gaussian", delta="auto", target_entropy=0.5))
        assert model.delta_learner().item() > 0.0
        assert model.actor.head.delta.item() == model.delta_learner().item()

    def test_a_saturated_delta_falls_as_soon_as_the_entropy_allows(self) -> None:
        """The parameter stays within [0, delta_max]: what lay beyond would have to be unlearned."""
        model = small_sacera(floor="gaussian", delta="auto")
        for _ in range(3):
            model._update_delta(torch.full((4,), -1e6))
        highest = model.delta_learner.delta_max
        assert model.delta_learner.parameter.item() == pytest.approx(highest)
        model._update_delta(torch.full((4,), 2.0))
        assert model.policy.head.delta.item() < highest * (1.0 - 1e-6)

    def test_saturation_is_logged(self, tmp_path: Path) -> None:
        # at log_std_max the truncated normal falls short of this floor, whatever delta is
        model = small_sacera(floor="gaussian", delta="auto", target_entropy=1.3, log_std_max=-0.7)
        with logging_to(tmp_path, model):
            model.learn(60, log_interval=1)
        rows = read_rows(tmp_path / "progress.csv")
        assert float(rows[-1]["train/delta"]) == pytest.approx(model.delta_learner.delta_max)
        assert rows[-1]["train/delta_saturated"] == "True"

    @pytest.mark.filterwarnings("ignore:target_entropy=-30 has no effect")
    def test_stays_at_zero_where_the_entropy_is_above_the_target(self) -> None:
        model = self._model(target_entropy=-30.0, log_std_min=-2.0)
        assert self._converge(model, 20) > -30.0
        assert model.delta_learner().item() == 0.0


def test_logs_losses_and_entropies(tmp_path: Path) -> None:
    model = small_sacera()
    with logging_to(tmp_path, model):
        trained(model, log_interval=1)
    rows = read_rows(tmp_path / "progress.csv")
    names = ("n_updates", "actor_loss", "critic_loss", "learning_rate")
    entropies = ("entropy_mean", "entropy_min", "entropy_floor", "log_std_mean")
    logged = {name: float(rows[-1][f"train/{name}"]) for name in (*names, *entropies)}
    assert all(np.isfinite(value) for value in logged.values())
    assert logged["learning_rate"] == 1e-3
    assert logged["entropy_floor"] == -1.0
    assert logged["entropy_mean"] >= logged["entropy_min"] >= -1.0
    assert logged["critic_loss"] > 0.0
    assert [row["train/n_updates"] for row in rows] == ["", "", "9", "19"]


def test_logs_the_mean_loss_of_the_updates_since_the_last_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = small_sacera(learning_starts=10_000, gamma=0.0, learning_rate=0.0)
    model.learn(100)
    assert model.replay_buffer is not None
    # with frozen networks, and values that do not depend on the actions, the losses are known
    with torch.no_grad():
        for value, q_network in enumerate(model.critic.q_networks):
            q_network[-1].weight.zero_()
            q_network[-1].bias.fill_(2.0 + value)
    losses, log_stds = [], [0.0]
    sample = model.replay_buffer.sample

    def spy(*args: Any, **kwargs: Any) -> Any:
        data = sample(*args, **kwargs)
        with torch.no_grad():
            q_values = model.critic(data.observations, data.actions)
            _, log_std, _ = model.actor.get_action_dist_params(data.observations)
        losses.append(sum(0.5 * ((q - data.rewards) ** 2).mean().item() for q in q_values))
        log_stds[:] = [log_std.mean().item()]
        return data

    monkeypatch.setattr(model.replay_buffer, "sample", spy)
    expected = []
    with logging_to(tmp_path, model):
        for steps in (3, 5):
            losses.clear()
            model.train(steps, 16)
            model.dump_logs()
            expected.append(np.mean(losses))
    logged = [float(row["train/critic_loss"]) for row in read_rows(tmp_path / "progress.csv")]
    assert logged == pytest.approx(expected, rel=1e-5)
    last = read_rows(tmp_path / "progress.csv")[-1]
    assert float(last["train/actor_loss"]) == pytest.approx(-2.0)
    assert float(last["train/log_std_mean"]) == pytest.approx(log_stds[0], rel=1e-5)


@pytest.mark.filterwarnings("ignore:target_entropy=-30 has no effect")
@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_logs_the_std_as_ppo_does(name: str, tmp_path: Path) -> None:
    """train/std and std_min, of actions normalised to [-1, 1], and the share at log_std_min."""
    model: Any = small(name, BOX, log_std_min=-1.0, target_entropy=-30.0)
    with logging_to(tmp_path, model):
        model.learn(96, log_interval=1)
    last = read_rows(tmp_path / "progress.csv")[-1]
    for figure, expected in (("std", np.exp(-1.0)), ("std_min", np.exp(-1.0))):
        assert float(last[f"train/{figure}"]) == pytest.approx(expected, rel=1e-6)
    assert float(last["train/share_at_log_std_min"]) == 1.0


def test_the_log_says_whose_entropy_the_floor_is(tmp_path: Path) -> None:
    model: Any = small("PPOERA", BOX, floor="gaussian")
    with logging_to(tmp_path, model):
        model.learn(96, log_interval=1)
    last = read_rows(tmp_path / "progress.csv")[-1]
    assert float(last["train/gaussian_entropy_floor"]) == model.target_entropy
    assert "train/entropy_floor" not in last
