"""Environment steps per second of SACERA beside SB3's SAC, and what the exact floor costs.

All algorithms train in turn in one process, a block of steps each, on the same threads and with equal
networks; what is reported are ratios of neighbouring blocks, so that a machine whose speed drifts
does not matter. Run ``python -m benchmarks.throughput --help``.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from era_rl.sb3 import SACERA

PACKAGES = ("torch", "stable-baselines3", "gymnasium", "mujoco", "numpy")


def build(name: str, args: argparse.Namespace) -> OffPolicyAlgorithm:
    """Return the algorithm ``name`` with the networks and settings that all share."""
    common: dict[str, Any] = {
        "policy": "MlpPolicy",
        "env": gymnasium.make(args.env),
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
    return SACERA(**common, **(gaussian if "gaussian" in name else {}), compile="compiled" in name)


def seconds(function: Callable[[], Any], device: str) -> float:
    """Return the wall time of a call, with the device's queue drained."""
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return, for each algorithm, the seconds of every block: env steps and updates alone."""
    models = {name: build(name, args) for name in args.algorithms}
    device = str(next(iter(models.values())).device)
    blocks = {name: {"env_step": [], "update": []} for name in models}
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
    return blocks


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
    names = ["sac", "exact", "gaussian", "exact-compiled", "gaussian-compiled"]
    parser.add_argument("--algorithms", nargs="+", choices=names, default=names[:3])
    parser.add_argument("--reference", choices=names, default="sac")
    parser.add_argument("--env", default="HalfCheetah-v5")
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

    torch.set_num_threads(args.threads)
    blocks = measure(args)
    result = {
        "settings": {key: str(value) for key, value in vars(args).items() if key != "out"},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "machine": {"cpu": platform.machine(), "system": platform.system()},
        "ratios": ratios(blocks, args.reference),
        "seconds": blocks,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    partial = args.out.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(args.out)


if __name__ == "__main__":
    main()
