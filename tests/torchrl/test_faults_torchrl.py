"""The TorchRL trainer under faults: a full disk, damaged files, two processes in one folder, NaN."""

import csv
import errno
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.collectors import BaseCollector
from toy import Toy
from toy_runs import PPO

from era_rl.runs.folder import checkpoints, locked, read_state
from era_rl.torchrl.config import Config, SACConfig
from era_rl.torchrl.learner import ACTOR
from era_rl.torchrl.sac import CRITIC, SACLearner
from era_rl.torchrl.stacked import StackedPolicy
from era_rl.torchrl.train import main
from era_rl.torchrl.trainer import LOG, STATE, Trainer, episode_rollouts, make_collector

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

SETTINGS = {"env": "Toy-v0", "steps": 40, "hidden": (8,), "eval_episodes": 1, "batch_size": 8}
SETTINGS |= {"learning_starts": 10, "buffer_size": 40, "progress": False}
SAC = SACConfig(**SETTINGS)
COMMAND = ["sac", "--save-freq", "20", "--no-progress"]
for _name, _value in SETTINGS.items():
    if _name != "progress":
        COMMAND += [f"--{_name.replace('_', '-')}", str(_value).strip("(,)")]


def test_a_full_disk_ends_a_run_with_a_line_and_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = torch.save

    def full(state: dict, file: object) -> None:
        if checkpoints(tmp_path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(state, file)

    monkeypatch.setattr(torch, "save", full)
    assert main([*COMMAND, "--out", str(tmp_path)]) == 1
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert not list(tmp_path.glob("*.part"))
    assert main([*COMMAND, "--out", str(tmp_path), "--resume"]) == 0


@pytest.mark.usefixtures("no_evaluation")
def test_a_damaged_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    with Trainer(replace(SAC, steps=10, out=tmp_path)) as trainer:
        trainer.run()
    (path,) = tmp_path.glob("checkpoint-10/state.pt")
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:500] + b"?" + content[501:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="has no whole checkpoint of this version"):
            Trainer(replace(SAC, resume=True, out=tmp_path))


def test_what_sends_weights_ends_with_the_trainer(tmp_path: Path) -> None:
    """TorchRL leaves it to the interpreter's end, where of a run that had ended it waited for ever."""
    ended: list[str] = []

    class Scheme:
        def shutdown(self) -> None:
            ended.append("policy")

    def make(config: Config, policy: StackedPolicy) -> BaseCollector:
        assert hasattr(BaseCollector, "_weight_sync_schemes")
        collector = make_collector(config, policy)
        collector._weight_sync_schemes = {"policy": Scheme()}
        return collector

    Trainer(replace(SAC, out=tmp_path), make).close()
    assert ended == ["policy"]


def test_a_folder_is_held_from_the_start_to_the_close(tmp_path: Path) -> None:
    config = replace(SAC, out=tmp_path)
    with locked(tmp_path), pytest.raises(ValueError, match="worked on by another process"):
        Trainer(config)
    trainer = Trainer(config)
    with pytest.raises(ValueError, match="worked on by another process"):
        locked(tmp_path).__enter__()
    trainer.close()
    with locked(tmp_path):
        pass


def test_a_folder_or_a_device_that_cannot_be_used_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main([*COMMAND, "--out", str(tmp_path / "file")]) == 2
    assert "must be a writable folder" in capsys.readouterr().err
    assert main([*COMMAND, "--out", str(tmp_path), "--device", "cuda:99"]) == 2
    assert "device='cuda:99' must be a usable torch device, here one of" in capsys.readouterr().err


class _NaNRewards:
    """Two environments whose episodes end after their second step with a return that is NaN."""

    batch_size = torch.Size([2])
    steps = 0

    def set_seed(self, seed: int, static_seed: bool) -> None:
        assert static_seed

    def reset(self) -> TensorDictBase:
        return TensorDict({}, [2])

    def step_and_maybe_reset(self, data: TensorDictBase) -> tuple[TensorDictBase, TensorDictBase]:
        self.steps += 1
        assert self.steps < 10
        done = torch.full((2, 1), self.steps == 2)
        after = {"done": done, "episode_reward": torch.full((2, 1), math.nan)}
        return TensorDict({"next": after}, [2]), data


