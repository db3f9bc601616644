"""The training loop: collect, learn, log, evaluate, checkpoint."""

import csv
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Self

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.collectors import BaseCollector, Collector, MultiSyncCollector
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.record import TensorboardLogger

from era_rl.devices import resolved_device, set_threads
from era_rl.runs import folder as files
from era_rl.runs.settings import plain
from era_rl.torchrl.config import Config, PPOConfig, SACConfig
from era_rl.torchrl.envs import make_envs
from era_rl.torchrl.learner import Learner
from era_rl.torchrl.ppo import PPOLearner
from era_rl.torchrl.sac import SACLearner
from era_rl.torchrl.stacked import StackedPolicy, leaves, refuse_nonfinite

EVALUATION, COLLECTION = 1, 2
"""Purposes of environments' random streams; several collectors count on from COLLECTION."""
STATE, LOG = "state.pt", "log.csv"
"""A checkpoint's file, and the log of every agent's metrics: step, seed, name, value."""

LEARNERS: dict[type[Config], type[Learner]] = {SACConfig: SACLearner, PPOConfig: PPOLearner}
MakeCollector = Callable[[Config, StackedPolicy], BaseCollector]


def make_collector(config: Config, policy: StackedPolicy) -> BaseCollector:
    """Return TorchRL's collector in this process, or with one process for each of ``collectors``."""
    envs = [
        partial(make_envs, config, config.n_envs, COLLECTION + index)
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


def shut_down(collector: BaseCollector) -> None:
    """End a collector and what sends weights to its processes."""
    collector.shutdown()
    # left to the end of the interpreter, what has sent none starts a thread there, for which it waits
    for scheme in (collector._weight_sync_schemes or {}).values():
        scheme.shutdown()


class Trainer:
    """One run of stacked agents, from its settings to its log and checkpoint; a context manager.

    A checkpoint begins new episodes, seeded by its number, in the run that writes it as in one that
    resumes from it, so that both go on alike whatever the environment. On resuming, rows of the log
    after the checkpoint are removed; TensorBoard shows the steps that are done again twice.

    Args:
        config: The settings; of device="auto" CUDA is taken where it is available, else the CPU.
        make_collector: Builds the collector, by default one of this machine.

    Raises:
        ValueError: If the device, the folder or the environment of the settings cannot be used,
            another process works in the folder, or it holds a checkpoint and ``resume`` is not set.
    """

    def __init__(self, config: Config, make_collector: MakeCollector = make_collector) -> None:
        self.config = replace(config, device=resolved_device(config.device))
        with ExitStack() as held:
            held.enter_context(files.locked(config.out))
            self._start(held, self._saved(), make_collector)
            self._held = held.pop_all()

    def _start(
        self, held: ExitStack, saved: dict[str, Any] | None, make_collector: MakeCollector
    ) -> None:
        """Make what trains, each to be ended with ``held``, and go on from a checkpoint if any."""
        config = self.config
        self.evaluation_envs = make_envs(config, config.eval_episodes, EVALUATION)
        # they open with the first evaluation
        held.callback(lambda: self.evaluation_envs.is_closed or self.evaluation_envs.close())
        self.learner = LEARNERS[type(config)](config, self.evaluation_envs)
        set_threads(
            config.threads, config.rows * max(p.numel() for p in leaves(self.learner.params))
        )
        self.checkpoints = 0
        self.ended = torch.zeros(2, config.seeds)
        self.whole = False
        if saved is not None:
            self.learner.load_state_dict(saved["learner"])
            self.checkpoints = saved["checkpoints"]
            self.ended = saved.get("ended", self.ended)  # files of before have none
        self.saved_at = self.learner.steps
        self.collector = make_collector(config, self.learner.policy)
        held.callback(shut_down, self.collector)
        self.batches = iter(self.collector)  # kept: a collector ends with its iterator
        files.cut_rows(config.out / LOG, self.learner.steps)
        self.log = held.enter_context((config.out / LOG).open("a", newline=""))
        if not self.log.tell():
            self.log.write("step,seed,name,value\n")
        self.tensorboard = TensorboardLogger("tensorboard", str(config.out))
        held.callback(self.tensorboard.experiment.close)
        self._begin_episodes()

    def run(self) -> Tensor:
        """Train to ``steps`` and return the last evaluation's returns, (agents, episodes).

        Raises:
            FloatingPointError: If observations, rewards or networks are not finite; the checkpoint
                before stays.
        """
        started, begun_at = time.monotonic(), self.learner.steps
        returns = None
        while self.learner.steps < self.config.steps:
            before = self.learner.steps
            data = agents_first(next(self.batches), self.config.seeds)
            refuse_nonfinite(data)
            self.learner.follow_schedule()
            metrics = self.learner.learn(data)
            self.ended = self.ended + (ended := episodes_ended(data))
            self.whole |= bool(ended[1].any())
            if self.config.collectors:
                self.collector.update_policy_weights_()
            is_last = self.learner.steps >= self.config.steps
            if is_last or self._due(self.config.log_freq, before):
                rate = (self.learner.steps - begun_at) / (time.monotonic() - started)
                self._log({**metrics, **self._since_last_log(rate), **self.learner.entropies()})
            # before the checkpoint: what was logged before it is logged once
            returns = (
                self.evaluate() if is_last or self._due(self.config.eval_freq, before) else None
            )
            if is_last or self._due(self.config.save_freq, before):
                if not (self.whole or is_last):
                    self._warn_of_cut_episodes()
                self._checkpoint()
        # where none are left to do, the run had ended, and they were logged then
        return self._returns() if returns is None else returns

    def evaluate(self) -> Tensor:
        """Return and log the returns of deterministic episodes, shape (agents, episodes)."""
        returns = self._returns()
        self._log({"eval_return": returns.mean(1), "eval_return_min": returns.amin(1)})
        return returns

    def _returns(self) -> Tensor:
        returns = episode_rollouts(self.evaluation_envs, self.learner.policy, seed=0)
        return returns.view(self.config.seeds, -1)

    def close(self, *_: object) -> None:
        """Close the log, end the collector and the environments, and let go of the folder."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    __exit__ = close

    def _since_last_log(self, rate: float) -> dict[str, Tensor]:
        """Return each agent's mean return over the episodes since the last log line, and the rate."""
        total, number = self.ended
        self.ended = torch.zeros_like(self.ended)
        return {"episode_return": total / number, "steps_per_second": torch.full_like(total, rate)}

    def _due(self, freq: int, before: int) -> bool:
        """Whether a multiple of ``freq`` lies after ``before`` and not after now."""
        return freq > 0 and self.learner.steps // freq > before // freq

    def _warn_of_cut_episodes(self) -> None:
        warnings.warn(
            f"save_freq={self.config.save_freq} is shorter than the episodes: none has ended since "
            "the checkpoint before, and each begins new ones. Take a larger save_freq",
            stacklevel=3,
        )

    def _begin_episodes(self) -> None:
        self.collector.set_seed(self.checkpoints, static_seed=True)
        self.collector.reset()
        self.learner.begin_episodes()

    def _checkpoint(self) -> None:
        learner = self.learner
        if not learner.is_finite():
            kept = (
                f"the checkpoint of step {self.saved_at} stays" if self.saved_at else "none is kept"
            )
            raise FloatingPointError(f"the networks are not finite at step {learner.steps}: {kept}")
        self.checkpoints += 1
        config = plain({"algorithm": type(self.config).__name__, **asdict(self.config)})
        state = {"learner": learner.state_dict(), "checkpoints": self.checkpoints}
        state["ended"] = self.ended
        with files.new_checkpoint(self.config.out, learner.steps) as folder:
            files.save_state(folder / STATE, {"config": config, **state})
        self.saved_at, self.whole = learner.steps, False
        self._begin_episodes()

    def _saved(self) -> dict[str, Any] | None:
        """Return the checkpoint to go on from, if there is one."""
        out, found = self.config.out, files.checkpoints(self.config.out)
        if found and not self.config.resume:
            raise files.FolderError(
                f"out={str(out)!r} holds a checkpoint: go on from it with resume=True (--resume),"
                " or take another folder"
            )
        newest = files.newest_intact(out)
        if newest is None:
            if found or (out / "checkpoint.pt").exists():  # of before there were checksums
                raise files.FolderError(
                    f"out={str(out)!r} has no whole checkpoint of this version: take another folder"
                )
            return None
        state = files.read_state(newest / STATE, {"config", "learner"}, "era_rl.torchrl")
        self.config.check_resumes(state["config"], newest, algorithm=type(self.config).__name__)
        return state

    def _log(self, metrics: Mapping[str, Tensor]) -> None:
        """Write each agent's metrics to the logs; NaN, for no episode, is left out."""
        step, rows = self.learner.steps, csv.writer(self.log)
        for name, values in metrics.items():
            for seed, value in zip(self.config.agent_seeds, values.tolist(), strict=True):
                if not math.isnan(value):
                    rows.writerow([step, seed, name, value])
                    self.tensorboard.log_scalar(f"seed{seed}/{name}", value, step=step)
        self.log.flush()
        if self.config.progress:
            means = [
                f"{name} {values.nanmean():.4g}"
                for name, values in metrics.items()
                if not values.isnan().all()  # no episode has ended
            ]
            sys.stderr.write(f"step {step} of {self.config.steps}: {', '.join(means)}\n")


def agents_first(data: TensorDictBase, agents: int) -> TensorDictBase:
    """Return a collector's batch, ([collectors,] agents * envs, time), as (agents, all envs, time)."""
    time_steps = data.shape[-1]
    split = data.reshape(-1, agents, data.shape[-2] // agents, time_steps)
    return split.transpose(0, 1).flatten(1, 2)


def episodes_ended(data: TensorDictBase) -> Tensor:
    """Return each agent's sum of returns of the episodes that ended in a batch, and their number."""
    done = data["next", "done"]
    total = torch.where(done, data["next", "episode_reward"], 0.0).flatten(1).sum(1)
    return torch.stack([total, done.flatten(1).sum(1)])


@torch.no_grad()
def episode_rollouts(envs: EnvBase, policy: TensorDictModuleBase, seed: int) -> Tensor:
    """Return the return of the first episode after seeding in each environment, shape (envs,).

    Actions are deterministic, and an environment that has ended waits for the others.
    """
    envs.set_seed(seed, static_seed=True)
    data = envs.reset()
    returns = torch.zeros(envs.batch_size)
    pending = torch.ones(envs.batch_size, dtype=torch.bool)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        while pending.any():
            step, data = envs.step_and_maybe_reset(policy(data))
            ended = step["next", "done"].squeeze(-1) & pending
            returns = torch.where(ended, step["next", "episode_reward"].squeeze(-1), returns)
            pending &= ~ended
    return returns
