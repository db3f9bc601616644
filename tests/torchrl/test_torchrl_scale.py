"""Collecting in other processes: MultiSyncCollector, and RayCollector with a killed worker."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchrl.envs.utils import ExplorationType, set_exploration_type

from era_rl.torchrl.config import Config, PPOConfig, SACConfig
from era_rl.torchrl.trainer import Trainer, agents_first

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1_800),
    pytest.mark.filterwarnings("default"),  # the hosts' start-up and shutdown warn of their own
]


COMMON = {"hidden": (16, 16), "eval_episodes": 1, "collectors": 2, "steps_per_batch": 10}
SAC = SACConfig(**COMMON, learning_starts=40, batch_size=32, updates=2)
PPO = PPOConfig(**COMMON, minibatches=4)
SIMBA, XQC = replace(SAC, network="simba"), replace(SAC, network="batchnorm")


@pytest.mark.parametrize("config", [SAC, PPO, SIMBA, XQC], ids=["sac", "ppo", "simba", "batchnorm"])
def test_two_processes_collect_with_the_learners_policy(config: Config, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, seeds=2, n_envs=2, steps=120, out=tmp_path))
    trainer.run()
    assert trainer.learner.steps == 120
    data = next(trainer.batches)
    assert data.shape == (2, 4, 10)  # collectors, agents * environments, time
    assert not torch.equal(data["observation"][0], data["observation"][1])
    with set_exploration_type(ExplorationType.RANDOM):
        for step in agents_first(data, 2).flatten(0, 1).unbind(-1):
            expected = trainer.learner.policy(step.select("observation", "noise"))
            torch.testing.assert_close(step["action"], expected["action"])
    if isinstance(config, PPOConfig):
        assert trainer.learner.policy.normalize.count == 120
    trainer.close()


def test_ray_goes_on_after_a_worker_is_killed(tmp_path: Path) -> None:
    ray_sac = pytest.importorskip("benchmarks.torchrl.ray_sac", reason="ray is not installed")
    config = replace(SAC, steps=400, save_freq=100, out=tmp_path)
    summary = ray_sac.train(config, kill_at=200)
    (death,) = summary["deaths"]
    assert death["died_at"] >= 200
    assert summary["last_attempt_resumed_at"] == 200
    assert summary["steps"] == 400
