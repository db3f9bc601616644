"""Raw results as JSON: one file a suite, written after every run, so that a suite can go on."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from era_rl.files import read_json, write_json

RESULTS = Path(__file__).parents[1] / "results" / "vision"


class Results:
    """The runs of a suite, each under a key; a run that is there already is not run again.

    Args:
        name: Name of the file, without suffix.
        about: What was run, kept in the file.
    """

    def __init__(self, name: str, about: dict[str, Any]) -> None:
        self.path = RESULTS / f"{name}.json"
        self.runs: dict[str, Any] = {}
        if self.path.is_file():
            self.runs = read_json(self.path)["runs"]
        packages = ("torch", "torchvision", "torchmetrics", "accelerate")
        self.header = {
            "command": f"python -m benchmarks.vision.{Path(sys.argv[0]).stem}",
            "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
            "machine": f"{platform.machine()}, one thread",
            **about,
        }

    def __contains__(self, key: str) -> bool:
        return key in self.runs

    def add(self, key: str, run: dict[str, Any]) -> None:
        """Keep a run, and write the file in one piece."""
        self.runs[key] = run
        write_json(self.path, {**self.header, "runs": self.runs})
