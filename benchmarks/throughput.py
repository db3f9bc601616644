"""Environment steps per second of SACERA beside SB3's SAC, and what the exact floor costs.

All algorithms train in turn in one process, a block of steps each, on the same threads and with equal
networks; ratios are of neighbouring blocks. Matrix products of the networks' size take turns with them:
at their speed, the products of an update alone would take ``floor_milliseconds``, which no update can
beat. SBX's SAC (JAX), if asked for, runs in a second process under the interpreter given, which needs
``sbx-rl`` and what the task runs on, on as many cores as there are threads.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv
from torch._inductor import config as inductor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Out, Times, Training, interleaved, ratios, run
from benchmarks.results import RESULTS
from era_rl.core.products import is_faster, product
from era_rl.runs.settings import Setting, SettingsError
from era_rl.sb3 import SACERA, DeviceReplayBuffer

Name = Literal[
    "sac",
    "exact",
    "gaussian",
    "exact-compiled",
    "gaussian-compiled",
    "exact-device",
    "exact-compiled-device",
    "exact-autotuned-compiled-device",
]
"""Algorithms that can be measured: SB3's SAC, and SACERA with a floor and options.

On CUDA a compiled update is captured as a graph, as torch.compile's mode "reduce-overhead" does; an
autotuned one has its products chosen by measurement besides, as in the mode "max-autotune".
"""
PRODUCTS = "products"


@dataclass(frozen=True, kw_only=True)
class Threaded(Training):
    """Settings of measurements by threads."""

    threads: Annotated[int, Setting("threads of torch", low=1)] = 1
    device: Annotated[str, Setting("device of torch")] = "cpu"

    def take_cores(self) -> None:
        """Have torch take the threads."""
        torch.set_num_threads(self.threads)


@dataclass(frozen=True, kw_only=True)
class SideBySide(Threaded):
    """Settings of measurements beside SBX."""

    sbx: Annotated[Path | None, Setting("interpreter of an environment with SBX")] = None

    def take_cores(self) -> None:
        """Have torch take the threads, on as many cores beside SBX: XLA starts a thread a core."""
        if self.sbx is not None:
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: self.threads])
        super().take_cores()


@dataclass(frozen=True, kw_only=True)
class Throughput(SideBySide):
    """What is measured, and with which sizes."""

    algorithms: Annotated[tuple[Name, ...], Setting("algorithms")] = ("sac", "exact", "gaussian")
    reference: Annotated[Name, Setting("whose speed is 1")] = "sac"
    n_envs: Annotated[int, Setting("processes of environments, from 2 on", low=1)] = 1
    blocks: Annotated[int, Setting("blocks of each algorithm", low=2)] = 40
    steps: Annotated[int, Setting("steps a block", low=1)] = 25
    warmup: Annotated[int, Setting("steps before the first block", low=1)] = 300
    out: Out = RESULTS / "throughput" / "cpu.json"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference not in self.algorithms:
            raise SettingsError(f"reference={self.reference!r} must be among algorithms")


def build(name: str, settings: Throughput) -> OffPolicyAlgorithm:
    """Return the algorithm ``name`` with the networks and settings that all share, silent."""
    vec_env = SubprocVecEnv if settings.n_envs > 1 else DummyVecEnv
    common: dict[str, Any] = {
        "policy": "MlpPolicy",
        "env": make_vec_env(settings.env, settings.n_envs, vec_env_cls=vec_env),
        **_shared(settings),
        "seed": 0,
        "device": settings.device,
    }
    if name != "sac":
        common["compile"] = "compiled" in name
    if "gaussian" in name:
        common["floor"] = "gaussian"
        common["target_entropy"] = 0.25 * common["env"].action_space.shape[0]
    if "device" in name:
        common["replay_buffer_class"] = DeviceReplayBuffer
    model = SAC(**common) if name == "sac" else SACERA(**common)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def _shared(settings: Throughput) -> dict[str, Any]:
    return {
        "policy_kwargs": {"net_arch": [settings.width, settings.width]},
        "batch_size": settings.batch_size,
        "buffer_size": 100_000,
        "learning_starts": 0,
    }


def measure(settings: Throughput) -> dict[str, Any]:
    """Return the seconds of every block, their ratios, and what an update needs at least."""
    settings.take_cores()
    calls: dict[tuple[str, str], Callable[[], Any]] = {}
    for name in settings.algorithms:
        model = build(name, settings)
        with inductor.patch(max_autotune="autotuned" in name):
            model.learn(settings.warmup)
        learn = partial(model.learn, settings.steps, reset_num_timesteps=False)
        calls[name, "env_step"] = learn
        calls[name, "update"] = partial(model.train, settings.steps, settings.batch_size)
    sbx = None
    if settings.sbx is not None:
        numbers = settings.warmup, settings.steps
        sbx = SBX(settings.sbx, "SAC", settings.env, _shared(settings), *numbers)
        calls["sbx", "env_step"] = sbx.block
    calls[PRODUCTS, "update"] = partial(multiply, settings, PRODUCTS_A_STEP * settings.steps)
    times = interleaved(calls, settings.blocks, settings.device, settings.steps)
    products = [taken / PRODUCTS_A_STEP for taken in times.pop(PRODUCTS)["update"]]
    if sbx is not None:
        sbx.close()
    return {
        **({} if sbx is None else {"sbx": sbx.version}),
        "update": floor(times, products, settings),
        "ratios": ratios(times, settings.reference),
        "seconds": times,
        "matmul_seconds": products,
    }


PRODUCTS_A_STEP = 10


def multiply(settings: Any, products: int) -> None:
    """Do so many matrix products of the networks' size, as compiled updates do them."""
    function = product if settings.device == "cpu" and is_faster() else torch.mm
    left = torch.ones(settings.batch_size, settings.width, device=settings.device)
    right = torch.ones(settings.width, settings.width, device=settings.device)
    for _ in range(products):
        function(left, right)


