"""The training loop: collect, learn, log, evaluate, checkpoint."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.collectors import BaseCollector, Collector, MultiSyncCollector
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.record import CSVLogger, TensorboardLogger

from era_rl.devices import resolved_device
from era_rl.runs.folder import in_one_piece, locked
from era_rl.torchrl.checkpoint import load_checkpoint, save_checkpoint
from era_rl.torchrl.config import Config, PPOConfig, SACConfig
from era_rl.torchrl.envs import make_envs
from era_rl.torchrl.learner import Learner
from era_rl.torchrl.ppo import PPOLearner
from era_rl.torchrl.sac import SACLearner
from era_rl.torchrl.stacked import StackedPolicy

EVALUATION, COLLECTION = 1, 2
"""Purposes of environments' random streams; several collectors count on from COLLECTION."""

MakeCollector = Callable[[Config, StackedPolicy], BaseCollector]


def make_learner(config: Config, env: EnvBase) -> Learner:
    """Return the learner of the settings' algorithm."""
    if isinstance(config, SACConfig):
        return SACLearner(config, env)
    if isinstance(config, PPOConfig):
        return PPOLearner(config, env)
    raise ValueError(f"config is {type(config).__name__}; it must be a SACConfig or a PPOConfig")


def make_collector(config: Config, policy: StackedPolicy) -> BaseCollector:
    """Return TorchRL's collector in this process, or with one process for each of ``collectors``."""
    envs = [
        partial(make_envs, config, config.num_envs, COLLECTION + index)
        for index in range(max(config.collectors, 1))
    ]
    common = {
        "frames_per_batch": config.seeds * config.steps_per_iteration,
        "exploration_type": ExplorationType.RANDOM,
        "policy_device": config.device,
        "storing_device": "cpu",
    }
    if config.collectors:
        return MultiSyncCollector(envs, policy, cat_results="stack", **common)
    return Collector(envs[0], policy, **common)


class Trainer:
    """One run of stacked agents, from its settings to its logs and checkpoint.

    A checkpoint begins new episodes, seeded by its number, in the run that writes it as in one that
    resumes from it, so that both go on alike whatever the environment. On resuming, rows of the CSV
    logs after the checkpoint are removed; TensorBoard shows the steps that are done again twice.

    Args:
        config: The settings; of device="auto" CUDA is taken where it is available, else the CPU.
        make_collector: Builds the collector, by default one of this machine.

    Raises:
        ValueError: If the device, the folder or the environment of the settings cannot be used,
            another process works in the folder, or it holds a checkpoint and ``resume`` is not set.
    """

    def __init__(self, config: Config, make_collector: MakeCollector = make_collector) -> None:
        self.config = replace(config, device=resolved_device(config.device))
        self.path = Path(config.out) / "checkpoint.pt"
        with ExitStack() as held:
            held.enter_context(locked(config.out))
            self._start(held, self._saved(), make_collector)
            self._held = held.pop_all()

    def _start(
        self, held: ExitStack, saved: dict[str, Any] | None, make_collector: MakeCollector
    ) -> None:
        """Make what trains, each to be ended with ``held``, and go on from a checkpoint if any."""
        config = self.config
        self.evaluation_envs = make_envs(config, config.eval_episodes, EVALUATION)
        held.callback(_close, self.evaluation_envs)
        self.learner = make_learner(config, self.evaluation_envs)
        self.checkpoints = 0
        if saved is not None:
            self.learner.load_state_dict(saved["learner"])
            self.checkpoints = saved["checkpoints"]
        self.saved_at = self.learner.steps
        self.collector = make_collector(config, self.learner.policy)
        held.callback(self.collector.shutdown)
        self.batches = iter(self.collector)  # kept: a collector ends with its iterator
        self.loggers = self._make_loggers(held)
        self._begin_episodes()

    def run(self) -> Tensor:
        """Train to ``total_steps`` and return the last evaluation's returns, (agents, episodes).

        Raises:
            FloatingPointError: If the networks are not finite; the checkpoint before stays.
        """
        started, begun_at = time.monotonic(), self.learner.steps
        returns = None
        while self.learner.steps < self.config.total_steps:
            before = self.learner.steps
            data = agents_first(next(self.batches), self.config.seeds)
            metrics = {**self.learner.learn(data), **episode_returns(data)}
            if self.config.collectors:
                self.collector.update_policy_weights_()
            if self._due(self.config.log_interval, before):
                rate = (self.learner.steps - begun_at) / (time.monotonic() - started)
                self._log({**metrics, "steps_per_second": torch.full((self.config.seeds,), rate)})
            returns = self.evaluate() if self._due(self.config.eval_interval, before) else None
            if self._due(self.config.checkpoint_interval, before):
                self._checkpoint()
        if self.learner.steps > self.saved_at:
            self._checkpoint()
        return self.evaluate() if returns is None else returns

    def evaluate(self) -> Tensor:
        """Return and log the returns of deterministic episodes, shape (agents, episodes)."""
        returns = episode_rollouts(self.evaluation_envs, self.learner.policy, seed=0)
        returns = returns.view(self.config.seeds, -1)
        self._log({"eval_return": returns.mean(1), "eval_return_min": returns.amin(1)})
        return returns

    def close(self) -> None:
        """Close the logs, end the collector and the environments, and let go of the folder."""
        self._held.close()

    def _due(self, interval: int, before: int) -> bool:
        """Whether a multiple of the interval lies after ``before`` and not after now."""
        return interval > 0 and self.learner.steps // interval > before // interval

    def _begin_episodes(self) -> None:
        self.collector.set_seed(self.checkpoints, static_seed=True)
        self.collector.reset()

    def _checkpoint(self) -> None:
        learner, path = self.learner, self.path
        if not all(value.isfinite().all() for value in learner.params.values(True, True)):
            kept = f"{path} stays as it was" if path.is_file() else f"no {path} is written"
            raise FloatingPointError(f"the networks are not finite at step {learner.steps}: {kept}")
        self.checkpoints += 1
        state = {"learner": learner.state_dict(), "checkpoints": self.checkpoints}
        save_checkpoint(path, self.config, state)
        self.saved_at = learner.steps
        self._begin_episodes()

    def _saved(self) -> dict[str, Any] | None:
        """Return the checkpoint to go on from, if there is one."""
        if not self.path.is_file():
            return None
        if not self.config.resume:
            raise ValueError(
                f"out={self.config.out!r} holds a {self.path.name}: go on from it with resume=True,"
                " or take another folder"
            )
        return load_checkpoint(self.path, self.config)

    def _make_loggers(self, held: ExitStack) -> list[CSVLogger | TensorboardLogger]:
        """Return loggers that go on from the learner's step."""
        out, algorithm = self.config.out, type(self.config).__name__.removesuffix("Config")
        name = f"{algorithm.lower()}-era"
        drop_rows_after(self.learner.steps, Path(out, name))
        csv, tensorboard = CSVLogger(name, out), TensorboardLogger(name, out)
        held.callback(lambda: [file.close() for file in csv.experiment.files.values()])
        held.callback(tensorboard.experiment.close)
        return [csv, tensorboard]

    def _log(self, metrics: Mapping[str, Tensor]) -> None:
        """Write each agent's metrics to TensorBoard and CSV; NaN, for no episode, is left out."""
        for name, values in metrics.items():
            for seed, value in zip(self.config.agent_seeds, values.tolist(), strict=True):
                if not math.isnan(value):
                    for logger in self.loggers:
                        logger.log_scalar(f"seed{seed}/{name}", value, step=self.learner.steps)


