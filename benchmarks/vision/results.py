"""Raw results as JSON: one file a suite, written after every run, so that a suite can go on."""

import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from era_rl.runs.folder import read_json, write_json

RESULTS = Path(__file__).parents[1] / "results" / "vision"


class Results:
    """The runs of a suite, each under a key; a run that is there already is not run again.

    A run keeps its configuration, command, versions and machine. In the files of the first runs the
    last three stand at the head, for all runs that do not have their own.

    Args:
        name: Name of the file, without suffix.
        about: What is run, kept in a new file.
    """

    def __init__(self, name: str, about: dict[str, Any]) -> None:
        self.path = RESULTS / f"{name}.json"
        self.content = {**about, "runs": {}}
        if self.path.is_file():
            self.content = read_json(self.path)

    def has(self, key: str, config: dict[str, Any]) -> bool:
        """Return whether a run is there.

        Raises:
            ValueError: If it is there with another value of a setting.
        """
        run = self.content["runs"].get(key)
        if run is None:
            return False
        stored = run.get("config", {})
        # as JSON has it: a tuple is a list there
        asked = json.loads(json.dumps({name: v for name, v in config.items() if name in stored}))
        changed = {name: (stored[name], new) for name, new in asked.items() if stored[name] != new}
        if changed:
            listed = ", ".join(
                f"{name}: {old!r}, now {new!r}" for name, (old, new) in changed.items()
            )
            raise ValueError(
                f"{key!r} in {self.path.name} of folder={str(RESULTS)!r} has other settings ({listed}):"
                " remove the file, or ask for the same"
            )
        return True

    def add(self, key: str, config: dict[str, Any], run: dict[str, Any]) -> None:
        """Keep a run, and write the file in one piece."""
        packages = ("torch", "torchvision", "torchmetrics", "accelerate")
        self.content["runs"][key] = {
            "config": config,
            "command": " ".join(["python", *sys.orig_argv[1:]]),
            "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
            "machine": f"{platform.machine()}, one thread",
            **run,
        }
        write_json(self.path, self.content)
