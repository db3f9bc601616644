"""Environment steps per second of SACERA beside SB3's SAC, and what the exact floor costs.

All algorithms train in turn in one process, a block of steps each, on the same threads and with equal
networks; what is reported are ratios of neighbouring blocks, so that a machine whose speed drifts
does not matter. Matrix products of the networks' size take turns with them: at their speed, the
products of an update alone would take ``floor_milliseconds``, which no update can beat.
Run ``python -m benchmarks.throughput --help``.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import circumstances
from era_rl.runs.folder import write_json
from era_rl.sb3 import SACERA, DeviceReplayBuffer

NAMES = ["sac", "exact", "gaussian", "exact-compiled", "gaussian-compiled"]
NAMES += ["exact-device", "exact-compiled-device"]
"""Algorithms that can be measured: SB3's SAC, and SACERA with a floor and options."""


def build(name: str, args: argparse.Namespace) -> OffPolicyAlgorithm:
    """Return the algorithm ``name`` with the networks and settings that all share."""
    common: dict[str, Any] = {
        "policy": "MlpPolicy",
        "env": environments(args.env, args.n_envs),
        "policy_kwargs": {"net_arch": [args.width, args.width]},
        "batch_size": args.batch_size,
        "buffer_size": 100_000,
        "learning_starts": 0,
        "seed": 0,
        "device": args.device,
    }
    if name == "sac":
        return SAC(**common)
    action_dim = common["env"].action_space.shape[0]
    gaussian = {"floor": "gaussian", "target_entropy": 0.25 * action_dim}
    if "device" in name:
        common["replay_buffer_class"] = DeviceReplayBuffer
    return SACERA(
        **common,
        **(gaussian if "gaussian" in name else {}),
        compile="compiled" in name,
    )


def environments(env: str, number: int) -> VecEnv:
    """Return one environment, or several in processes of their own."""
    return make_vec_env(env, number, vec_env_cls=SubprocVecEnv if number > 1 else DummyVecEnv)


def seconds(function: Callable[[], Any], device: str) -> float:
    """Return the wall time of a call, with the device's queue drained."""
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> tuple[dict[str, dict[str, list[float]]], list[float]]:
    """Return the seconds of every block: an algorithm's env steps and updates; a matrix product."""
    models = {name: build(name, args) for name in args.algorithms}
    device = str(next(iter(models.values())).device)
    blocks: dict[str, dict[str, list[float]]] = {
        name: {"env_step": [], "update": []} for name in models
    }
    products = []
    left = torch.randn(args.batch_size, args.width, device=device)
    right = torch.randn(args.width, args.width, device=device)

    def multiply() -> None:
        for _ in range(10 * args.steps):
            torch.mm(left, right)

    for model in models.values():
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(args.warmup)
    for _ in range(args.blocks):
        for name, model in models.items():

            def learn(model: OffPolicyAlgorithm = model) -> None:
                model.learn(args.steps, reset_num_timesteps=False)

            def train(model: OffPolicyAlgorithm = model) -> None:
                model.train(args.steps, args.batch_size)

            blocks[name]["env_step"].append(seconds(learn, device) / args.steps)
            blocks[name]["update"].append(seconds(train, device) / args.steps)
        products.append(seconds(multiply, device) / (10 * args.steps))
    return blocks, products


def floor(
    blocks: dict[str, dict[str, list[float]]], products: list[float], args: argparse.Namespace
) -> dict[str, Any]:
    """Return what one update of SACERA needs at least, and the share of its time that this is.

    Floating-point operations of the matrix products (PyTorch's counter, eager update); bytes that Adam
    (reads parameter, gradient and both moments, writes all but the gradient) and Polyak averaging
    (reads two, writes one) move; the time of the products alone at the speed measured in this run.
    """
    model = build("exact", args)
    model.set_logger(Logger(folder=None, output_formats=[]))
    model.learn(2)
    with FlopCounterMode(display=False) as counter:
        model.train(1, args.batch_size)
    trained = {
        name: sum(p.numel() for p in getattr(model.policy, name).parameters())
        for name in ("actor", "critic")
    }
    speed = 2.0 * args.batch_size * args.width**2 / statistics.median(products)
    least = counter.get_total_flops() / speed
    return {
        "flops": counter.get_total_flops(),
        "optimizer_bytes": 4 * (7 * sum(trained.values()) + 3 * trained["critic"]),
        "matmul_gigaflops_per_second": speed / 1e9,
        "floor_milliseconds": 1e3 * least,
        "share_reached": {
            name: least / statistics.median(kinds["update"]) for name, kinds in blocks.items()
        },
    }


def ratios(blocks: dict[str, dict[str, list[float]]], reference: str) -> list[dict[str, Any]]:
    """Return median and quartiles of the speed of each algorithm over that of ``reference``."""
    rows = []
    for name, kinds in blocks.items():
        for kind, times in kinds.items():
            pairs = zip(blocks[reference][kind], times, strict=True)
            low, median, high = statistics.quantiles([other / own for other, own in pairs], n=4)
            rows.append(
                {
                    "algorithm": name,
                    "per": kind,
                    "milliseconds": 1e3 * statistics.median(times),
                    f"speed_over_{reference}": {"median": median, "quartiles": [low, high]},
                }
            )
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--algorithms", nargs="+", choices=NAMES, default=NAMES[:3])
    parser.add_argument("--reference", choices=NAMES, default="sac")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument(
        "--n-envs", type=int, default=1, help="processes of environments, from 2 on"
    )
    parser.add_argument("--width", type=int, default=256, help="units of each of two hidden layers")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=40)
    parser.add_argument("--steps", type=int, default=25, help="steps a block")
    parser.add_argument("--warmup", type=int, default=300, help="steps before the first block")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args(argv)
    if args.reference not in args.algorithms:
        parser.error(f"argument --reference: {args.reference} must be among --algorithms")

    code = circumstances()
    torch.set_num_threads(args.threads)
    blocks, products = measure(args)
    content = {
        "settings": {key: str(value) for key, value in vars(args).items() if key != "out"},
        **code,
        "update": floor(blocks, products, args),
        "ratios": ratios(blocks, args.reference),
        "seconds": blocks,
        "matmul_seconds": products,
    }
    write_json(args.out, content)


if __name__ == "__main__":
    main()
