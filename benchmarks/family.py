"""Environment steps per second of every class beside its host and SBX's, with the time of its products.

All train in turn in one process, a block of steps each, on the same threads; ratios are of
neighbouring blocks. Networks are those of ``width``, but for those that a class has of its own (XQCERA,
SimBa), which have no host and stand beside SAC; so does DiscreteSACERA beside DQN. The matrix products
that an update cannot do without, at the speed that products of the networks' size have in this run, are
a bound on its time. SBX's algorithms, if asked for, run in processes of their own under the interpreter
given, on as many cores as there are threads.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Annotated, Any, Literal

import gymnasium
import numpy as np
from sb3_contrib import TQC, CrossQ, MaskablePPO, RecurrentPPO
from sb3_contrib.common.wrappers import ActionMasker
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from benchmarks.measuring import CPU, Out, Times, interleaved, quartiles, run
from benchmarks.results import RESULTS
from benchmarks.throughput import SBX, SideBySide, Threaded, flops, multiply
from era_rl.runs.settings import Setting
from era_rl.sb3 import (
    A2CERA,
    PPOERA,
    SACERA,
    TQCERA,
    XQCERA,
    CrossQERA,
    DiscreteSACERA,
    MaskablePPOERA,
    RecurrentPPOERA,
)
from era_rl.sb3.compiling import CompilingMixin

HOSTS: dict[str, tuple[Any, Any, bool]] = {
    "SACERA": (SACERA, SAC, True),
    "SACERA, SimBa": (SACERA, SAC, False),
    "TQCERA": (TQCERA, TQC, True),
    "CrossQERA": (CrossQERA, CrossQ, True),
    "XQCERA": (XQCERA, SAC, False),
    "PPOERA": (PPOERA, PPO, True),
    "A2CERA": (A2CERA, A2C, True),
    "RecurrentPPOERA": (RecurrentPPOERA, RecurrentPPO, True),
    "MaskablePPOERA": (MaskablePPOERA, MaskablePPO, True),
    "DiscreteSACERA": (DiscreteSACERA, DQN, True),
}
"""Class, host, and whether both have the same networks."""
DISCRETE = ("MaskablePPOERA", "DiscreteSACERA")
"""Which take discrete actions alone."""
Name = Literal[tuple(HOSTS)]  # pyright: ignore[reportInvalidTypeForm]
IN_SBX = ("SAC", "TQC", "CrossQ", "PPO")
EAGER, COMPILED, PRODUCTS = "", ", compiled", "products"
STEP, UPDATE = "env_step", "update"


@dataclass(frozen=True, kw_only=True)
class Blocks(Threaded):
    """Sizes of the blocks in which a class trains."""

    steps: Annotated[int, Setting("steps a block, off-policy", low=1)] = 20
    rollout: Annotated[int, Setting("steps a block, on-policy; PPO's n_steps", low=64)] = 512


@dataclass(frozen=True, kw_only=True)
class Family(SideBySide, Blocks):
    """What is measured, and with which sizes."""

    algorithms: Annotated[tuple[Name, ...], Setting("algorithms")] = tuple(  # type: ignore[assignment]
        name for name in HOSTS if name not in DISCRETE
    )
    blocks: Annotated[int, Setting("blocks of each algorithm", low=2)] = 15
    out: Out = RESULTS / "throughput" / "family" / "cpu-threads1.json"


def arguments(host: Any, settings: Blocks, own_networks: bool = False) -> dict[str, Any]:
    """Return the arguments of a host and of what takes its place, which SBX understands too."""
    networks = {} if own_networks else {"net_arch": [settings.width, settings.width]}
    given: dict[str, Any] = {"policy_kwargs": networks}
    if not issubclass(host, OnPolicyAlgorithm):
        given |= {"batch_size": settings.batch_size, "gradient_steps": 1, "learning_starts": 0}
        return {**given, "buffer_size": 100_000, "train_freq": 1}
    return given | ({} if host is A2C else {"n_steps": settings.rollout})


def build(algorithm: Any, policy: str, settings: Blocks, given: dict[str, Any]) -> Any:
    """Return an algorithm, silent, that has been trained for a few steps."""
    env: Any = settings.env
    if issubclass(algorithm, MaskablePPO):
        env = ActionMasker(gymnasium.make(env), lambda env: np.ones(env.action_space.n, bool))  # type: ignore[attr-defined]
    model = algorithm(policy, env, seed=0, device=settings.device, **given)
    model.set_logger(Logger(folder=None, output_formats=[]))
    on_policy = isinstance(model, OnPolicyAlgorithm)
    return model.learn(settings.rollout if on_policy else settings.steps)


def models(name: str, settings: Blocks, built: Mapping[str, Any]) -> dict[str, Any]:
    """Return a class, eager and, if it can be, compiled, and its host unless built, by their names."""
    era, host, same = HOSTS[name]
    given = arguments(host, settings, own_networks=not same)
    plain = "MlpLstmPolicy" if host is RecurrentPPO else "MlpPolicy"
    policy = "SimbaPolicy" if "SimBa" in name else plain
    found: dict[str, Any] = {}
    if host.__name__ not in built:
        found[host.__name__] = build(host, plain, settings, arguments(host, settings))
    if not issubclass(era, CompilingMixin):
        return {**found, name: build(era, policy, settings, given)}
    for way, compiled in ((EAGER, False), (COMPILED, True)):
        found[name + way] = build(era, policy, settings, {**given, "compile": compiled})
    return found


def measure(settings: Family) -> dict[str, Any]:
    """Return the seconds of every block, by wall and CPU time, and what updates need at least."""
    settings.take_cores()
    load = [os.getloadavg()]
    agents: dict[str, Any] = {}
    for name in settings.algorithms:
        agents |= models(name, settings, agents)
    needed = {
        name: flops(model, settings.batch_size, updates=6)
        for name, model in agents.items()
        if name in HOSTS and not isinstance(model, OnPolicyAlgorithm)
    }
    sbx = _sbx(settings)
    times = _times(agents, sbx, settings)
    for process in sbx.values():
        process.close()
    speed = 2.0 * settings.batch_size * settings.width**2 / median(times.pop(PRODUCTS)[UPDATE])
    return {
        "load": [*load, os.getloadavg()],
        "sbx": [process.version for process in sbx.values()][:1],
        "gigaflops_per_second": speed / 1e9,
        "update": {
            name: {
                "flops": operations,
                "floor_milliseconds": 1e3 * operations / speed,
                "share_reached": operations / speed / median(times[name + COMPILED][UPDATE]),
            }
            for name, operations in needed.items()
        },
        "ratios": [row for name in settings.algorithms for row in ratios(name, times)],
        "seconds": times,
    }


def _sbx(settings: Family) -> dict[str, SBX]:
    if settings.sbx is None:
        return {}
    hosts = {HOSTS[name][1] for name in settings.algorithms}
    return {
        f"SBX {host.__name__}": SBX(
            settings.sbx,
            host.__name__,
            settings.env,
            arguments(host, settings),
            *(settings.rollout if host is PPO else settings.steps,) * 2,
        )
        for host in sorted(hosts, key=lambda host: host.__name__)
        if host.__name__ in IN_SBX
    }


def _times(agents: dict[str, Any], sbx: dict[str, SBX], settings: Family) -> Times:
    """Return seconds a step, and an update, of every block."""
    calls: dict[tuple[str, str], Callable[[], Any]] = {
        (PRODUCTS, UPDATE): partial(multiply, settings, 100)
    }
    sizes = {PRODUCTS: 100}
    for name, model in agents.items():
        on_policy = isinstance(model, OnPolicyAlgorithm)
        sizes[name] = settings.rollout if on_policy else settings.steps
        calls[name, STEP] = partial(model.learn, sizes[name], reset_num_timesteps=False)
        if not on_policy:
            calls[name, UPDATE] = partial(model.train, settings.steps, settings.batch_size)
    for name, process in sbx.items():
        sizes[name] = settings.rollout if name.endswith("PPO") else settings.steps
        calls[name, STEP] = process.block
    times = interleaved(calls, settings.blocks, settings.device, cpu=True)
    return {
        name: {kind: [taken / sizes[name] for taken in found] for kind, found in kinds.items()}
        for name, kinds in times.items()
    }


def ratios(name: str, times: Times) -> list[dict[str, Any]]:
    """Return the speed of a class over its host's and SBX's: median and quartiles, of neighbours."""
    host = HOSTS[name][1].__name__
    return [
        {
            "algorithm": name + way,
            "over": other,
            "per": kind,
            "speed": quartiles(times[other][kind], times[name + way][kind]),
        }
        for way in (EAGER, COMPILED)
        for other in (host, f"SBX {host}")
        for kind in (STEP, STEP + CPU, UPDATE, UPDATE + CPU)
        if name + way in times and kind in times.get(other, {})
    ]


if __name__ == "__main__":
    sys.exit(run(Family, measure))
