"""Tables of single measurements, for reports and for the page of all results."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.document import Block, Table, Text
from benchmarks.family import COMPILED, HOSTS, STEP
from benchmarks.idle import WAYS, key
from benchmarks.measuring import CPU, quartiles
from benchmarks.metrics import number
from benchmarks.results import RESULTS

PAPER = "7%"
OVER_COMPILED = "speed_over_exact, compiled"
LLM_WAYS = {
    "era_whole_step": "LLM, loss and backward of eight layers, vocabulary 32k",
    "era": "LLM, the same of the head alone",
    "era_bonus": "LLM, the head with an entropy bonus",
}
"""The paper's bound on its overhead."""


def blocks(module: str, path: Path) -> list[Block]:
    """Return what a report shows of the file that a module wrote."""
    if path.suffix == ".md":
        return [Text(path.read_text().strip())]
    if module in TABLES:
        return [TABLES[module](path)]
    return [Text(f"{path}")]


def throughput(path: Path) -> Table:
    """Return speed over the reference: median and quartiles of pairs of neighbouring blocks."""
    content = json.loads(path.read_text())
    settings = content["settings"]
    reference = f"speed_over_{settings['reference']}"
    kinds = {"env_step": "training", "update": "update alone"}
    rows = [
        [row["algorithm"], kinds[row["per"]], _spread(row[reference]), f"{row['milliseconds']:.2f}"]
        for row in content["ratios"]
        if row["algorithm"] != settings["reference"]
    ]
    caption = (
        f"Speed over {settings['reference']}: {settings['env']}, width {settings['width']}, batch "
        f"{settings['batch_size']}, {settings['device']}, {settings['threads']} thread(s)"
    )
    return Table(["algorithm", "what", "speed, median [quartiles]", "ms a step"], rows, caption)


def family(path: Path) -> Table:
    """Return the speed of every class over its host and SBX's, by CPU time and by wall time."""
    content = json.loads(path.read_text())
    settings = content["settings"]
    speed = {(row["algorithm"], row["over"], row["per"]): row["speed"] for row in content["ratios"]}
    rows = []
    for name in settings["algorithms"]:
        host, ways = HOSTS[name][1].__name__, (name, name + COMPILED)
        keys = [(way, other, STEP) for other in (host, f"SBX {host}") for way in ways]
        cells = [
            _spread(speed[way, o, k + CPU]) if (way, o, k) in speed else "-" for way, o, k in keys
        ]
        compiled = speed.get((name + COMPILED, host, STEP))
        wall = f"{compiled['median']:.2f}" if compiled else "-"
        update = content["update"].get(name)
        share = f"{update['share_reached']:.0%}" if update else "-"
        rows.append([name, host, *cells[:2], wall, cells[3], share])
    loads = " and ".join(f"{load[0]:.1f}" for load in content["load"])
    products = content.get("gigaflops_per_second")
    products = f", where products have {products:.0f} GFLOP/s" if products else ""
    caption = (
        f"Environment steps per second by CPU time, median [quartiles] of neighbouring blocks: "
        f"{settings['env']}, width {settings['width']}, batch {settings['batch_size']}, "
        f"{settings['device']}, {settings['threads']} thread(s){products}, load {loads} before and "
        "after. Share: the part of a compiled update that its matrix products alone need"
    )
    header = ["class", "host", "eager", "compiled", "by wall time", "compiled over SBX's", "share"]
    return Table(header, rows, caption)


def floor_audit(path: Path) -> Table:
    """Return the smallest margins found of each head, over its sizes."""
    heads: dict[str, list[tuple[str, ...]]] = {}
    for row in json.loads(path.read_text())["rows"]:
        margins = (row[way] for way in ("random", "ascent", "visited"))
        cells = ("-" if margin is None else f"{margin:+.1e}" for margin in margins)
        heads.setdefault(row["head"], []).append((str(row["size"]), f"{row['floor']:g}", *cells))
    rows = [[head, *map(", ".join, zip(*each, strict=True))] for head, each in heads.items()]
    caption = (
        "Smallest (entropy - floor) in nats over all dimensions, by size: negative where the floor "
        "does not hold (float32 rounds at about 1e-6 a dimension). Eq. 11 holds the entropy before "
        "truncation. Visited: on the states that trained policies with that head visited"
    )
    header = ["head", "dimensions or classes", "floor", "random search", "gradient ascent"]
    return Table([*header, "visited"], rows, caption)


def audited(results: Path) -> list[Block]:
    """Return the table of the committed audit, if there is one."""
    path = results / "floor-audit" / "audit.json"
    return [floor_audit(path)] if path.exists() else []


