"""Measurements: settings from the command line in, one JSON file out, and calls timed in turns."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch

from benchmarks.results import circumstances
from era_rl.runs.command import Parser, add_arguments, exit_status
from era_rl.runs.folder import write_json
from era_rl.runs.settings import Setting, Settings, plain

Times = dict[str, dict[str, list[float]]]
"""Seconds of a call in every block, by what is measured and by kind of call."""
Out = Annotated[Path, Setting("JSON file to write")]


@dataclass(frozen=True, kw_only=True)
class Measurement(Settings):
    """Settings that all measurements have; each says where its file goes by default."""

    out: Out


@dataclass(frozen=True, kw_only=True)
class Training(Measurement):
    """Settings of measurements of algorithms that train."""

    env: Annotated[str, Setting("environment")] = "HalfCheetah-v5"
    width: Annotated[int, Setting("units of each of two hidden layers", low=1)] = 256
    batch_size: Annotated[int, Setting("transitions of an off-policy update", low=1)] = 256


M = TypeVar("M", bound=Measurement)


def run(
    kind: type[M], measure: Callable[[M], dict[str, Any]], argv: list[str] | None = None
) -> int:
    """Measure with the settings of a command line, write the file, and return the exit status.

    Args:
        kind: The settings, each with a default; the docstring of their module is the help.
        measure: What is measured; its figures stand in the file, beside settings, versions, commit
            and machine.
        argv: The arguments, or None for the process's.
    """
    module: Any = sys.modules[measure.__module__]
    name = module.__spec__.name
    parser = Parser(prog=f"python -m {name}", description=module.__doc__)
    add_arguments(parser, kind)

    def measured() -> None:
        settings = kind.of(vars(arguments))
        code = circumstances()  # of what is loaded now: later the checkout may be another
        content = {name: value for name, value in plain(asdict(settings)).items() if name != "out"}
        write_json(settings.out, {"settings": content, **code, **measure(settings)})
        sys.stdout.write(f"{settings.out}\n")

    arguments = parser.parse_args(argv)
    return exit_status(name, measured)


def seconds(function: Callable[[], Any], device: str) -> tuple[float, float]:
    """Return the wall time of a call, with the device's queue drained, and its CPU time.

    The CPU time is this process's, or what the call returns of another's, a float.
    """
    start, cpu = time.perf_counter(), time.process_time()
    elsewhere = function()
    if device != "cpu":
        torch.cuda.synchronize()
    own = time.process_time() - cpu
    return time.perf_counter() - start, elsewhere if isinstance(elsewhere, float) else own


CPU = ", CPU time"


def counted(number: int, what: str) -> Iterator[int]:
    """Yield the numbers below one, and say on stderr which of them has begun."""
    for i in range(number):
        sys.stderr.write(f"{what} {i + 1} of {number}\n")
        yield i


def interleaved(
    calls: Mapping[tuple[str, str], Callable[[], Any]],
    blocks: int,
    device: str,
    steps: int = 1,
    cpu: bool = False,
) -> Times:
    """Return the seconds of a step in every block, by name and kind.

    All take turns, so that a machine whose speed drifts does not matter.

    Args:
        calls: What is called in a block, by name and kind.
        blocks: How many blocks.
        device: Where it runs.
        steps: How many steps a call takes.
        cpu: Whether the CPU time stands beside the wall time, of a kind with :data:`CPU` after it.
    """
    times: Times = {}
    for _ in counted(blocks, "block"):
        for (name, kind), call in calls.items():
            found = times.setdefault(name, {})
            for each, taken in zip((kind, kind + CPU), seconds(call, device), strict=True):
                if cpu or each == kind:
                    found.setdefault(each, []).append(taken / steps)
    return times


def quartiles(over: Sequence[float], own: Sequence[float]) -> dict[str, Any]:
    """Return median and quartiles of the ratios of times of neighbouring blocks."""
    low, median, high = statistics.quantiles([a / b for a, b in zip(over, own, strict=True)], n=4)
    return {"median": median, "quartiles": [low, high]}


def ratios(times: Times, reference: str) -> list[dict[str, Any]]:
    """Return the speed over that of ``reference`` of every name and kind (:func:`quartiles`)."""
    return [
        {
            "algorithm": name,
            "per": kind,
            "milliseconds": 1e3 * statistics.median(own),
            f"speed_over_{reference}": quartiles(times[reference][kind], own),
        }
        for name, kinds in times.items()
        for kind, own in kinds.items()
    ]
