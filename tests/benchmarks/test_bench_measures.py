"""What is measured is what it is called: entropies, floors, margins, rewards of the synthetic task."""

import copy
import json
import math
import os
import shutil
import statistics
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3 import PPO, SAC
from torch import Tensor

from benchmarks import family, floor_audit, memory, overhead, reaching, suite, tables, throughput
from benchmarks.measuring import run
from benchmarks.trace import COLUMNS, PolicyTrace, actor_parameters, entropies_and_log_std
from era_rl.sb3 import PPOERA, SACERA
from era_rl.sb3.callbacks import read_table

SMALL = {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
ALGORITHMS = {
    "SAC": (SAC, {"learning_starts": 30, "batch_size": 8, **SMALL}),
    "SACERA": (SACERA, {"learning_starts": 30, "batch_size": 8, **SMALL}),
    "SACERA slack": (SACERA, {"slack": 0.3, "learning_starts": 30, "batch_size": 8, **SMALL}),
    "PPO": (PPO, {"n_steps": 32, "batch_size": 16, "n_epochs": 1, **SMALL}),
    "PPOERA": (PPOERA, {"n_steps": 32, "batch_size": 16, "n_epochs": 1, **SMALL}),
}


def build(name: str) -> Any:
    algorithm, settings = ALGORITHMS[name]
    env = gymnasium.make("benchmarks/reach-4-v0")
    return algorithm("MlpPolicy", env, **copy.deepcopy(settings))  # SAC adds to policy_kwargs


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_trace_has_entropies_floors_and_times(name: str, tmp_path: Path) -> None:
    model = build(name)
    model.learn(64, callback=PolicyTrace(20, tmp_path / "trace.csv"))
    table = read_table(tmp_path / "trace.csv")
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    assert tuple(table)[: len(COLUMNS)] == COLUMNS
    assert [row["timesteps"] for row in rows] == [20, 40, 60, 64]
    for row in rows:
        assert row["entropy_min"] <= row["entropy_mean"] <= row["entropy_max"]
        assert row["log_std_min"] <= row["log_std_mean"]
        assert sum(row[f"entropy_{i}"] for i in range(4)) == pytest.approx(row["entropy_mean"])
        for i in range(4):
            assert row[f"lowest_{i}"] <= row[f"entropy_{i}"]
            assert row[f"std_{i}"] >= math.exp(row["log_std_min"])
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(rows))
    floors = [row["floor"] for row in rows]
    if "ERA" in name:
        assert floors == [model.policy.target_entropy] * 4
        assert all(row["margin_min"] > -1e-4 for row in rows)
        for row in rows:
            assert row["margin_min"] == pytest.approx(row["entropy_min"] - row["floor"], rel=1e-12)
            assert row["entropy_min"] < row["entropy_max"] or name != "SACERA slack"
    else:
        assert np.isnan(floors).all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_entropies_are_those_of_sampled_densities(name: str) -> None:
    model = build(name)
    obs = torch.randn(1, 8).expand(40_000, 8)
    with torch.no_grad():
        entropy = entropies_and_log_std(model, obs)[0][0].sum().item()
        if name.startswith("SAC"):
            log_prob = model.actor.action_log_prob(obs)[1]
        else:
            log_prob = model.policy.get_distribution(obs).log_prob(model.policy(obs)[0])
    standard_error = log_prob.std().item() / 200.0
    assert entropy == pytest.approx(-log_prob.mean().item(), abs=5 * standard_error)


def test_a_torn_row_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("timesteps,x\r\n10,1\r\n20,2\r\n30,3\r\n40,0.")  # killed while writing
    table = {name: column.tolist() for name, column in read_table(path).items()}
    assert table == {"timesteps": [10.0, 20.0, 30.0], "x": [1.0, 2.0, 3.0]}
    assert read_table(tmp_path / "absent.csv") == {}


