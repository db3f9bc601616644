"""What tasks return to an agent that does nothing, and to one that acts at random.

    python -m benchmarks.idle

A return says little unless it is known what is had for nothing: Ant-v5 pays for every step on which
the robot is upright. For every environment of every suite, ``zero`` has the returns of episodes with
the action 0 (the middle of the range), ``random`` those with uniform actions; episode i is reset with
the seed i, the actions have the seed 0. Scores are normalised from the better of the two means.
"""

import argparse
import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import benchmarks.reaching  # noqa: F401 (registers ids)
import era_rl.envs  # noqa: F401 (registers ids)
from benchmarks import suite as suites
from benchmarks.results import RESULTS, circumstances
from era_rl.runs.folder import write_json

PATH = RESULTS / "idle" / "idle.json"
WAYS = ("zero", "random")
"""How an agent that learns nothing may act."""
EPISODES = 50


def environments() -> list[tuple[str, dict[str, Any]]]:
    """Return id and arguments of every environment of every suite, each once."""
    found = {}
    for name in suites.names():
        for run in suites.load(name).runs:
            arguments = run.config["settings"].get("env_kwargs", {})
            found[key(run.config["env"], arguments)] = run.config["env"], arguments
    return [found[name] for name in sorted(found)]


def key(env: str, arguments: dict[str, Any]) -> str:
    """Return the name of an environment made with arguments."""
    return " ".join([env, *(f"{name}={value}" for name, value in sorted(arguments.items()))])


def returns(env: str, arguments: dict[str, Any], way: str, episodes: int) -> list[float]:
    """Return the returns of episodes in which an agent does nothing, or anything.

    Args:
        env: The environment's id.
        arguments: What it is made with.
        way: "zero" or "random".
        episodes: How many; each ends as the environment says.
    """
    made = gymnasium.make(env, **arguments)
    space: Any = made.action_space
    space.seed(0)
    middle = ((space.low + space.high) / 2).astype(space.dtype)
    found = []
    for episode in range(episodes):
        made.reset(seed=episode)
        total, over = 0.0, False
        while not over:
            action = middle if way == "zero" else space.sample()
            _, reward, terminated, truncated, _ = made.step(action)
            total, over = total + float(reward), terminated or truncated
        found.append(float(f"{total:.6g}"))
    made.close()
    return found


@cache
def measured(path: Path = PATH) -> dict[str, dict[str, float]]:
    """Return the mean returns, by the environment's :func:`key` and by way; none without the file."""
    if not path.is_file():
        return {}
    rows = json.loads(path.read_text())["rows"]
    return {
        key(row["env"], row["env_kwargs"]): {way: float(np.mean(row[way])) for way in WAYS}
        for row in rows
    }


def main(argv: list[str] | None = None) -> None:
    """Measure every environment and write one JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument(
        "--episodes", type=int, default=EPISODES, help="of each environment and way"
    )
    parser.add_argument("--envs", nargs="+", help="ids; default: those of all suites")
    parser.add_argument("--out", type=Path, default=PATH)
    args = parser.parse_args(argv)
    rows = []
    for env, arguments in environments():
        if args.envs is None or env in args.envs:
            start = time.process_time()
            row = {way: returns(env, arguments, way, args.episodes) for way in WAYS}
            spent = round(time.process_time() - start, 1)
            rows.append({"env": env, "env_kwargs": arguments, **row, "cpu_seconds": spent})
            sys.stdout.write(f"{key(env, arguments)}: {spent} s\n")
            sys.stdout.flush()
    content = {"command": "python -m benchmarks.idle", **circumstances(), "rows": rows}
    write_json(args.out, content)


if __name__ == "__main__":
    main()