def overhead(path: Path) -> Table:
    """Return what the floor adds to heads and training steps of one file of benchmarks.overhead."""
    content = json.loads(path.read_text())
    names = {"head": "head alone, forward and backward", "PPO": "PPO, rollout and update"}
    rows = [
        [names.get(group, f"{group}, update"), row["algorithm"], _added(row["speed_over_plain"])]
        for group, found in content["ratios"].items()
        for row in found
        if row["algorithm"] != "plain"
    ]
    rows += [
        ["compiled head alone, over that of the sum", row["algorithm"], _added(row[OVER_COMPILED])]
        for row in content.get("ratios_of_compiled_heads", [])
        if row["algorithm"] != "exact, compiled"
    ]
    settings = content["settings"]
    caption = (
        f"Time added by the floor: {settings['env']}, {settings['device']}, 1 thread; heads alone of "
        f"{settings['action_dim']} dimensions"
    )
    return Table(["what", "with", "added time, median [quartiles]"], rows, caption)


def idle(path: Path) -> Table:
    """Return what environments return for nothing: mean [lowest, highest] of episodes."""
    rows = []
    for row in json.loads(path.read_text())["rows"]:
        found = (row[way] for way in WAYS)
        cells = (f"{number(mean(x))} [{number(min(x))}, {number(max(x))}]" for x in found)
        rows.append([key(row["env"], row["env_kwargs"]), str(len(row[WAYS[0]])), *cells])
    caption = (
        "Return of an episode: mean [lowest, highest]; random actions are uniform over their range"
    )
    return Table(["environment", "episodes", "no action", "random actions"], rows, caption)


TABLES: dict[str, Callable[[Path], Table]] = {
    "benchmarks.throughput": throughput,
    "benchmarks.family": family,
    "benchmarks.floor_audit": floor_audit,
    "benchmarks.idle": idle,
    "benchmarks.overhead": overhead,
}


def speeds(results: Path = RESULTS) -> Table:
    """Return environment steps per second over SB3's SAC, one row a file of measurements."""
    names = {
        "exact": "SACERA",
        "exact-compiled": "compiled",
        "exact-compiled-device": "and DeviceReplayBuffer",
        "gaussian-compiled": "compiled, Eq. 11",
        "sbx": "SBX's SAC",
    }
    paths = (results / "throughput").glob("*.json"), (results / "fast-gpu").glob("throughput*.json")
    rows = []
    for path in (path for found in paths for path in sorted(found)):
        content = json.loads(path.read_text())
        settings, share = content["settings"], content.get("update", {}).get("share_reached", {})
        found = {row["algorithm"]: row for row in content["ratios"] if row["per"] == "env_step"}
        cells = [_spread(found[name]["speed_over_sac"]) if name in found else "-" for name in names]
        reached = f"{share['exact-compiled']:.0%}" if "exact-compiled" in share else "-"
        setting = (str(settings[key]) for key in ("device", "width", "batch_size", "threads"))
        rows.append([", ".join(setting), *cells, reached])
    caption = (
        "Environment steps per second over SB3's SAC, median [quartiles]: HalfCheetah-v5, two hidden "
        "layers. Share: the part of a compiled update's time that its matrix products alone need. Rows "
        "with SBX are runs of their own"
    )
    if not any(row[0].startswith("cuda") for row in rows):
        caption += ". CUDA is unmeasured"
    return Table(["device, units, batch, threads", *names.values(), "share"], rows, caption)


def three_domains(results: Path = RESULTS) -> Table:
    """Return the overhead of a training step in the three domains, beside the paper's."""
    rows: list[list[str]] = []
    path = results / "overhead" / "cpu.json"
    if path.exists():
        rows += [row for row in overhead(path).rows if "alone" not in row[0]]  # type: ignore[misc]
    path = results / "vision" / "overhead.json"
    if path.exists():
        for case, run in json.loads(path.read_text())["runs"].items():
            times = run["step_seconds"]
            speeds = (quartiles(times["none"], times[method]) for method in run["ratio"])
            added = "; ".join(map(_added, speeds))
            rows.append([f"vision, training step, {case}", "; ".join(run["ratio"]), added])
    path = results / "llm" / "loss_step.json"
    if path.exists():
        found = json.loads(path.read_text())["ratio_to_stock"]
        for way, what in LLM_WAYS.items():
            if ratios := found.get(way, []):
                speed = quartiles([1.0] * len(ratios), ratios)
                rows.append([what, "half of the responses scaled", _added(speed)])
    caption = f"Time added to a training step, one CPU thread (the paper says: less than {PAPER})"
    return Table(["what", "with", "added time, median [quartiles]"], rows, caption)


def _spread(ratio: dict[str, Any]) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.2f} [{low:.2f}, {high:.2f}]"


def _added(speed: dict[str, Any]) -> str:
    """Return the added time of a speed ratio, as a percentage."""
    low, high = speed["quartiles"]
    return f"{1 / speed['median'] - 1:+.0%} [{1 / high - 1:+.0%}, {1 / low - 1:+.0%}]"
