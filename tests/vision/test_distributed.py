"""The same global batches on one process and on two give the same model."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from era_vision import Trainer, checkpoint
from era_vision.cli import main
from era_vision.config import Config

pytestmark = pytest.mark.usefixtures("_forkserver")
SETTINGS = {"norm": "group", "shuffle": False, "batch_size": 128, "data": "fake", "device": "cpu"}
SETTINGS |= {
    "seed": 1
}  # with 0 a unit is so near 0 that on some processors rounding decides its sign


def worker(rank: int, config: Config) -> None:
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in ranks.items()})
    # accelerate takes the group there is; a file, unlike a port, nobody else can take meanwhile
    torch.distributed.init_process_group(
        "gloo" if config.device == "cpu" else "nccl",
        init_method=f"file://{config.out}.store",
        rank=rank,
        world_size=2,
    )
    trainer = Trainer(config)
    assert trainer.processes.num_processes == 2
    trainer.fit()
    trainer.processes.destroy_process_group()


def run_on_two(config: Config) -> None:
    """Two fresh processes: forks would have the threads' locks, and accelerate's state, of this one."""
    context = multiprocessing.start_processes(
        worker, (config,), nprocs=2, join=False, start_method="forkserver"
    )
    while not context.join():
        pass


def assert_same_run(first: Path, second: Path) -> None:
    one, two = checkpoint.load(first / "last.pt"), checkpoint.load(second / "last.pt")
    # sums in another order: float32 rounding over 8 steps
    torch.testing.assert_close(one["weights"], two["weights"], atol=1e-6, rtol=1e-5)
    for row, other in zip(one["history"], two["history"], strict=True):
        speedless = {k: v for k, v in row.items() if k != "images_per_second"}
        assert speedless == pytest.approx({k: other[k] for k in speedless}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", ["lambert", "temperature"])
def test_two_processes_equal_one(config, tmp_path, method):
    single = replace(config, **SETTINGS, method=method)
    double = replace(single, out=str(tmp_path / "double"))
    run_on_two(double)
    Trainer(single).fit()
    assert_same_run(tmp_path / "out", tmp_path / "double")


def test_two_processes_evaluate_the_weights_they_save(config, tmp_path, capsys):
    """Batch norm's statistics differ between processes; those of the first are saved."""
    double = replace(config, **SETTINGS | {"norm": "batch"}, epochs=1)
    run_on_two(double)
    assert main(["eval", str(tmp_path / "out" / "last.pt"), "--device", "cpu"]) == 0
    (row,) = checkpoint.load(tmp_path / "out" / "last.pt")["history"]
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated == pytest.approx({name: row[name] for name in evaluated}, abs=1e-5)


@pytest.mark.slow
def test_torchrun_equals_one_process(config, tmp_path):
    single = replace(config, **SETTINGS)
    Trainer(single).fit()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "era_vision.cli", "train", "--data", "fake"]
    command += ["--image-size", "8", "--batch-size", "128", "--epochs", "2", "--lr", "0.01"]
    command += ["--device", "cpu", "--no-progress", "--no-shuffle", "--norm", "group"]
    command += ["--seed", "1", "--out", str(tmp_path / "double")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert_same_run(tmp_path / "out", tmp_path / "double")


@pytest.mark.gpu
def test_sync_batch_norm_equals_one_process(config, tmp_path):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    settings = {**SETTINGS, "device": "auto"}
    single = replace(config, **settings | {"norm": "batch"})
    double = replace(config, **settings | {"norm": "sync"}, out=str(tmp_path / "double"))
    run_on_two(double)
    Trainer(single).fit()
    assert_same_run(tmp_path / "out", tmp_path / "double")
