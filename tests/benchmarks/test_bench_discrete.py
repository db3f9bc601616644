"""Agents of discrete actions in suites: the plain discrete SAC, traces, ways of acting, reports."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_tiny import tiny
from resuming import loaded_to_go_on
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env

from benchmarks import idle, job, metrics, report, suite
from benchmarks.acting import returns_by_action
from benchmarks.discrete_arms import DiscreteSAC
from benchmarks.trace import PolicyTrace, actor_parameters, entropies_and_log_std
from era_rl.core import categorical_entropy
from era_rl.runs.folder import write_json
from era_rl.sb3 import DiscreteSACERA
from era_rl.sb3.callbacks import read_table
from era_rl.sb3.gradients import Transitions

SIZES: dict[str, Any] = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
REPLAY: dict[str, Any] = {"batch_size": 8, "buffer_size": 200, "learning_starts": 20}
KINDS: list[tuple[Any, dict[str, Any]]] = [
    (DiscreteSACERA, REPLAY),
    (DiscreteSAC, REPLAY),
    (DQN, REPLAY),
    (PPO, {"n_steps": 32, "batch_size": 16, "n_epochs": 1}),
]
ALL = pytest.mark.parametrize(("kind", "options"), KINDS, ids=[kind.__name__ for kind, _ in KINDS])


def small(kind: Any, **options: Any) -> Any:
    settings = copy.deepcopy({**SIZES, **options})  # SAC adds to policy_kwargs
    return kind("MlpPolicy", make_vec_env("CartPole-v1", 1, seed=0), **settings)


def batch() -> Transitions:
    draw = torch.Generator().manual_seed(0)
    obs, next_obs = torch.randn(2, 8, 4, generator=draw)
    rewards, dones = torch.randn(2, 8, 1, generator=draw)
    actions = torch.randint(0, 2, (8, 1), generator=draw)
    return Transitions(obs, actions, next_obs, rewards, (dones > 0).float(), torch.tensor(0.9))


def soft(alpha: float, **options: Any) -> Any:
    model = small(DiscreteSAC, **REPLAY, **options)
    model.actor.log_alpha.data.fill_(math.log(alpha))
    model.actor.mu.weight.data.mul_(30.0)  # sure enough for a floor to bind
    return model


def test_the_critics_target_is_the_exact_soft_value() -> None:
    """r + gamma (1 - d) sum_a' pi(a'|s') (min_k Q'_k(s', a') - alpha ln pi(a'|s')), by loops."""
    model, data = soft(0.3), batch()
    loss, _ = model._make_update().critic.loss(data, None)
    log_probs = model.actor.raw_params(data.next_obs).log_softmax(-1)
    following, current = model.critic_target(data.next_obs), model.critic(data.obs)
    total = 0.0
    for i in range(8):
        value = sum(
            log_probs[i, a].exp().item()
            * (min(q[i, a].item() for q in following) - 0.3 * log_probs[i, a].item())
            for a in range(2)
        )
        target = data.rewards[i].item() + (1.0 - data.dones[i].item()) * 0.9 * value
        total += sum((q[i, int(data.actions[i])].item() - target) ** 2 for q in current)
    assert loss.item() == pytest.approx(0.5 * total / 8, rel=1e-5)


@pytest.mark.parametrize("fraction", [0.05, 0.9])
def test_the_actor_ascends_the_soft_value_and_the_coefficient_its_target(fraction: float) -> None:
    """L = mean sum_a pi (alpha ln pi - min Q); dL/dln alpha = H - H0; no floor holds the entropy."""
    model, obs = soft(0.5, target_entropy_fraction=fraction), batch().obs
    step = model._make_update().actor
    log_probs = model.actor.raw_params(obs).log_softmax(-1)
    least = torch.minimum(*model.critic(obs))
    loss, _ = step.loss(obs, None)
    expected = (log_probs.exp() * (0.5 * log_probs - least)).sum(-1).mean()
    torch.testing.assert_close(loss, expected)
    entropy = categorical_entropy(log_probs)
    assert entropy.min() < 0.9 * math.log(2.0)
    assert torch.equal(model.actor.get_action_dist_params(obs)[0], model.actor.raw_params(obs))
    for gradients, *_ in (step.by_autograd(obs, None), step.by_transform(obs, None)):
        found = dict(zip(step.inputs, gradients, strict=True))["actor.log_alpha"]
        assert found.item() == pytest.approx(entropy.mean().item() - fraction * math.log(2.0))


def test_resumed_training_of_the_plain_one_equals_uninterrupted(tmp_path: Path) -> None:
    """Weights, coefficient and moments of Adam; the coefficient has moved, and there is no floor."""
    model = small(DiscreteSAC, **REPLAY).learn(40)
    assert math.isnan(model.policy.target_entropy)
    assert model.actor.log_alpha.item() != 0.0
    loaded_to_go_on(model, tmp_path, 20)


@ALL
def test_the_trace_has_the_entropy_of_the_choice(
    kind: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """H = -sum p ln p of frequencies of 20,000 samples within .02; a floor where there is one."""
    model = small(kind, **options)
    model.learn(64, callback=PolicyTrace(32, tmp_path / "trace.csv"))
    table = read_table(tmp_path / "trace.csv")
    assert not {"std_0", "entropy_0"} & table.keys()
    assert np.isnan([table["log_std_mean"], table["log_std_min"]]).all()
    assert table["gradient_norm"][-1] > 0.0
    assert table["timesteps"].tolist() == [32, 64]
    floor = 0.3 * math.log(2.0) if kind is DiscreteSACERA else math.nan
    np.testing.assert_allclose(table["floor"], floor)
    np.testing.assert_allclose(table["margin_min"], np.array(table["entropy_min"]) - floor)
    obs = torch.randn(1, 4)
    entropies, _ = entropies_and_log_std(model, obs.expand(3, 4))
    assert entropies.shape == (3, 1)
    if kind is DQN:  # SB3 draws the random share for a whole batch
        greedy, share = model.predict(obs.numpy(), deterministic=True)[0][0], model.exploration_rate
        probs = np.full(2, 0.5 * share) + (np.arange(2) == greedy) * (1.0 - share)
    else:
        actions, _ = model.predict(obs.numpy().repeat(20_000, 0))
        probs = np.bincount(actions, minlength=2) / 20_000
    expected = -(probs * np.log(np.clip(probs, 1e-12, 1.0))).sum()
    assert entropies[0].item() == pytest.approx(expected, abs=0.02)


@ALL
def test_actions_depend_on_the_actors_parameters(kind: Any, options: dict[str, Any]) -> None:
    """Discrete actions have a mode and samples, no mean."""
    model = small(kind, **options)
    obs = torch.randn(8, 4)
    outputs = model.q_net(obs) if kind is DQN else entropies_and_log_std(model, obs)[0]
    outputs.sum().backward()
    moved = {id(p) for p in model.policy.parameters() if p.grad is not None}
    assert {id(p) for p in actor_parameters(model)} == moved
    found = returns_by_action(model, lambda: make_vec_env("CartPole-v1", 2, seed=0), 2)
    assert {way: len(returns) for way, returns in found.items()} == {"mode": 2, "sample": 2}


def test_a_suite_of_discrete_actions_is_run_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "REPETITIONS", 20)
    monkeypatch.setattr(suite, "names", list)
    monkeypatch.setattr(idle, "measured", dict)
    params = "params: {learning_starts: 20, batch_size: 8}, about"
    path = tiny(
        tmp_path,
        (
            "pendulum: {env: Pendulum-v1, range: [-1600, 0]}",
            "pole: {env: CartPole-v1, range: [0, 9]}",
        ),
        ("seeds: [0, 1]", "seeds: [0]"),
        ("steps: 300\nevaluate_every: 100", "steps: 120\nevaluate_every: 120"),
        ("sac: {algo: sac,", "sac: {algo: ppo, class: 'stable_baselines3:DQN',"),
        ("{algo: sac_era, nats_per_dim: -0.5, about", f"{{algo: discrete_sac_era, {params}"),
    )
    loaded = suite.load(path)
    for run in loaded.runs:
        result = job.execute(run, run.folder(tmp_path / "s"))
        assert result["action_dim"] == 1
        write_json(run.result(tmp_path / "r"), result)
    report.write(loaded, tmp_path / "r", tmp_path / "s")
    text = (tmp_path / "r" / "report.md").read_text()
    assert "| task, arm | seeds | mode | mean | sample |" in text
    assert "## Entropy and floor" in text
    assert "## Standard deviation" not in text
    assert "## Single dimensions" not in text


def test_a_figure_of_the_discrete_suites_is_the_evaluation_after_training() -> None:
    """Of the steps at which each arm is evaluated one is in the last tenth: the last."""
    for name in ("discrete-cartpole", "discrete-lunar"):
        for run in suite.load(name).runs:
            rollout = run.config["settings"].get("n_envs", 1) * run.config["settings"].get(
                "n_steps", 1
            )
            last = -(-run.steps // rollout) * rollout
            every = run.config["evaluate_every"]
            steps = [*range(every, last, every), last]
            returns = [[float(step)] for step in steps]
            assert metrics.final_return({"timesteps": steps, "returns": returns}) == last
    arms = suite.load("discrete-lunar").runs[:4]
    ours, plain = (arms[i].config["settings"] for i in (0, 3))
    assert ours == plain
