"""What the entropy floor costs: heads alone, and training steps with and without it.

Heads run forward and backward on raw outputs, beside SB3's own (tanh and a clamp of log_std). Training
steps are those of algorithms whose loop is the host's, so that the policy alone differs: PPOERA beside
PPO, rollout and update, TQCERA beside TQC, updates. All take turns; ratios are of neighbouring blocks.
SACERA, whose update is its own, is measured beside SAC by ``benchmarks.throughput``.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import gymnasium
import torch
from sb3_contrib import TQC
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from benchmarks.measuring import Out, Training, interleaved, ratios, run
from benchmarks.results import RESULTS
from era_rl.core import TruncatedGaussianHead
from era_rl.runs.settings import Setting
from era_rl.sb3 import PPOERA, TQCERA

PLAIN, COMPILED = "plain", "exact, compiled"
LEAST = -1.5
"""Nats that the head with a floor for each dimension holds."""
EXPERIENCE = 512
"""Steps taken before updates are timed."""
HOSTS: dict[str, tuple[Any, Any]] = {"PPO": (PPO, PPOERA), "TQC": (TQC, TQCERA)}


@dataclass(frozen=True, kw_only=True)
class Overhead(Training):
    """What is measured, and with which sizes; ``batch_size`` is that of the heads alone too."""

    action_dim: Annotated[int, Setting("action dimensions of the heads alone", low=1)] = 6
    blocks: Annotated[int, Setting("blocks of each", low=2)] = 20
    repeats: Annotated[int, Setting("passes of a head in a block", low=1)] = 50
    compile: Annotated[bool, Setting("exact head and algorithms compiled, too")] = False
    hosts: Annotated[tuple[Literal["PPO", "TQC"], ...], Setting("algorithms")] = ("PPO", "TQC")
    training: Annotated[bool, Setting("training steps too, not heads alone")] = True
    device: Annotated[str, Setting("device of torch")] = "cpu"
    out: Out = RESULTS / "overhead" / "cpu.json"


def plain_head(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh(loc) and the clamped log_std, as SB3's SAC."""
    loc, log_std = raw.chunk(2, dim=-1)
    return loc.tanh(), log_std.clamp(-20.0, 2.0)


def head_steps(settings: Overhead) -> dict[tuple[str, str], Callable[[], None]]:
    """Return a block of forward and backward passes of every head."""
    dim, device = settings.action_dim, settings.device
    exact = TruncatedGaussianHead(dim).to(device).params
    eq11 = TruncatedGaussianHead(dim, floor="gaussian").to(device).params
    heads = {PLAIN: plain_head, "exact": exact, "gaussian": eq11}
    if settings.compile:
        heads[COMPILED] = torch.compile(exact, fullgraph=True)
        each = TruncatedGaussianHead(dim, min_entropy_per_dim=LEAST).to(device).params
        heads["exact, each dimension, compiled"] = torch.compile(each, fullgraph=True)
    raw = torch.randn(settings.batch_size, 2 * dim, device=device, requires_grad=True)

    def passes(head: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        for _ in range(settings.repeats):
            raw.grad = None
            loc, log_std = head(raw)
            (loc.sum() + log_std.sum()).backward()

    return {(name, "step"): partial(passes, head) for name, head in heads.items()}


def training_steps(host: str, settings: Overhead) -> dict[tuple[str, str], Callable[[], Any]]:
    """Return a round of training of a host algorithm, without and with the floor."""
    plain, era = HOSTS[host]
    algorithms = {PLAIN: plain, "ERA": era}
    if settings.compile:
        algorithms["ERA, compiled"] = partial(era, compile=True)
    steps: dict[tuple[str, str], Callable[[], Any]] = {}
    for name, algorithm in algorithms.items():
        model = algorithm(
            "MlpPolicy",
            gymnasium.make(settings.env),
            policy_kwargs={"net_arch": [settings.width, settings.width]},
            device=settings.device,
            seed=0,
            **({"n_steps": EXPERIENCE} if host == "PPO" else {"learning_starts": EXPERIENCE}),
        )
        model.set_logger(Logger(folder=None, output_formats=[]))
        model.learn(EXPERIENCE)
        steps[name, "step"] = (
            partial(model.learn, EXPERIENCE, reset_num_timesteps=False)
            if isinstance(model, OnPolicyAlgorithm)
            else partial(model.train, 10, settings.batch_size)
        )
    return steps


def measure(settings: Overhead) -> dict[str, Any]:
    """Return the seconds of a step of every head and algorithm, and their ratios to the plain ones."""
    torch.set_num_threads(1)
    groups: dict[str, tuple[dict[tuple[str, str], Callable[[], Any]], int]] = {
        "head": (head_steps(settings), settings.repeats)
    }
    hosts = settings.hosts if settings.training else ()
    groups |= {host: (training_steps(host, settings), 1) for host in hosts}
    times = {}
    for name, (calls, steps) in groups.items():
        interleaved(calls, 1, settings.device)  # to warm up
        times[name] = interleaved(calls, settings.blocks, settings.device, steps)
    compiled = {name: found for name, found in times["head"].items() if name.endswith("compiled")}
    return {
        "ratios": {name: ratios(found, PLAIN) for name, found in times.items()},
        "ratios_of_compiled_heads": ratios(compiled, COMPILED) if compiled else [],
        "seconds": times,
    }


if __name__ == "__main__":
    sys.exit(run(Overhead, measure))