@pytest.mark.parametrize("dim", reaching.DIMENSIONS)
def test_reaching_has_the_documented_reward(dim: int) -> None:
    env = gymnasium.make(f"benchmarks/reach-{dim}-v0")
    obs, _ = env.reset(seed=0)
    start, offset = obs[:dim], obs[dim:]
    action = np.clip(offset / reaching.SPEED, -1.0, 1.0)
    obs, reward, *_ = env.step(action)
    assert obs[:dim] == pytest.approx(start + reaching.SPEED * action, abs=1e-6)
    distance = np.mean(obs[dim:] ** 2)
    assert reward == pytest.approx(math.exp(-distance / (2 * reaching.WIDTH**2)), rel=1e-5)
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("task", suite.load("dimension-scaling").content["tasks"])
def test_straight_lines_score_one_on_reaching(task: str) -> None:
    loaded = suite.load("dimension-scaling")
    env = gymnasium.make(loaded.content["tasks"][task]["env"])
    dim = loaded.content["tasks"][task]["dimension"]
    returns = np.zeros(50)
    for episode in range(50):
        obs, _ = env.reset(seed=episode)
        for _ in range(reaching.STEPS):
            action = np.clip(obs[dim:] / reaching.SPEED, -1.0, 1.0)
            obs, reward, *_ = env.step(action)
            returns[episode] += float(reward)
    standard_error = returns.std() / 50**0.5
    assert returns.mean() == pytest.approx(loaded.score_range(task)[1], abs=4 * standard_error)


def test_the_audit_tells_a_floor_that_holds_from_one_that_does_not() -> None:
    cases = {case.head: case for case in floor_audit.continuous_cases(2)}
    rows = {head: floor_audit.audit(case, batches=1) for head, case in cases.items()}
    for head in ("exact floor", "exact floor, slack"):
        assert -1e-5 < rows[head]["ascent"] <= rows[head]["random"] < 0.1
    # the least a truncation to half of its normal takes away is ln 2 a dimension
    for head in ("Eq. 11, truncated", "Eq. 11, tanh"):
        assert rows[head]["ascent"] < -math.log(2.0)


def test_the_audit_takes_the_worst_of_trained_runs(tmp_path: Path) -> None:
    for index, (settings, margin) in enumerate(
        [({}, [0.2, 0.1]), ({}, [0.3]), ({"floor": "gaussian"}, [-1.0])]
    ):
        config = {"algo": "sac_era", "settings": settings}
        trace = {"margin_min": margin, "floor": [-3.0]}
        run = {"config": config, "action_dim": 6, "trace": trace}
        path = tmp_path / "suite" / f"{index}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(run))
    (tmp_path / "suite" / "other.json").write_text("{}")
    assert floor_audit.visited(tmp_path) == {"exact, 6, -3": 0.1, "gaussian, 6, -3": -1.0}


def test_the_audit_passes_over_no_entropy_that_is_not_a_number() -> None:
    def entropy(raw: Tensor) -> Tensor:
        return raw.sum(-1).masked_fill(raw[:, 0] > 100.0, math.nan)

    case = floor_audit.Case("broken", 0.0, 1, 2, entropy)
    with pytest.raises(FloatingPointError, match="not finite"):
        floor_audit.audit(case, batches=1)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_norm_is_that_of_what_actions_depend_on(name: str) -> None:
    model = build(name)
    obs = torch.randn(8, 8)
    entropy, log_std = entropies_and_log_std(model, obs)
    mode = model.policy._predict(obs, deterministic=True)
    (entropy.sum() + log_std.sum() + mode.sum()).backward()
    moved = {id(p) for p in model.policy.parameters() if p.grad is not None}
    assert {id(p) for p in actor_parameters(model)} == moved


