"""SACERA and SB3's SAC in steps per second beside SBX's SAC, which has an environment of its own.

    python -m benchmarks.sbx --python PATH/TO/ENVIRONMENT/bin/python --out FILE.json

SBX (JAX) runs in a second process under the interpreter given, which needs ``sbx-rl`` and what the task
runs on; blocks take turns, one process waiting for the other, and both have ``--threads`` cores.
"""

import argparse
import os
import subprocess
from pathlib import Path

import torch
from stable_baselines3.common.logger import Logger

from benchmarks.results import circumstances
from benchmarks.throughput import NAMES, build, ratios, seconds
from era_rl.runs.folder import write_json

WORKER = """
import sys, time
import gymnasium, sbx
env, width, batch, warmup, steps = sys.argv[1], *map(int, sys.argv[2:])
model = sbx.SAC(
    "MlpPolicy", env, policy_kwargs={"net_arch": [width, width]}, batch_size=batch,
    buffer_size=100_000, learning_starts=0, seed=0,
)
model.learn(warmup)
sys.stdout.write("ready " + sbx.__version__ + "\\n")
sys.stdout.flush()
for _ in sys.stdin:
    start = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    sys.stdout.write(str(time.perf_counter() - start) + "\\n")
    sys.stdout.flush()
"""
"""What runs under the other interpreter: a block of steps for every line it reads."""


class SBX:
    """SBX's SAC in its own process, trained block by block."""

    def __init__(self, args: argparse.Namespace) -> None:
        sizes = (args.width, args.batch_size, args.warmup, args.steps)
        self.process = subprocess.Popen(
            [args.python, "-c", WORKER, args.env, *map(str, sizes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer().split()[1]

    def block(self) -> float:
        """Train for a block of steps and return its seconds."""
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
            raise RuntimeError("SBX's process ended; its error stands above")
        return answer


def measure(args: argparse.Namespace) -> tuple[dict[str, dict[str, list[float]]], str]:
    """Return the seconds per step of every block by algorithm, and SBX's version."""
    models = {name: build(name, args) for name in args.algorithms}
    for model in models.values():
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(args.warmup)
    sbx = SBX(args)
    blocks: dict[str, dict[str, list[float]]] = {n: {"env_step": []} for n in [*models, "sbx"]}
    for _ in range(args.blocks):
        blocks["sbx"]["env_step"].append(sbx.block() / args.steps)
        for name, model in models.items():
            taken = seconds(
                lambda model=model: model.learn(args.steps, reset_num_timesteps=False), args.device
            )
            blocks[name]["env_step"].append(taken / args.steps)
    sbx.close()
    return blocks, sbx.version


def main(argv: list[str] | None = None) -> None:
    """Measure and write one JSON file, of the form of benchmarks.throughput's."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sbx", description=__doc__)
    parser.add_argument("--python", required=True, help="interpreter of an environment with SBX")
    parser.add_argument("--algorithms", nargs="+", choices=NAMES, default=["sac", "exact"])
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--steps", type=int, default=25, help="steps a block")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    parser.set_defaults(n_envs=1)
    args = parser.parse_args(argv)
    if "sac" not in args.algorithms:
        parser.error("argument --algorithms: sac must be among them, as the reference")
    code = circumstances()
    # XLA starts a thread a core: the same cores for both, not as many threads
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    torch.set_num_threads(args.threads)
    blocks, version = measure(args)
    settings = {
        key: str(value) for key, value in vars(args).items() if key not in ("out", "python")
    }
    content = {"settings": {**settings, "reference": "sac"}, **code, "sbx": version}
    write_json(args.out, {**content, "ratios": ratios(blocks, "sac"), "seconds": blocks})


if __name__ == "__main__":
    main()
