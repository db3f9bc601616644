"""The ``era-vision`` command: train, eval, export and floor."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from era_rl.runs.command import Parser, add_arguments, exit_status, refuse_old
from era_vision.config import Config, load_recipe, recipe_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: not 0, with one line of text, for bad input."""
    options = vars(parser().parse_args(arguments))
    return exit_status("era-vision", partial(options.pop("command"), **options), extra="vision")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the four commands."""
    top = Parser(prog="era-vision", description=__doc__)
    commands = top.add_subparsers(required=True)
    training = commands.add_parser("train", help="train a classifier")
    recipes = ", ".join(recipe_names())
    training.add_argument("--recipe", help=f"a YAML file, or one of {recipes}")
    add_arguments(training, Config)
    training.set_defaults(command=train)
    evaluation = commands.add_parser("eval", help="metrics of a checkpoint, as JSON")
    evaluation.add_argument("checkpoint", type=Path)
    evaluation.add_argument("--data", help="another data set than the one it was trained on")
    evaluation.add_argument("--root", help="folder in which data sets are looked for")
    evaluation.add_argument("--device", help="torch device; default: the one of training")
    refuse_old(evaluation, {"--cpu": "--device"})
    evaluation.set_defaults(command=evaluate_checkpoint)
    export = commands.add_parser("export", help="a checkpoint as a file for pixels in [0, 1]")
    export.add_argument("checkpoint", type=Path)
    export.add_argument("path", type=Path, help="file to write: .pt2 (torch.export) or .onnx")
    export.add_argument("--raw", action="store_true", help="without the head, so without the floor")
    export.set_defaults(command=export_checkpoint)
    floor = commands.add_parser("floor", help="what a head guarantees, as JSON")
    floor.add_argument("--num-classes", type=int, default=10)
    floor.add_argument("--target-entropy", type=float, default=0.6)
    floor.add_argument("--method", default="lambert")
    floor.add_argument("--tau", type=float, default=4.0)
    floor.set_defaults(command=show_floor)
    return top


def train(recipe: str | None = None, **settings: Any) -> None:
    """Train with a recipe's settings and those given, which win; print the last epoch's metrics."""
    from era_vision.train import Trainer

    trainer = Trainer(Config.of({**(load_recipe(recipe) if recipe else {}), **settings}))
    history = trainer.fit()
    if trainer.processes.is_main_process:
        _print(history[-1])


def evaluate_checkpoint(checkpoint: Path, **changes: Any) -> None:
    """Print the metrics of a checkpoint on the test set."""
    from era_rl.devices import resolved_device
    from era_vision.augment import Normalise
    from era_vision.checkpoint import config_of, load, restore
    from era_vision.data import evaluation_order, loader
    from era_vision.head import ERAClassifier
    from era_vision.metrics import evaluate
    from era_vision.sources import load_data

    state = load(checkpoint)
    config = config_of(state, **{name: v for name, v in changes.items() if v is not None})
    device = resolved_device(config.device)
    data = load_data(config).to(device)
    if data.classes != tuple(state["classes"]):
        raise ValueError(f"data={config.data!r} has other classes than {str(checkpoint)!r}")
    classifier = restore(state).to(device)
    floored = isinstance(classifier, ERAClassifier)
    model, head = (classifier.model, classifier.head) if floored else (classifier, None)
    batches = loader(data.test, evaluation_order(len(data.test), 256), config.workers)
    normalise = Normalise(state["mean"], state["std"]).to(device)
    _print(evaluate(model, head, batches, len(data.classes), normalise))


def export_checkpoint(checkpoint: Path, path: Path, raw: bool) -> None:
    """Write a checkpoint's classifier, normalisation included, for another runtime."""
    from era_vision.checkpoint import load, restore
    from era_vision.export import export_model, with_pixels
    from era_vision.head import ERAClassifier

    state = load(checkpoint)
    model = restore(state)
    if raw and isinstance(model, ERAClassifier):
        model = model.model
    export_model(with_pixels(model, state), path, image_size=state["image_size"])
    sys.stdout.write(f"{path}\n")


def show_floor(num_classes: int, **settings: Any) -> None:
    """Print what a head guarantees: least entropy, largest probability, least cross-entropy."""
    from era_vision.head import ERAHead

    head = ERAHead(num_classes, **settings)
    names = ("target_entropy", "entropy_floor", "max_prob", "cross_entropy_floor")
    _print({name: getattr(head, name) for name in names})


def _print(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