def test_an_evaluation_ends_where_returns_are_nan() -> None:
    envs = _NaNRewards()
    assert episode_rollouts(envs, lambda data: data, seed=0).isnan().all()
    assert envs.steps == 2


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (ACTOR, "the policy's actions are not finite: its network has diverged"),
        (CRITIC, "the networks are not finite at step 40: the checkpoint of step 20 stays"),
    ],
    ids=["actor", "critic"],
)
def test_networks_that_are_not_finite_leave_the_checkpoint_before(
    network: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def learn(learner: SACLearner, data: TensorDictBase) -> dict[str, torch.Tensor]:
        assert data["action"].isfinite().all()
        learner.steps += 1
        if learner.steps > 30:
            learner.policy.uniform.zero_()
            next(iter(learner.params[network].data.values(True, True)))[0] = math.nan
        return {}

    monkeypatch.setattr(SACLearner, "learn", learn)
    assert main([*COMMAND, "--out", str(tmp_path)]) == 1
    assert message in capsys.readouterr().err
    (checkpoint,) = checkpoints(tmp_path)
    state = read_state(checkpoint / STATE, {"config"}, "era_rl.torchrl")
    assert state["learner"]["steps"] == 20


@pytest.mark.parametrize(
    "config", [replace(SAC, learning_starts=99, steps=99), SAC, PPO], ids=["random", "sac", "ppo"]
)
@pytest.mark.parametrize("fault", ["observations", "rewards"])
def test_what_is_not_finite_is_refused_before_it_is_trained_on(
    config: Config, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The networks were said to have diverged, and checkpoints were replaced by what was lost."""
    step, taken = Toy.step, []

    def broken(self: Toy, action: Any) -> Any:
        observation, reward, *rest = step(self, action)
        taken.append(action)
        value = math.nan if len(taken) >= 40 else 1.0
        if fault == "rewards":
            return observation, reward * value, *rest
        return observation * np.float32(value), reward, *rest

    monkeypatch.setattr(Toy, "step", broken)
    config = replace(config, out=tmp_path, save_freq=8, normalize_observations=True)
    with Trainer(config) as trainer:
        with pytest.raises(FloatingPointError, match=rf"^the {fault} must be finite: some are not"):
            trainer.run()
        assert trainer.learner.is_finite()
    (checkpoint,) = checkpoints(tmp_path)
    assert checkpoint.name == "checkpoint-32"
    with Trainer(replace(config, resume=True)) as trainer:
        assert trainer.learner.is_finite()


@pytest.mark.parametrize("network", ["batchnorm", "simba"])
def test_lost_statistics_replace_no_checkpoint(network: str, tmp_path: Path) -> None:
    """Of finite observations so large that their variance is not: all states look the same then."""
    with Trainer(replace(SAC, network=network, out=tmp_path)) as trainer:
        learner = trainer.learner
        state = {**dict(learner.params.items(True, True)), **learner.policy.own_state()}
        name = next(name for name in state if name[-1] == "running_var" or "var" in name)
        state[name].fill_(math.inf)
        with pytest.raises(FloatingPointError, match=r"^the networks are not finite at step 0"):
            trainer._checkpoint()
    assert not checkpoints(tmp_path)


@pytest.mark.usefixtures("no_evaluation")
def test_a_finished_run_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*COMMAND, "--out", str(tmp_path)]) == 0
    (checkpoint,) = checkpoints(tmp_path)
    content = (checkpoint / STATE).read_bytes()
    assert main([*COMMAND, "--out", str(tmp_path)]) == 2
    assert f"out={str(tmp_path)!r} holds a checkpoint" in capsys.readouterr().err
    assert (checkpoint / STATE).read_bytes() == content


@pytest.mark.usefixtures("no_evaluation")
def test_steps_that_are_done_again_are_logged_once(tmp_path: Path) -> None:
    config = replace(SAC, out=tmp_path, log_freq=10, save_freq=20)
    trainer = Trainer(replace(config, steps=20))
    trainer.run()
    trainer.learner.steps = 30  # it is killed here, ten steps after its checkpoint
    trainer._log({"loss_actor": torch.zeros(1)})
    trainer.close()
    trainer = Trainer(replace(config, resume=True))
    trainer.run()
    trainer.close()
    with (tmp_path / LOG).open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "loss_actor"]
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40]
    assert float(rows[2]["value"]) != 0.0


def test_a_run_that_had_ended_logs_its_evaluation_once(tmp_path: Path) -> None:
    """Resumed again, it returns what it had returned, and its logs stay as they are."""
    config, returns, logs = replace(SAC, out=tmp_path, resume=True), [], []
    for _ in range(2):
        with Trainer(config) as trainer:
            returns.append(trainer.run())
        logs.append((tmp_path / LOG).read_text())
    assert torch.equal(*returns)
    assert logs[0] == logs[1]
    assert logs[0].count("eval_return,") == 1


def test_a_failed_start_lets_go_of_the_folder_and_the_processes(tmp_path: Path) -> None:
    collectors = []

    def broken(config: Config, policy: object) -> object:
        collectors.append(make_collector(config, policy))
        collectors[0].set_seed = lambda *_, **__: 1 / 0
        return collectors[0]

    with pytest.raises(ZeroDivisionError) as error:
        Trainer(replace(SAC, out=tmp_path), broken)
    with locked(tmp_path):  # while the error holds on to the trainer
        assert collectors[0].closed
    assert error


@pytest.mark.usefixtures("no_evaluation")
def test_a_checkpoint_is_checked_before_a_collector_is_made(tmp_path: Path) -> None:
    config = replace(SAC, out=tmp_path, steps=10)
    trainer = Trainer(config)
    trainer.run()
    trainer.close()
    made = []
    with pytest.raises(ValueError, match="gamma"):
        Trainer(replace(config, gamma=0.5, resume=True), lambda *_: made.append(1))
    assert not made


def test_close_closes_the_log(tmp_path: Path) -> None:
    with Trainer(replace(SAC, out=tmp_path)) as trainer:
        assert not trainer.log.closed
    assert trainer.log.closed
