"""What tasks return to an agent that does nothing, and to one that acts at random.

A return says little unless it is known what is had for nothing: Ant-v5 pays for every step on which
the robot is upright. For every environment of every suite, ``zero`` has the returns of episodes with
the action 0 (the middle of the range, or the first of discrete actions), ``random`` those with uniform
actions; episode i is reset with the seed i, the actions have the seed 0. Scores are normalised from the
better of the two means.
"""

import json
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
from gymnasium import spaces

import benchmarks.reaching  # noqa: F401 (registers ids)
import era_rl.envs  # noqa: F401 (registers ids)
from benchmarks import suite as suites
from benchmarks.measuring import Measurement, Out, run
from benchmarks.results import RESULTS
from era_rl.runs.settings import Setting

PATH = RESULTS / "idle" / "idle.json"
WAYS = ("zero", "random")
"""How an agent that learns nothing may act."""


@dataclass(frozen=True, kw_only=True)
class Idle(Measurement):
    """What is measured."""

    episodes: Annotated[int, Setting("episodes of each environment and way", low=1)] = 50
    envs: Annotated[tuple[str, ...], Setting("ids; none given: those of all suites")] = ()
    out: Out = PATH


def environments() -> list[tuple[str, dict[str, Any]]]:
    """Return id and arguments of every environment of every suite, each once."""
    found = {}
    for name in suites.names():
        for config in (each.config for each in suites.load(name).runs):
            environment = config["env"], config["settings"].get("env_kwargs", {})
            found[key(*environment)] = environment
    return [found[name] for name in sorted(found)]


def key(env: str, arguments: dict[str, Any]) -> str:
    """Return the name of an environment made with arguments."""
    return " ".join([env, *(f"{name}={value}" for name, value in sorted(arguments.items()))])


def returns(env: str, arguments: dict[str, Any], way: str, episodes: int) -> list[float]:
    """Return the returns of so many episodes in which an agent does nothing, or acts at random."""
    made = gymnasium.make(env, **arguments)
    space: Any = made.action_space
    space.seed(0)
    is_box = isinstance(space, spaces.Box)
    zero = ((space.low + space.high) / 2).astype(space.dtype) if is_box else space.start
    found = []
    for episode in range(episodes):
        made.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            action = zero if way == "zero" else space.sample()
            _, reward, terminated, truncated, _ = made.step(action)
            total, over = total + float(reward), terminated or truncated
        found.append(float(f"{total:.6g}"))
    made.close()
    return found


@cache
def measured(folder: Path = PATH.parent) -> dict[str, dict[str, float]]:
    """Return the mean returns in a folder's files, by the environment's :func:`key` and by way."""
    rows = [row for path in folder.glob("*.json") for row in json.loads(path.read_text())["rows"]]
    return {
        key(row["env"], row["env_kwargs"]): {way: float(np.mean(row[way])) for way in WAYS}
        for row in rows
    }


def measure(settings: Idle) -> dict[str, Any]:
    """Return the returns of every environment, and the CPU seconds that they took."""
    rows = []
    for env, arguments in environments():
        if not settings.envs or env in settings.envs:
            start = time.process_time()
            row = {way: returns(env, arguments, way, settings.episodes) for way in WAYS}
            spent = round(time.process_time() - start, 1)
            rows.append({"env": env, "env_kwargs": arguments, **row, "cpu_seconds": spent})
            sys.stdout.write(f"{key(env, arguments)}: {spent} s\n")
            sys.stdout.flush()
    return {"rows": rows}


if __name__ == "__main__":
    sys.exit(run(Idle, measure))
