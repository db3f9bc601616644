"""The arms over XQCERA's and SimBa's critics: losses, coefficient, noise, and that they are resumed."""

import copy
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from resuming import loaded_to_go_on
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from benchmarks import suite
from benchmarks.acting import WAYS, returns_by_action
from benchmarks.exploration import LOGGED, Exploration
from benchmarks.trace import entropies_and_log_std
from benchmarks.xqc_arms import FixedNoiseXQC, SoftSimba, SoftXQC
from era_rl.sb3 import XQCERA
from era_rl.sb3.gradients import Transitions, sac_critic_loss
from era_rl.sb3.xqc import xqc_critic_loss

XQC_ARMS = [(SoftXQC, {"nats_per_dim": -1.0, "first_coefficient": 1.0}), (FixedNoiseXQC, {})]
ARMS = [*XQC_ARMS, (SoftSimba, {})]
IDS = ["xqc", "noise", "simba"]
SOFT = pytest.mark.parametrize("kind", [SoftXQC, SoftSimba])


class Target(gymnasium.Env):
    """Ten steps of states in [-1, 1]^2 that the actions are to equal."""

    observation_space = action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        self.state = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.state, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = -float(np.abs(action - self.state).sum())
        self.steps += 1
        self.state = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self.state, reward, False, self.steps >= 10, {}


def small(kind: Any, **options: Any) -> Any:
    sizes = {"policy_kwargs": {"net_arch": [16, 16]}, "batch_size": 16, "buffer_size": 400}
    env = make_vec_env(Target, 1, seed=0)
    defaults = {"learning_starts": 20, "learning_rate": 1e-3, "seed": 0, "device": "cpu"}
    policy = next(iter(kind.policy_aliases))
    return kind(policy, env, **sizes, **{**defaults, **options})


def batch(discount: float = 0.9) -> Transitions:
    rand = lambda *shape: torch.rand(*shape) * 2 - 1  # noqa: E731
    dones = (rand(8, 1) > 0.5).float()
    return Transitions(
        rand(8, 2), rand(8, 2), rand(8, 2), rand(8, 1), dones, torch.tensor(discount)
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(
    ("kind", "loss_of"), [(SoftXQC, xqc_critic_loss), (SoftSimba, sac_critic_loss)]
)
def test_the_critics_loss_is_the_hosts_with_alpha_ln_pi_taken_from_the_next_value(
    kind: Any, loss_of: Any, alpha: float
) -> None:
    """Target r + gamma (1 - d) (Q' - alpha ln pi(a'|s')); alpha = 0 is XQCERA's loss and SACERA's."""
    model = small(kind, first_coefficient=alpha or 1e-30)
    data, noise = batch(), torch.randn(8, 2)
    step = model._make_update().critic
    for module, mode in step.modes:
        module.training = mode
    before = copy.deepcopy(model.policy)
    loss = step.loss(data, noise)[0]
    loc, log_std, _ = before.actor.get_action_dist_params(data.next_obs)
    actions = torch.tanh(loc + log_std.exp() * noise)
    pi = TransformedDistribution(Normal(loc.double(), log_std.double().exp()), TanhTransform())
    log_prob = pi.log_prob(actions.double()).sum(1, keepdim=True).float()
    rewards = data.rewards - alpha * (1 - data.dones) * 0.9 * log_prob
    plain = data._replace(rewards=rewards)
    expected = loss_of(before.critic, before.critic_target, plain, actions)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    if alpha == 0.0:
        theirs = loss_of(before.critic, before.critic_target, data, actions)
        torch.testing.assert_close(loss, theirs, rtol=1e-6, atol=1e-6)


def test_log_densities_are_exact_where_tanh_saturates() -> None:
    """ln p = ln N(x) - sum ln(1 - tanh(x)^2), finite at x = 30, equal in float64."""
    head = small(SoftXQC).actor.head
    loc = torch.tensor([[30.0, -0.3]])
    params, noise = (loc, torch.full((1, 2), -1.0)), torch.tensor([[0.5, -1.0]])
    wide = tuple(p.double() for p in params), noise.double()
    found = head.log_prob_of_noise(params, noise)
    torch.testing.assert_close(found.double(), head.log_prob_of_noise(*wide), rtol=1e-5, atol=1e-5)
    x = loc.double() + math.exp(-1.0) * noise.double()
    slope = 2.0 * torch.logaddexp(x, -x) - 2.0 * math.log(2.0)  # -ln(1 - tanh^2)
    expected = (Normal(loc.double(), math.exp(-1.0)).log_prob(x) + slope).sum(1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "transform"])