def flops(model: Any, batch_size: int, updates: int = 1) -> float:
    """Return the floating-point operations of an update's matrix products, a mean over some."""
    with FlopCounterMode(display=False) as counter:
        model.train(updates, batch_size)
    return counter.get_total_flops() / updates


def floor(times: Times, products: list[float], settings: Throughput) -> dict[str, Any]:
    """Return what one update of SACERA needs at least, and the share of its time that this is.

    Floating-point operations of the matrix products (PyTorch's counter, eager update); bytes that Adam
    (reads parameter, gradient and both moments, writes all but the gradient) and Polyak averaging
    (reads two, writes one) move; the time of the products alone at the speed measured in this run.
    """
    model = build("exact", settings)
    model.learn(2)
    needed = flops(model, settings.batch_size)
    trained = {
        name: sum(p.numel() for p in getattr(model.policy, name).parameters())
        for name in ("actor", "critic")
    }
    speed = 2.0 * settings.batch_size * settings.width**2 / statistics.median(products)
    least = needed / speed
    return {
        "flops": needed,
        "optimizer_bytes": 4 * (7 * sum(trained.values()) + 3 * trained["critic"]),
        "matmul_gigaflops_per_second": speed / 1e9,
        "floor_milliseconds": 1e3 * least,
        "share_reached": {
            name: least / statistics.median(kinds["update"])
            for name, kinds in times.items()
            if "update" in kinds
        },
    }


WORKER = """
import json, sys, time
import gymnasium, sbx
name, env, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
warmup, steps = map(int, sys.argv[4:])
model = getattr(sbx, name)("MlpPolicy", env, seed=0, **arguments)
model.learn(warmup)
sys.stdout.write(sbx.__version__ + "\\n")
sys.stdout.flush()
for _ in sys.stdin:
    before = time.process_time()
    model.learn(steps, reset_num_timesteps=False)
    sys.stdout.write(str(time.process_time() - before) + "\\n")
    sys.stdout.flush()
"""
"""What runs under the other interpreter: a block of steps for every line it reads."""


class SBX:
    """An algorithm of SBX's in its own process, trained block by block.

    Args:
        python: The interpreter that has SBX.
        name: The algorithm.
        env: The environment's id.
        arguments: Of the algorithm.
        warmup: Steps at first.
        steps: Steps of a block.
    """

    def __init__(
        self, python: Path, name: str, env: str, arguments: Any, warmup: int, steps: int
    ) -> None:
        self.process = subprocess.Popen(
            [python, "-c", WORKER, name, env, json.dumps(arguments), str(warmup), str(steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer()

    def block(self) -> float:
        """Train for a block of steps, and return its CPU seconds."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise SettingsError("SBX's process ended; its error stands above")
        return answer.strip()


if __name__ == "__main__":
    sys.exit(run(Throughput, measure))
