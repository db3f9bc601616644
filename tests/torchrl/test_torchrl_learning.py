"""The trainer learns: Pendulum-v1 and walker-walk, three stacked seeds each."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchrl.envs.utils import ExplorationType

from era_rl.torchrl.config import PPOConfig, SACConfig
from era_rl.torchrl.trainer import Trainer, episode_rollouts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:No target network updater"),
    pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules"),
]
Record = Callable[[str, object], None]

PENDULUM = SACConfig(
    env="Pendulum-v1", seeds=3, total_steps=10_000, hidden=(64, 64), lr=1e-3, eval_episodes=20
)
WALKER = SACConfig(
    env="dm_control/walker-walk-v0", seeds=3, total_steps=25_000, lr=1e-3, compile=True
)


def _random_returns(trainer: Trainer) -> torch.Tensor:
    """Return the mean return of uniform random actions on each agent's evaluation episodes."""
    policy = trainer.learner.policy
    assert policy.uniform.item()
    returns = episode_rollouts(trainer.evaluation_envs, policy, 0, ExplorationType.RANDOM)
    return returns.view(trainer.config.seeds, -1).mean(1)


@pytest.mark.timeout(7_200)
def test_sac_learns_pendulum(tmp_path: Path, record_testsuite_property: Record) -> None:
    trainer = Trainer(replace(PENDULUM, out=str(tmp_path)))
    means = trainer.run().mean(1)
    trainer.close()
    record_testsuite_property("SAC-ERA Pendulum-v1 mean returns", means.tolist())
    assert means.median() >= -250.0
    assert means.amin() >= -400.0


@pytest.mark.timeout(14_400)
def test_sac_learns_walker_walk(tmp_path: Path, record_testsuite_property: Record) -> None:
    trainer = Trainer(replace(WALKER, out=str(tmp_path)))
    at_random = _random_returns(trainer)
    means = trainer.run().mean(1)
    trainer.close()
    record_testsuite_property("SAC-ERA walker-walk mean returns", means.tolist())
    record_testsuite_property("walker-walk random returns", at_random.tolist())
    assert (means >= 3.0 * at_random).all()


@pytest.mark.timeout(3_600)
def test_ppo_learns_cartpole(tmp_path: Path, record_testsuite_property: Record) -> None:
    config = PPOConfig(
        env="CartPole-v1",
        seeds=3,
        num_envs=4,
        steps_per_batch=128,
        minibatches=4,
        epochs=4,
        total_steps=40_960,
        lr=1e-3,
        target_entropy=0.05,
        out=str(tmp_path),
    )
    trainer = Trainer(config)
    means = trainer.run().mean(1)
    trainer.close()
    record_testsuite_property("PPO-ERA CartPole-v1 mean returns", means.tolist())
    assert means.median() >= 400.0