@pytest.mark.parametrize(("target", "sign"), [(0.69, 1.0), (-6.0, -1.0)])
@SOFT
def test_the_coefficient_rises_below_the_target_and_falls_above(
    kind: Any, target: float, sign: float, compiled: bool
) -> None:
    """d ln alpha = -rate sign(H - target) in Adam's first step, only when the actor steps."""
    model = small(kind, nats_per_dim=target, learning_starts=0)
    assert model.actor.log_alpha.item() == pytest.approx(math.log(0.01))
    update, data = model._make_update(), batch()
    if compiled:  # what is compiled, uncompiled
        for step in (update.critic, update.actor):
            step.gradients = step.by_transform
    before = model.actor.log_alpha.item()
    update.step(data, with_actor=False)
    assert model.actor.log_alpha.item() == before
    update.step(data, with_actor=True)
    rate = model.actor.optimizer.param_groups[0]["lr"]
    # that of float32, without decay
    assert model.actor.log_alpha.item() - before == pytest.approx(sign * rate, rel=1e-3)


@SOFT
def test_the_actor_ascends_value_and_alpha_times_entropy(kind: Any) -> None:
    """Loss mean(alpha ln pi - min Q); that of the coefficient adds nothing to its value."""
    model = small(kind, first_coefficient=0.5)
    obs, noise = batch().obs, torch.randn(8, 2)
    step = model._make_update().actor
    loss, (loc, log_std) = step.loss(obs, noise)
    actions = torch.tanh(loc + log_std.exp() * noise)
    q_values = torch.cat(model.critic(obs, actions), dim=1).amin(dim=1)
    log_prob = model.actor.head.log_prob_of_noise((loc, log_std), noise)
    torch.testing.assert_close(loss, (0.5 * log_prob - q_values).mean())
    gradients = dict(zip(step.inputs, step.by_autograd(obs, noise)[0], strict=True))
    surplus = -log_prob.mean() - model.actor.head.target_entropy
    torch.testing.assert_close(gradients["actor.log_alpha"], surplus, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "options"), ARMS, ids=IDS)
def test_what_is_compiled_has_the_gradients_of_autograd(kind: Any, options: Any) -> None:
    """Of critics, actor and coefficient, by torch.func and by autograd; 0 where there is none."""
    update, data = small(kind, **options)._make_update(), batch()
    noise = torch.rand(8, 2)
    for step, args in ((update.critic, (data, noise)), (update.actor, (data.obs, noise))):
        for module, mode in step.modes:
            module.training = mode
        ours, loss, *_ = step.by_transform(*args)
        theirs, same, *_ = step.by_autograd(*args)
        torch.testing.assert_close(loss, same)
        for a, b in zip(ours, theirs, strict=True):
            assert a is not None
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_fixed_noise_has_a_std_of_a_tenth_in_acting_and_in_training() -> None:
    """a = clip(tanh(mu) + .1 xi, -1, 1), xi standard normal; deterministic tanh(mu)."""
    model = small(FixedNoiseXQC)
    model.actor.mu.weight.data.zero_()
    model.actor.mu.bias.data = torch.tensor([0.2, 5.0])
    obs = np.zeros((20_000, 2), np.float32)
    actions = model.predict(obs)[0]
    mode = model.predict(obs[:1], deterministic=True)[0][0]
    np.testing.assert_allclose(mode, np.tanh([0.2, 5.0]), rtol=1e-6)
    assert actions[:, 0].std() == pytest.approx(0.1, abs=2e-3)
    assert actions[:, 0].mean() == pytest.approx(mode[0], abs=3e-3)
    assert actions[:, 1].max() == 1.0
    noise = torch.randn(4, 2)
    trained = model.actor.reparameterise(torch.zeros(4, 2), noise)[0]
    expected = (torch.tensor(mode) + 0.1 * noise).clamp(-1.0, 1.0)
    torch.testing.assert_close(trained, expected)
    entropies, log_std = entropies_and_log_std(model, torch.zeros(4, 2))
    assert log_std.exp().flatten().tolist() == pytest.approx([0.1] * 8)
    gaussian = math.log(0.1) + 0.5 * math.log(2.0 * math.pi * math.e)
    assert entropies.flatten().tolist() == pytest.approx([gaussian] * 8)