def _close(envs: EnvBase) -> None:
    if not envs.is_closed:  # they open with the first evaluation
        envs.close()


def drop_rows_after(step: int, folder: Path) -> None:
    """Remove the rows ``step,value`` of later steps, and one cut short, from CSV logs."""
    for path in folder.rglob("*.csv"):
        rows = path.read_text().splitlines(keepends=True)
        kept = [row for row in rows if row.endswith("\n") and float(row.split(",")[0]) <= step]
        with in_one_piece(path) as part:
            part.write_text("".join(kept))


def agents_first(data: TensorDictBase, agents: int) -> TensorDictBase:
    """Return a collector's batch, ([collectors,] agents * envs, time), as (agents, all envs, time)."""
    time_steps = data.shape[-1]
    split = data.reshape(-1, agents, data.shape[-2] // agents, time_steps)
    return split.transpose(0, 1).flatten(1, 2)


def episode_returns(data: TensorDictBase) -> dict[str, Tensor]:
    """Return each agent's mean return over the episodes that ended in a batch, NaN without any."""
    done = data["next", "done"]
    total = torch.where(done, data["next", "episode_reward"], 0.0).flatten(1).sum(1)
    return {"episode_return": total / done.flatten(1).sum(1)}


@torch.no_grad()
def episode_rollouts(
    envs: EnvBase,
    policy: TensorDictModuleBase,
    seed: int,
    kind: ExplorationType = ExplorationType.DETERMINISTIC,
) -> Tensor:
    """Return the return of one whole episode in each of a batch of environments, shape (envs,)."""
    envs.set_seed(seed, static_seed=True)
    data = envs.reset()
    returns = torch.zeros(envs.batch_size)
    pending = torch.ones(envs.batch_size, dtype=torch.bool)
    with set_exploration_type(kind):
        while pending.any():
            step, data = envs.step_and_maybe_reset(policy(data))
            ended = step["next", "done"].squeeze(-1) & pending
            returns = torch.where(ended, step["next", "episode_reward"].squeeze(-1), returns)
            pending &= ~ended
    return returns
