"""Whether compiling pays, by what trainings of the same kind took on this machine before."""

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from era_rl.runs.folder import write_json

MIN_CALLS_TO_COMPILE = 50_000
"""From how many calls on compiling pays on-policy, where nothing has been measured."""
MIN_UPDATES_TO_COMPILE = 20_000
"""From how many updates on it does so off-policy, of which each saves more."""
MIN_SECONDS = 1.0
"""What is timed for less tells little, and leaves no note."""
FIRST = 5
"""Rounds of training within which all is compiled."""


class Payoff:
    """Times the calls of a training, and says before the next one of its kind whether to compile.

    Compiling pays where calls (t_eager - t_compiled) > t_compiling, each a time of this machine that
    earlier trainings have left in a file in the cache of what is compiled, so that they go together.
    """

    def __init__(self) -> None:
        self._rounds = 0
        self._first, self._recent = [0.0, 0], deque[tuple[float, int]](maxlen=4000)

    @contextmanager
    def timing(self, calls: int = 0) -> Iterator[None]:
        """Time a round of training with so many calls, or what is done between rounds."""
        before = time.perf_counter()
        yield
        seconds = time.perf_counter() - before
        if self._rounds < FIRST:
            self._first[0] += seconds
            self._first[1] += calls
        else:
            self._recent.append((seconds, calls))
        self._rounds += calls > 0

    def note(self, kind: Mapping[str, Any], compiled: bool) -> None:
        """Write down what a call took, and compiling: ``kind`` is what the times depend on."""
        seconds, calls = map(sum, zip(*self._recent, strict=True)) if self._recent else (0.0, 0)
        if calls == 0 or seconds < MIN_SECONDS:
            return
        times = {"compiled" if compiled else "eager": seconds / calls}
        if compiled:
            times["compiling"] = max(self._first[0] - self._first[1] * seconds / calls, 0.0)
        with suppress(OSError):  # a training is not to end for a folder that is read-only or full
            write_json(_path(kind), {**_known(kind), **times})

    @staticmethod
    def pays(kind: Mapping[str, Any], calls: int, least: int) -> tuple[bool, str]:
        """Return whether to compile so many calls, or the least, if nothing is known, and why."""
        known = _known(kind)
        if known.keys() >= {"eager", "compiled", "compiling"}:
            saved = calls * (known["eager"] - known["compiled"])
            why = f"{calls} calls save {saved:.0f} s and compiling takes {known['compiling']:.0f} s"
            return saved > known["compiling"], why
        return calls >= least, f"{calls or 'unknown'} calls are planned and {least} pay"


def _known(kind: Mapping[str, Any]) -> dict[str, float]:
    try:
        return json.loads(_path(kind).read_text())
    except (OSError, ValueError):  # there is none, or it is torn
        return {}


def _path(kind: Mapping[str, Any]) -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # loads much

    text = json.dumps(kind, sort_keys=True, default=str)
    return Path(cache_dir()) / "era_rl" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
