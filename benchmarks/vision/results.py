"""Raw results as JSON: one file a suite, written after every run, so that a suite can go on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.results import circumstances
from era_rl.runs.folder import read_json, write_json
from era_rl.runs.record import command_line
from era_rl.runs.settings import SettingsError, differences
from era_vision import Trainer

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
        self.content = read_json(self.path) if self.path.is_file() else {**about, "runs": {}}

    def complete(self, key: str, config: dict[str, Any], run: Callable[[], dict[str, Any]]) -> None:
        """Run what is not there, keep it, and write the file in one piece.

        Raises:
            SettingsError: If it is there with another value of a setting.
        """
        runs = self.content["runs"]
        if key not in runs:
            head = {"config": config, "command": command_line(), **circumstances()}
            runs[key] = {**head, **run()}
            write_json(self.path, self.content)
        stored = runs[key].get("config", {})
        changed = differences(stored, {name: v for name, v in config.items() if name in stored})
        if changed:
            raise SettingsError(
                f"{key!r} in {self.path.name} of folder={str(RESULTS)!r} has other settings"
                f" ({', '.join(changed)}): remove the file, or ask for the same"
            )


def epochs(trainer: Trainer) -> Iterator[dict[str, Any]]:
    """Train to the end without checkpoints, and yield the metrics of every epoch of training."""
    while trainer.epoch < trainer.config.epochs:
        row = trainer.train_epoch()
        trainer.epoch += 1
        yield row
