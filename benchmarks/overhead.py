"""What the entropy floor costs: heads alone, and training steps with and without it.

    python -m benchmarks.overhead --out benchmarks/results/overhead/cpu.json

Heads run forward and backward on raw outputs, beside SB3's own (tanh and a clamp of log_std). Training
steps are those of algorithms whose loop is the host's, so that the policy alone differs: PPOERA beside
PPO, rollout and update, TQCERA beside TQC, updates. All take turns; ratios are of neighbouring blocks.
SACERA, whose update is its own, is measured beside SAC by ``benchmarks.throughput``.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from benchmarks.results import circumstances
from benchmarks.throughput import ratios, seconds
from era_rl.core import TruncatedGaussianHead
from era_rl.runs.folder import write_json
from era_rl.sb3 import PPOERA, TQCERA
from era_rl.sb3.update import CompilingMixin

PLAIN = "plain"
EXPERIENCE = 512
"""Steps taken before updates are timed."""
HOSTS: dict[str, tuple[Any, Any]] = {"PPO": (PPO, PPOERA), "TQC": (TQC, TQCERA)}


def plain_head(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh(loc) and the clamped log_std, as SB3's SAC."""
    loc, log_std = raw.chunk(2, dim=-1)
    return loc.tanh(), log_std.clamp(-20.0, 2.0)


def head_steps(args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return a forward and backward pass of every head, by name."""
    dim = args.action_dim
    exact = TruncatedGaussianHead(dim).to(args.device).params
    eq11 = TruncatedGaussianHead(dim, floor="gaussian").to(args.device).params
    heads = {PLAIN: plain_head, "exact": exact, "gaussian": eq11}
    if args.compile:
        heads["exact, compiled"] = torch.compile(exact, fullgraph=True)

    raw = torch.randn(args.batch_size, 2 * dim, device=args.device, requires_grad=True)

    def step(head: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        raw.grad = None
        loc, log_std = head(raw)
        (loc.sum() + log_std.sum()).backward()

    return {name: lambda head=head: step(head) for name, head in heads.items()}


def training_steps(host: str, args: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Return a round of training of a host algorithm, without and with the floor."""
    plain, era = HOSTS[host]
    algorithms = {PLAIN: plain, "ERA": era}
    if args.compile and issubclass(era, CompilingMixin):
        algorithms["ERA, compiled"] = partial(era, compile=True)
    steps = {}
    for name, algorithm in algorithms.items():
        model = algorithm(
            "MlpPolicy",
            gymnasium.make(args.env),
            policy_kwargs={"net_arch": [args.width, args.width]},
            device=args.device,
            seed=0,
            **({"n_steps": EXPERIENCE} if host == "PPO" else {"learning_starts": EXPERIENCE}),
        )
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(EXPERIENCE)
        steps[name] = (
            partial(model.learn, EXPERIENCE, reset_num_timesteps=False)
            if isinstance(model, OnPolicyAlgorithm)
            else partial(model.train, 10, 256)
        )
    return steps


def interleaved(
    steps: dict[str, Callable[[], None]], blocks: int, repeats: int, device: str
) -> dict[str, dict[str, list[float]]]:
    """Return the seconds of one step in every block, by name, after one block to warm up."""
    times: dict[str, dict[str, list[float]]] = {name: {"step": []} for name in steps}
    for block in range(blocks + 1):
        for name, step in steps.items():

            def repeated(step: Callable[[], None] = step) -> None:
                for _ in range(repeats):
                    step()

            taken = seconds(repeated, device) / repeats
            if block > 0:
                times[name]["step"].append(taken)
    return times


def main(argv: list[str] | None = None) -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--action-dim", type=int, default=6, help="of the heads alone")
    parser.add_argument("--batch-size", type=int, default=256, help="of the heads alone")
    parser.add_argument("--width", type=int, default=256, help="units of two hidden layers")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=50, help="passes of a head in a block")
    parser.add_argument(
        "--compile", action="store_true", help="exact head and PPOERA compiled, too"
    )
    parser.add_argument("--hosts", nargs="*", choices=list(HOSTS), default=list(HOSTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args(argv)
    code = circumstances()
    torch.set_num_threads(1)
    times = {"head": interleaved(head_steps(args), args.blocks, args.repeats, args.device)}
    for host in args.hosts:
        times[host] = interleaved(training_steps(host, args), args.blocks, 1, args.device)
    write_json(
        args.out,
        {
            "settings": {key: str(value) for key, value in vars(args).items() if key != "out"},
            **code,
            "ratios": {name: ratios(found, PLAIN) for name, found in times.items()},
            "seconds": times,
        },
    )


if __name__ == "__main__":
    main()
