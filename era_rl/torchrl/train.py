"""``python -m era_rl.torchrl.train sac|ppo``: train SAC-ERA or PPO-ERA, several seeds at once."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from era_rl.torchrl.config import PRESETS, Config, PPOConfig, SACConfig, config_fields

ALGORITHMS: dict[str, type[Config]] = {"sac": SACConfig, "ppo": PPOConfig}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 2, with one line of text, for a failure."""
    options = vars(parser().parse_args(arguments))
    kind = ALGORITHMS[options.pop("algorithm")]
    preset = PRESETS[name] if (name := options.pop("preset", None)) else {}
    given = {name: value for name, value in options.items() if value is not None}
    # nothing is rendered; without a display mujoco would warn of it
    os.environ.setdefault("MUJOCO_GL", "disabled")
    try:
        config = kind(**{**preset, **given})
        summary = train(config)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.stderr.write(f"era_rl.torchrl.train: {error}\n")
        return 2
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def train(config: Config) -> dict[str, Any]:
    """Train and return each seed's evaluation: the returns of its episodes."""
    from era_rl.torchrl.trainer import Trainer

    trainer = Trainer(config)
    try:
        returns = trainer.run()
    finally:
        trainer.close()
    seeds = map(str, config.agent_seeds)
    return {
        "steps": trainer.learner.steps,
        "returns": dict(zip(seeds, returns.tolist(), strict=True)),
    }


def parser() -> argparse.ArgumentParser:
    """Return the parser, its options read from the settings' dataclasses."""
    top = argparse.ArgumentParser(prog="python -m era_rl.torchrl.train", description=__doc__)
    commands = top.add_subparsers(dest="algorithm", required=True)
    for name, kind in ALGORITHMS.items():
        command = commands.add_parser(name, help=kind.__doc__)
        if kind is SACConfig:
            command.add_argument("--preset", choices=sorted(PRESETS), help="settings to start from")
        for option, (annotated, text) in config_fields(kind).items():
            _add_option(command, option, annotated, f"{text} (default: {getattr(kind, option)})")
    return top


def _add_option(command: argparse.ArgumentParser, name: str, annotated: Any, text: str) -> None:
    flag = "--" + name.replace("_", "-")
    text = text.replace("%", "%%")
    if annotated is bool:
        command.add_argument(flag, action=argparse.BooleanOptionalAction, help=text, default=None)
    elif get_origin(annotated) is Literal:
        command.add_argument(flag, choices=get_args(annotated), help=text)
    elif get_origin(annotated) is tuple:
        command.add_argument(flag, type=int, nargs="+", help=text)
    else:
        kinds = [k for k in get_args(annotated) or [annotated] if k is not NoneType]
        words = {word for k in kinds if get_origin(k) is Literal for word in get_args(k)}
        (kind,) = (k for k in kinds if get_origin(k) is not Literal)
        command.add_argument(flag, type=_either(kind, words), help=text)


def _either(kind: type, words: set[str]) -> Callable[[str], Any]:
    """Return a parser of the type or one of the words, under the type's name for argparse."""

    def parse(text: str) -> Any:
        return text if text in words else kind(text)

    parse.__name__ = " or ".join([kind.__name__, *sorted(words)])
    return parse


if __name__ == "__main__":
    sys.exit(main())
