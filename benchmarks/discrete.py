"""DiscreteSACERA beside a discrete SAC with a learned coefficient, and DQN and PPO as rl_zoo3 has them.

    python -m benchmarks.discrete lunar-lander      # what is missing, a file a run, seed by seed
    python -m benchmarks.discrete lunar-lander --report

The rule is in ``suites/discrete.yaml``. LunarLander needs gymnasium[box2d].
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import polyak_update
from torch.nn import functional as F

from benchmarks.metrics import improvement, interval
from benchmarks.results import RESULTS, circumstances
from era_rl import DiscreteSACERA, EntropyMonitor
from era_rl.runs.folder import read_json, write_json
from era_rl.sb3.discrete_sac import expected, least_values
from era_rl.sb3.run_settings import config_path, entry_for, with_objects

FOLDER = RESULTS / "discrete"
EPISODES = 20
"""Deterministic episodes after training, whose mean return is a run's figure."""
TASKS: dict[str, dict[str, Any]] = {
    "cartpole": {
        "env": "CartPole-v1",
        "steps": 30_000,
        "seeds": range(3),
        "arms": ["discrete-sac-era"],
    },
    "lunar-lander": {
        "env": "LunarLander-v3",
        "steps": 30_000,
        "seeds": range(5),
        "arms": ["discrete-sac-era", "discrete-sac-auto", "dqn", "ppo"],
    },
}
# rl_zoo3 2.9's for LunarLander-v3
DQN_SETTINGS: dict[str, Any] = {
    "learning_rate": 6.3e-4,
    "batch_size": 128,
    "buffer_size": 50_000,
    "learning_starts": 0,
    "target_update_interval": 250,
    "train_freq": 4,
    "gradient_steps": -1,
    "exploration_fraction": 0.12,
    "exploration_final_eps": 0.1,
    "policy_kwargs": {"net_arch": [256, 256]},
}
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 1024,
    "batch_size": 64,
    "gae_lambda": 0.98,
    "gamma": 0.999,
    "n_epochs": 4,
    "ent_coef": 0.01,
}


