"""Updates of TorchRL's SAC with an ERA actor and loss beside stock ones, and stacked seeds beside one.

The update is that of a script from TorchRL's parts: the loss of a batch, its gradients, Adam, target
networks, on equal networks and data. Compiled, the loss is under torch.compile, with
``era_rl.core.products`` for ERA. Stacked seeds are those of ``era_rl.torchrl``'s trainer: a step of
several agents, collected and learned from, beside a step of one. All take turns in one process.
"""

import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor, TensorDictModule
from torch import nn
from torchrl.data import Bounded
from torchrl.modules import MLP, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate

from benchmarks.measuring import CPU, Out, Times, Training, interleaved, run
from benchmarks.results import RESULTS
from era_rl.core.products import inductor_options
from era_rl.runs.settings import Setting
from era_rl.torchrl import ERAActor, SACERALoss, raw_dim
from era_rl.torchrl.config import SACConfig
from era_rl.torchrl.trainer import Trainer, agents_first

STOCK, ERA, COMPILED = "stock", "ERA", ", compiled"
KIND = "step"


@dataclass(frozen=True, kw_only=True)
class Speed(Training):
    """What is measured, and with which sizes."""

    observation_dim: Annotated[int, Setting("entries of an observation", low=1)] = 17
    action_dim: Annotated[int, Setting("entries of an action", low=1)] = 6
    blocks: Annotated[int, Setting("blocks of each", low=2)] = 15
    steps: Annotated[int, Setting("updates a block", low=1)] = 10
    seeds: Annotated[int, Setting("stacked agents", low=2)] = 5
    out: Out = RESULTS / "torchrl" / "speed.json"


def losses(settings: Speed) -> dict[str, Any]:
    """Return stock's SAC loss and ERA's, of networks of the same sizes."""
    spec = Bounded(-1.0, 1.0, (settings.action_dim,))
    sizes = {"num_cells": [settings.width] * 2, "activation_class": nn.ReLU}
    observed, acted = settings.observation_dim, settings.action_dim
    normal = nn.Sequential(MLP(observed, 2 * acted, **sizes), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(normal, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        spec=spec,
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0},
    )
    floored = ERAActor(MLP(observed, raw_dim(spec), **sizes), spec)
    critics = [
        ValueOperator(MLP(observed + acted, 1, **sizes), ["observation", "action"])
        for _ in range(2)
    ]
    return {
        STOCK: SACLoss(actor, critics[0], target_entropy=-float(acted)),
        ERA: SACERALoss(floored, critics[1]),
    }


def updates(settings: Speed) -> dict[tuple[str, str], Callable[[], None]]:
    """Return blocks of updates of every loss, eager and compiled."""
    calls: dict[tuple[str, str], Callable[[], None]] = {}
    for way in ("", COMPILED):
        for name, loss in losses(settings).items():
            options = inductor_options() if name == ERA else {}
            function = torch.compile(loss, options=options) if way else loss
            optimizer = torch.optim.Adam(loss.parameters(), 3e-4)
            target = SoftUpdate(loss, tau=0.005)
            block = partial(_update, function, optimizer, target, _batch(settings), settings.steps)
            calls[name + way, KIND] = block
    return calls


def _update(loss: Any, optimizer: Any, target: Any, batch: TensorDict, steps: int) -> None:
    for _ in range(steps):
        found = loss(batch)
        sum(value for name, value in found.items() if name.startswith("loss_")).backward()
        optimizer.step()
        optimizer.zero_grad()
        target.step()


def _batch(settings: Speed) -> TensorDict:
    size = settings.batch_size
    after = {
        "observation": torch.randn(size, settings.observation_dim),
        "reward": torch.randn(size, 1),
        "done": torch.zeros(size, 1, dtype=torch.bool),
        "terminated": torch.zeros(size, 1, dtype=torch.bool),
    }
    now = {"observation": torch.randn(size, settings.observation_dim), "next": after}
    return TensorDict({**now, "action": 2.0 * torch.rand(size, settings.action_dim) - 1.0}, [size])


def stacked(settings: Speed, held: ExitStack) -> dict[tuple[str, str], Callable[[], None]]:
    """Return blocks of steps of one agent and of several, eager and compiled."""
    calls: dict[tuple[str, str], Callable[[], None]] = {}
    for seeds in (1, settings.seeds):
        for compiled in (False, True):
            config = SACConfig(
                env=settings.env,
                seeds=seeds,
                hidden=(settings.width,) * 2,
                batch_size=settings.batch_size,
                learning_starts=20,
                buffer_size=10_000,
                compile=compiled,
                out=Path(held.enter_context(tempfile.TemporaryDirectory())),
                progress=False,
            )
            trainer = held.enter_context(Trainer(config))
            name = f"{seeds} seeds{COMPILED if compiled else ''}"
            calls[name, KIND] = partial(_take_steps, trainer, settings.steps)
    return calls


def _take_steps(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.learner.learn(agents_first(next(trainer.batches), trainer.config.seeds))


def measure(settings: Speed) -> dict[str, Any]:
    """Return the seconds of every block, and their ratios to stock's and to one seed's."""
    torch.set_num_threads(1)
    with ExitStack() as held:
        calls = {**updates(settings), **stacked(settings, held)}
        interleaved(calls, 5, "cpu")  # to warm up
        times = interleaved(calls, settings.blocks, "cpu", settings.steps, cpu=True)
    many = f"{settings.seeds} seeds"
    return {
        "speed_over_stock": {
            name: _ratio(times, STOCK, name) for name in (ERA, STOCK + COMPILED, ERA + COMPILED)
        },
        "time_of_seeds_over_one": {
            way: _ratio(times, many + way, f"1 seeds{way}") for way in ("", COMPILED)
        },
        "seconds": times,
    }


def _ratio(times: Times, over: str, under: str) -> dict[str, list[float]]:
    """Return the quartiles of one's time over the other's, of neighbouring blocks."""
    return {
        kind: statistics.quantiles(
            [a / b for a, b in zip(times[over][kind], times[under][kind], strict=True)], n=4
        )
        for kind in (KIND, KIND + CPU)
    }


if __name__ == "__main__":
    sys.exit(run(Speed, measure))
