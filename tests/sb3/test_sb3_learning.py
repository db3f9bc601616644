"""SACERA learns: near the best policy that its floor allows, and Pendulum-v1."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_toys import TargetEnv, small_sacera
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from torch import Tensor

from era_rl.core import truncated_normal_era, truncated_normal_sample
from era_rl.sb3 import SACERA, EntropyMonitor

FLOOR = -2.0


def _reward(loc: Tensor, log_std: Tensor, targets: Tensor) -> Tensor:
    """Return the expected reward of truncated normals, by 64 equidistant quantiles, (n,)."""
    u = (torch.arange(64, dtype=loc.dtype) + 0.5) / 64
    actions = truncated_normal_sample(loc[..., None], log_std[..., None], u)
    return -(actions - targets[..., None]).square().mean((-2, -1))


def _best_reward(targets: Tensor, floor: float) -> float:
    """Return the mean over states of the highest expected reward under the floor, by ascent."""
    raw = torch.zeros(2, *targets.shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.03)
    for _ in range(200):
        loc = torch.tanh(raw[0])
        log_std = truncated_normal_era(loc, raw[1], target_entropy=floor)
        reward = _reward(loc, log_std, targets).mean()
        optimizer.zero_grad()
        (-reward).backward()
        optimizer.step()
    return reward.item()


def test_reaches_most_of_what_the_floor_allows() -> None:
    monitor = EntropyMonitor(check_freq=200)
    model = small_sacera(
        TargetEnv(action_dim=2),
        target_entropy=FLOOR,
        learning_starts=200,
        batch_size=64,
        buffer_size=1_000,
        learning_rate=2e-3,
        policy_kwargs={"net_arch": [32, 32]},
    )
    model.learn(800, callback=monitor, log_interval=1_000)
    obs = torch.rand(200, 2, dtype=torch.float64) * 2.0 - 1.0
    targets = 0.8 * obs
    with torch.no_grad():
        loc, log_std, _ = model.actor.get_action_dist_params(obs.float())
    achieved = _reward(loc.double(), log_std.double(), targets).mean().item()
    best = _best_reward(targets, FLOOR)
    # a uniform action has the variance 1/3
    uniform = -(targets.square().mean() + 1.0 / 3.0).item()
    assert achieved <= best + 1e-4
    assert (achieved - uniform) / (best - uniform) >= 0.95
    assert monitor.minimum >= FLOOR


@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_learns_pendulum(record_testsuite_property: Callable[[str, object], None]) -> None:
    means = []
    for seed in range(3):
        model = SACERA("MlpPolicy", gym.make("Pendulum-v1"), seed=seed, device="cpu")
        model.learn(10_000)
        env = Monitor(gym.make("Pendulum-v1"))
        env.reset(seed=100 + seed)
        returns, _ = evaluate_policy(model, env, 20, return_episode_rewards=True)
        means.append(float(np.mean(returns)))
    record_testsuite_property("test_learns_pendulum mean returns", means)
    assert np.median(means) >= -250.0
    assert min(means) >= -400.0