@pytest.mark.parametrize(("kind", "options"), ARMS, ids=IDS)
def test_resumed_training_equals_uninterrupted_training(
    kind: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    """Weights, coefficient, moments of Adam and scale of rewards; no floor; acts in every way."""
    model = small(kind, **options).learn(40)
    assert math.isnan(model.policy.target_entropy)
    resumed = loaded_to_go_on(model, tmp_path, 20)
    for part in ("actor", "critic"):
        ours, theirs = (getattr(m, part).optimizer.state_dict() for m in (model, resumed))
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=0.0)
    scales = [m.reward_scale().item() for m in (model, resumed) if hasattr(m, "reward_scale")]
    assert scales[:1] == scales[1:]
    acted = returns_by_action(model, lambda: make_vec_env(Target, 1, seed=0), 1)
    assert set(acted) == set(WAYS)
    assert np.isfinite(evaluate_policy(model, resumed.get_env(), 1)[0])


def test_exploration_has_the_price_of_a_floor_or_the_coefficient(tmp_path: Path) -> None:
    """Means of what was logged since the last check: every fourth episode, of ten steps."""
    for kind, known in ((XQCERA, "entropy_price"), (SoftXQC, "ent_coef"), (FixedNoiseXQC, None)):
        measure = Exploration(50, tmp_path / f"{kind.__name__}.csv")
        small(kind).learn(100, callback=measure)
        assert [row.timesteps for row in measure.rows] == [50, 100]
        assert all(row.coverage > 0.0 for row in measure.rows)
        for name in LOGGED:
            figure = getattr(measure.rows[1], name)
            assert math.isfinite(figure) == (name == known), (kind, name)


def test_the_arms_of_modern_critic_differ_in_noise_alone() -> None:
    """Networks, rates, updates and batches are one; seeds are done arm by arm, tasks in turn."""
    loaded = suite.load("modern-critic")
    noise = {"nats_per_dim", "first_coefficient"}
    configs = [run.config for run in loaded.runs[:5]]
    rest = [{k: v for k, v in c["settings"].items() if k not in noise} for c in configs]
    assert rest == [rest[0]] * 5
    assert [(run.task, run.seed) for run in loaded.runs] == [
        (task, seed) for task in ("dog-walk", "dog-trot") for seed in range(5) for _ in range(5)
    ]
    models = [small(kind, **options) for kind, options in [*XQC_ARMS, (XQCERA, {})]]
    for model in models:
        assert [str(q_net) for q_net in model.critic.q_networks] == [
            str(q_net) for q_net in models[-1].critic.q_networks
        ]
        assert str(model.actor.latent_pi) == str(models[-1].actor.latent_pi)
        momenta = [m.momentum for m in model.actor.modules() if hasattr(m, "momentum")]
        assert momenta == pytest.approx([1 - 0.99**3] * 3)
