"""The ``era-vision`` command: train, eval, export and floor."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from era_vision.config import Config, config_from, load_recipe, recipe_names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 2, with one line of text, for bad input."""
    options = vars(parser().parse_args(arguments))
    command = options.pop("command")
    try:
        command(**options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"era-vision: {error}\n")
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the four commands."""
    top = argparse.ArgumentParser(prog="era-vision", description=__doc__)
    commands = top.add_subparsers(required=True)
    _train_parser(commands)
    evaluation = commands.add_parser("eval", help="metrics of a checkpoint, as JSON")
    evaluation.add_argument("checkpoint", type=Path)
    evaluation.add_argument("--data", help="another data set than the one it was trained on")
    evaluation.add_argument("--root", help="folder in which data sets are looked for")
    evaluation.add_argument("--cpu", action=argparse.BooleanOptionalAction)
    evaluation.set_defaults(command=evaluate_checkpoint)
    export = commands.add_parser(
        "export", help="a checkpoint as .pt2 or .onnx, pixels in [0, 1] in"
    )
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

    given = {name: value for name, value in settings.items() if value is not None}
    trainer = Trainer(config_from({**(load_recipe(recipe) if recipe else {}), **given}))
    history = trainer.fit()
    if trainer.accelerator.is_main_process:
        _print(history[-1])


def evaluate_checkpoint(checkpoint: Path, **changes: Any) -> None:
    """Print the metrics of a checkpoint on the test set."""
    from accelerate import PartialState

    from era_vision.augment import Normalise
    from era_vision.checkpoint import config_of, load
    from era_vision.data import Batches, loader
    from era_vision.export import restore
    from era_vision.head import ERAClassifier
    from era_vision.metrics import evaluate
    from era_vision.sources import load_data

    state = load(checkpoint)
    config = config_of(
        state, **{name: value for name, value in changes.items() if value is not None}
    )
    device = PartialState(cpu=config.cpu).default_device
    data = load_data(config).to(device)
    classifier = restore(state).to(device)
    model, head = classifier, None
    if isinstance(classifier, ERAClassifier):
        model, head = classifier.model, classifier.head
    batches = loader(data.test, Batches(len(data.test), 256), config.workers)
    normalise = Normalise(state["mean"], state["std"]).to(device)
    _print(evaluate(model, head, batches, len(data.classes), normalise))


def export_checkpoint(checkpoint: Path, path: Path, raw: bool) -> None:
    """Write a checkpoint's classifier, normalisation included, for another runtime."""
    from era_vision.checkpoint import load
    from era_vision.export import export_model, restore, with_pixels
    from era_vision.head import ERAClassifier

    state = load(checkpoint)
    model = restore(state)
    if raw and isinstance(model, ERAClassifier):
        model = model.model
    export_model(with_pixels(model, state), path, image_size=state["image_size"])


def show_floor(num_classes: int, **settings: Any) -> None:
    """Print what a head guarantees: least entropy, largest probability, least cross-entropy."""
    from era_vision.head import ERAHead

    head = ERAHead(num_classes, **settings)
    names = ("entropy_floor", "max_prob", "cross_entropy_floor")
    _print({"target_entropy": head.target_entropy, **{name: getattr(head, name) for name in names}})


def _train_parser(commands: Any) -> None:
    train_parser = commands.add_parser(
        "train",
        help="train a classifier",
        argument_default=argparse.SUPPRESS,
    )
    train_parser.set_defaults(command=train)
    train_parser.add_argument(
        "--recipe", help=f"a YAML file, or one of {', '.join(recipe_names())}"
    )
    hints = get_type_hints(Config, include_extras=True)
    for option in fields(Config):
        kind, about = get_args(hints[option.name])
        flag = f"--{option.name.replace('_', '-')}"
        about = f"{about} (default: {option.default})"
        train_parser.add_argument(flag, help=about, **_argument(kind))


def _argument(kind: Any) -> dict[str, Any]:
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    # int | None and the like: the type is the one that is not None
    return {"type": next((k for k in get_args(kind) if k is not NoneType), kind)}


def _print(row: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
