"""DiscreteSACERA: its losses and the floor's price as sums, what it refuses, and that it learns."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, ChoiceEnv, small, some_states
from sb3_toys import DoubleExtractor, logging_to, read_rows
from stable_baselines3.common.noise import NormalActionNoise

from era_rl.core import categorical_entropy
from era_rl.sb3 import DiscreteSACERA, EntropyMonitor, GradientConflict
from era_rl.sb3.gradients import Transitions

H = 1e-5


def double_model(**options: Any) -> Any:
    """Return a model in float64 whose policies are sure enough for the floor to bind."""
    extractor = {"features_extractor_class": DoubleExtractor}
    model: Any = small("DiscreteSACERA", policy_kwargs=extractor, **options)
    model.policy.double()
    with torch.no_grad():
        model.actor.mu.weight.mul_(30.0)
    return model


def batch(model: Any, size: int = 12) -> Transitions:
    draw = torch.Generator().manual_seed(0)
    obs, next_obs = (torch.rand(size, 1, generator=draw, dtype=torch.float64) for _ in range(2))
    rewards = torch.randn(size, 1, generator=draw, dtype=torch.float64)
    dones = (torch.rand(size, 1, generator=draw) > 0.7).double()
    actions = torch.randint(0, 4, (size, 1), generator=draw)
    return Transitions(obs, actions, next_obs, rewards, dones, rewards.new_full((), 0.9))


def test_the_critics_loss_is_the_exact_expectation() -> None:
    """sum_j mean (Q_j(s, a) - r - gamma sum_a' pi(a'|s') min_k Q'_k(s', a'))^2 / 2, by loops."""
    model = double_model()
    data = batch(model)
    loss, _ = model._bound_update().critic.loss(data, None)
    probs = model.policy.get_distribution(data.next_obs).distribution.probs
    following, current = model.critic_target(data.next_obs), model.critic(data.obs)
    total = 0.0
    for i in range(len(data.rewards)):
        value = sum(probs[i, a].item() * min(q[i, a].item() for q in following) for a in range(4))
        target = data.rewards[i].item() + (1.0 - data.dones[i].item()) * 0.9 * value
        total += sum((q[i, int(data.actions[i])].item() - target) ** 2 for q in current)
    assert loss.item() == pytest.approx(0.5 * total / len(data.rewards), rel=1e-12)


def test_the_actors_loss_and_price_are_those_of_the_sum() -> None:
    """L = -mean sum_a pi(a|s) min_j Q_j(s, a); dL/dH0 = (L(H0 + h) - L(H0 - h)) / 2 h."""
    model = double_model(target_entropy=1.2)
    obs = batch(model).obs
    step = model._bound_update().actor

    def found() -> tuple[float, float]:
        gradients, loss, *_ = step.by_transform(obs, None)
        return loss.item(), gradients[-1].item()

    logits = model.policy.dist_params(model.policy.raw_params(obs))[0]
    assert categorical_entropy(logits).detach().numpy() == pytest.approx(1.2, abs=1e-9)
    least = torch.minimum(*model.critic(obs))
    loss, price = found()
    assert loss == pytest.approx(-(logits.softmax(-1) * least).sum(-1).mean().item(), rel=1e-12)
    losses = []
    for shift in (H, -H):
        model.target_entropy = 1.2 + shift
        losses.append(found()[0])
    assert abs(price) > 1e-6
    assert price == pytest.approx((losses[0] - losses[1]) / (2.0 * H), rel=1e-4)
    model.target_entropy = 1.2
    (*_, eager), *_ = step.by_autograd(obs, None)
    assert eager.item() == pytest.approx(price, rel=1e-12)


def test_the_price_of_a_floor_that_does_not_bind_is_zero() -> None:
    model = small("DiscreteSACERA", target_entropy_fraction=0.01)
    (*_, price), *_ = model._bound_update().actor.by_autograd(torch.zeros(8, 1), None)  # type: ignore[attr-defined]
    assert price.item() == 0.0


def test_sampled_actions_have_the_policys_probabilities() -> None:
    """Frequencies of 20,000 samples within four standard errors."""
    model: Any = small("DiscreteSACERA")
    obs = some_states(model, 1).repeat(20_000, 0)
    actions, _ = model.predict(obs)
    found = np.bincount(actions, minlength=4) / len(actions)
    probs = model.policy.get_distribution(torch.as_tensor(obs[:1])).distribution.probs
    expected = probs.detach().numpy()[0]
    assert (np.abs(found - expected) <= 4.0 * np.sqrt(expected * (1 - expected) / 20_000)).all()


def test_gradient_conflict_takes_the_exact_gradient_at_the_logits() -> None:
    """d/dz_a of sum_a pi(a|s) Q(s, a) is pi(a|s) (Q(s, a) - sum_b pi(b|s) Q(s, b))."""
    model: Any = small("DiscreteSACERA").learn(60)
    callback = GradientConflict(10, 8)
    callback.init_callback(model)
    state = np.random.get_state()
    measured = callback._measure()
    np.random.set_state(state)
    obs = model.replay_buffer.sample(8).observations
    with torch.no_grad():
        probs = model.policy.get_distribution(obs).distribution.probs
        least = torch.minimum(*model.critic(obs))
    gradient = probs * (least - (probs * least).sum(-1, keepdim=True)) / 8.0
    assert measured[1] == pytest.approx(gradient.norm().item(), rel=1e-5)


def test_price_and_entropy_are_logged(tmp_path: Any) -> None:
    model: Any = small("DiscreteSACERA", learning_starts=10_000).learn(60)
    with logging_to(tmp_path, model):
        model.train(6, 16)
        model.dump_logs()
    (row,) = read_rows(tmp_path / "progress.csv")
    floor = 0.3 * np.log(4.0)
    assert float(row["train/entropy_floor"]) == pytest.approx(floor)
    assert float(row["train/entropy_min"]) >= floor - 1e-6
    assert np.isfinite(float(row["train/entropy_price"]))
    assert "train/std" not in row


def test_refuses_what_discrete_actions_do_not_have() -> None:
    with pytest.raises(AssertionError, match=r"Discrete.* as action spaces but Box"):
        small("DiscreteSACERA", BOX)
    noise = NormalActionNoise(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match=r"action_noise=.* must be None"):
        small("DiscreteSACERA", action_noise=noise)
    with pytest.raises(ValueError, match=r"slack=0\.2 is for bounded actions"):
        small("DiscreteSACERA", slack=0.2)
    model = small("DiscreteSACERA")
    with pytest.raises(TypeError, match="action_masks"):
        model.predict(some_states(model, 1), action_masks=np.ones((1, 4)))  # type: ignore[call-arg]


@pytest.mark.parametrize("n", [2, 4])
def test_learns_the_action_that_an_observation_points_at(n: int) -> None:
    """The mode is right in more than nine states of ten, though it begins sure of one action."""
    model: Any = DiscreteSACERA(
        "MlpPolicy",
        ChoiceEnv(spaces.Discrete(n)),
        gamma=0.0,
        learning_rate=3e-3,
        learning_starts=100,
        batch_size=64,
        policy_kwargs={"net_arch": [32, 32]},
        seed=0,
        device="cpu",
    )
    model.actor.mu.bias.data[0] = 4.0
    monitor = EntropyMonitor(check_freq=100)
    model.learn(150 * n, callback=monitor)
    obs = np.linspace(-1.0, 1.0, 200, dtype=np.float32)[:, None]
    wanted = np.floor((obs[:, 0] + 1.0) / 2.0 * n - 1e-6).clip(0)
    assert (model.predict(obs, deterministic=True)[0] == wanted).mean() > 0.9
    assert monitor.margin >= -1e-6