def test_overhead_writes_ratios_of_heads_and_training_steps(tmp_path: Path) -> None:
    out = tmp_path / "overhead.json"
    arguments = [
        "--blocks",
        "2",
        "--repeats",
        "2",
        "--batch-size",
        "4",
        "--hosts",
        "TQC",
        "--width",
        "8",
    ]
    assert (
        run(
            overhead.Overhead,
            overhead.measure,
            [*arguments, "--env", "benchmarks/reach-4-v0", "--out", str(out)],
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert set(result["ratios"]) == {"head", "TQC"}
    assert result["ratios_of_compiled_heads"] == []
    assert [row["algorithm"] for row in result["ratios"]["TQC"]] == ["plain", "ERA"]
    assert all(row["speed_over_plain"]["median"] > 0 for row in result["ratios"]["head"])


FAKE_SBX = """
import time
__version__ = "0.0"
class SAC:
    def __init__(self, *args, **kwargs):
        assert kwargs["policy_kwargs"] == {"net_arch": [8, 8]}
    def learn(self, total_timesteps, reset_num_timesteps=True):
        time.sleep(0.001 * total_timesteps)
PPO = SAC
"""


def interpreter(folder: Path) -> Path:
    """Return an interpreter that has a package by the name of SBX."""
    (folder / "sbx.py").write_text(FAKE_SBX)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def test_sbx_is_measured_in_the_interpreter_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda *arguments: pinned.append(arguments))
    python = interpreter(tmp_path)
    arguments = ["--env", "Pendulum-v1", "--width", "8", "--batch-size", "8", "--blocks", "3"]
    out = tmp_path / "out.json"
    arguments += ["--steps", "2", "--warmup", "5", "--algorithms", "sac", "exact"]
    assert (
        run(
            throughput.Throughput,
            throughput.measure,
            [*arguments, "--sbx", str(python), "--out", str(out)],
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert pinned == [(0, [min(os.sched_getaffinity(0))])]
    assert [row["algorithm"] for row in result["ratios"]] == ["sac"] * 2 + ["exact"] * 2 + ["sbx"]
    assert all(len(kinds["env_step"]) == 3 for kinds in result["seconds"].values())
    assert result["sbx"] == "0.0"
    assert min(result["seconds"]["sbx"]["env_step"]) >= 0.001
    assert len(tables.throughput(out).rows) == 3
    assert set(result["update"]["share_reached"]) == {"sac", "exact"}


def test_every_class_is_measured_beside_its_host_and_sbx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The speed of a block is the other's time over its own, by wall and by CPU time."""
    monkeypatch.setattr(os, "sched_setaffinity", lambda *arguments: None)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: function)
    python, out = interpreter(tmp_path), tmp_path / "out.json"
    arguments = ["--env", "Pendulum-v1", "--width", "8", "--batch-size", "8", "--blocks", "2"]
    arguments += ["--steps", "6", "--rollout", "64", "--algorithms", "SACERA", "XQCERA", "PPOERA"]
    assert (
        run(family.Family, family.measure, [*arguments, "--sbx", str(python), "--out", str(out)])
        == 0
    )
    result = json.loads(out.read_text())
    found = {(row["algorithm"], row["over"], row["per"]): row["speed"] for row in result["ratios"]}
    seconds = result["seconds"]
    assert set(seconds) == {
        *("SAC", "SACERA", "SACERA, compiled", "XQCERA", "XQCERA, compiled", "SBX SAC"),
        *("PPO", "PPOERA", "PPOERA, compiled", "SBX PPO"),
    }
    for name, other, kind in (
        ("SACERA, compiled", "SAC", "update, CPU time"),
        ("XQCERA", "SAC", "env_step"),
        ("PPOERA", "SBX PPO", "env_step, CPU time"),
    ):
        pairs = zip(seconds[other][kind], seconds[name][kind], strict=True)
        expected = statistics.median(theirs / own for theirs, own in pairs)
        assert found[name, other, kind]["median"] == pytest.approx(expected)
    assert (
        min(seconds["SBX SAC"]["env_step"]) >= 0.001 > max(seconds["SBX SAC"]["env_step, CPU time"])
    )
    assert set(result["update"]) == {"SACERA", "XQCERA"}
    # XQC's four layers of 256, over SACERA's two of 8, and an actor that takes every third step
    assert result["update"]["XQCERA"]["flops"] > 100 * result["update"]["SACERA"]["flops"]
    assert len(tables.family(out).rows) == 3


def test_classes_of_discrete_actions_are_measured_too(tmp_path: Path) -> None:
    """Beside sb3-contrib's and DQN; what cannot be compiled is eager alone."""
    out = tmp_path / "out.json"
    arguments = ["--env", "CartPole-v1", "--width", "8", "--batch-size", "8", "--blocks", "2"]
    arguments += ["--steps", "4", "--rollout", "64", "--out", str(out)]
    arguments += ["--algorithms", "MaskablePPOERA"]
    assert run(family.Family, family.measure, arguments) == 0
    result = json.loads(out.read_text())
    assert set(result["seconds"]) == {"MaskablePPO", "MaskablePPOERA"}
    ((row,),) = [tables.family(out).rows]
    assert row[0:2] == ["MaskablePPOERA", "MaskablePPO"]
    assert row[3:6] == ["-", "-", "-"]


def test_a_buffer_is_filled_in_memory() -> None:
    for way in memory.WAYS.values():
        model = way[0]("MlpPolicy", "Pendulum-v1", buffer_size=50, device="cpu", **way[1])
        memory.fill(model.replay_buffer)
        assert model.replay_buffer.size() == 50
        assert memory.written(model.replay_buffer) >= 50 * 4 * (2 * 3 + 1 + 2)