class DiscreteSAC(DiscreteSACERA):
    """A baseline: SAC over discrete actions with a learned coefficient alpha of the entropy.

    E[min_j Q_j - alpha ln pi] is what targets and actor have, exact over actions; ln alpha falls where
    the mean entropy is above the target: that of the floor, which is off. Source: arXiv 1910.07207.

    Args:
        *args: As of DiscreteSACERA.
        mean_entropy_fraction: The target as a fraction of ln n.
        **kwargs: As of DiscreteSACERA, but for the floor's.
    """

    def __init__(self, *args: Any, mean_entropy_fraction: float = 0.3, **kwargs: Any) -> None:
        self.mean_entropy_fraction = mean_entropy_fraction
        super().__init__(*args, target_entropy_fraction=0.0, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=self.lr_schedule(1))

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Take gradient steps on batches of the replay buffer (SB3's hook)."""
        self.policy.set_training_mode(True)
        self._n_updates += gradient_steps
        for _ in range(gradient_steps):
            data: Any = self.replay_buffer.sample(batch_size)  # type: ignore[union-attr]
            self._step_critics(data, self.log_alpha.exp().item())
            self._step_actor(data, self.log_alpha.exp().item())
            parameters = self.critic.parameters(), self.critic_target.parameters()
            polyak_update(*parameters, self.tau)

    def _log_probs(self, obs: Any) -> torch.Tensor:
        return self.actor.raw_params(obs).log_softmax(-1)  # type: ignore[attr-defined]

    def _step_critics(self, data: Any, alpha: float) -> None:
        critic: Any = self.critic
        with torch.no_grad():
            log_probs = self._log_probs(data.next_observations)
            least = least_values(self.critic_target(data.next_observations))  # type: ignore[call-arg]
            value = expected(log_probs, least - alpha * log_probs)
            target = data.rewards + (1.0 - data.dones) * self.gamma * value
        found = critic(data.observations)
        errors = [F.mse_loss(q.gather(1, data.actions.long()), target) for q in found]
        critic.optimizer.zero_grad()
        (0.5 * torch.stack(errors).sum()).backward()
        critic.optimizer.step()

    def _step_actor(self, data: Any, alpha: float) -> None:
        actor: Any = self.actor
        with torch.no_grad():
            least = least_values(self.critic(data.observations))  # type: ignore[call-arg]
        log_probs = self._log_probs(data.observations)
        actor.optimizer.zero_grad()
        expected(log_probs, alpha * log_probs - least).mean().backward()
        actor.optimizer.step()
        entropy = -expected(log_probs, log_probs).mean().detach()
        target = self.mean_entropy_fraction * np.log(log_probs.shape[-1])
        self.alpha_optimizer.zero_grad()
        (self.log_alpha * (entropy - target)).backward()
        self.alpha_optimizer.step()


def model_of(arm: str, env_id: str, seed: int) -> Any:
    """Return a new model of an arm on an environment."""
    if arm == "ppo":
        envs = make_vec_env(env_id, 16, seed=seed)
        return PPO("MlpPolicy", envs, seed=seed, device="cpu", **PPO_SETTINGS)
    env = make_vec_env(env_id, 1, seed=seed)
    if arm == "dqn":
        return DQN("MlpPolicy", env, seed=seed, device="cpu", **DQN_SETTINGS)
    settings = with_objects(entry_for(env_id, config_path("discrete_sac_era")))
    del settings["n_timesteps"]
    if arm == "discrete-sac-era":
        return DiscreteSACERA(env=env, seed=seed, device="cpu", **settings)
    fraction = settings.pop("target_entropy_fraction", 0.3)
    return DiscreteSAC(env=env, seed=seed, device="cpu", mean_entropy_fraction=fraction, **settings)


def run(task: str, arm: str, seed: int) -> dict[str, Any]:
    """Train a seed of an arm and return its record."""
    env_id, steps = TASKS[task]["env"], TASKS[task]["steps"]
    code = circumstances()
    model = model_of(arm, env_id, seed)
    monitor = EntropyMonitor() if arm == "discrete-sac-era" else None
    start = time.monotonic()
    model.learn(steps, callback=monitor)
    seconds = time.monotonic() - start
    env = make_vec_env(env_id, 1, seed=10_000 + seed)
    returns, _ = evaluate_policy(model, env, EPISODES, return_episode_rewards=True)
    return {
        "config": {"task": task, "arm": arm, "env": env_id, "steps": steps, "seed": seed},
        "command": f"python -m benchmarks.discrete {task}",
        "returns": [round(float(value), 3) for value in returns],  # type: ignore[union-attr]
        "return": round(statistics.fmean(returns), 3),  # type: ignore[arg-type]
        "entropy_minimum": monitor and monitor.minimum,
        "floor_margin": monitor and monitor.margin,
        "wall_seconds": round(seconds, 1),
        **code,
    }


def path_of(task: str, arm: str, seed: int) -> Path:
    """Return the file of a run's record."""
    return FOLDER / f"{task}-{arm}-seed{seed}.json"


def report(task: str) -> str:
    """Return a table of the arms: returns of the seeds, IQM with its interval, and the comparison."""
    arms = {}
    for arm in TASKS[task]["arms"]:
        paths = [path_of(task, arm, seed) for seed in TASKS[task]["seeds"]]
        arms[arm] = np.array([[read_json(path)["return"]] for path in paths if path.exists()])
    ours = arms["discrete-sac-era"]
    lines = [
        f"# {TASKS[task]['env']}, {TASKS[task]['steps']:,} steps",
        "",
        "| arm | mean returns of the seeds | IQM, 95% | P(discrete-sac-era is better) |",
        "|---|---|---|---|",
    ]
    for arm, scores in arms.items():
        found = " ".join(f"{value:.1f}" for value in scores[:, 0])
        better = "" if arm == "discrete-sac-era" else str(improvement(ours, scores))
        lines.append(f"| {arm} | {found} | {interval(scores)} | {better} |")
    return "\n".join(
        [*lines, "", f"Generated by `python -m benchmarks.discrete {task} --report`.", ""]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Do the runs of a task that have no record, or write its report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.discrete", description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--report", action="store_true", help="write the report of what is there")
    arguments = parser.parse_args(argv)
    task = arguments.task
    if arguments.report:
        (FOLDER / f"{task}.md").write_text(report(task))
        return
    torch.set_num_threads(1)
    for seed in TASKS[task]["seeds"]:
        for arm in TASKS[task]["arms"]:
            path = path_of(task, arm, seed)
            if not path.exists():
                record = run(task, arm, seed)
                write_json(path, record)
                sys.stdout.write(f"{path}: {record['return']} in {record['wall_seconds']} s\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
