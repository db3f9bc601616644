"""Training from the command line, over TRL's own argument parser."""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trl.scripts.utils import TrlParser
from trl.trainer.model_config import ModelConfig
from trl.trainer.utils import get_peft_config, get_quantization_config

from era_llm.data import DataArguments, load_rewards, load_rows
from era_llm.resume import checkpoint_to_resume
from era_llm.trl import GRPOERAConfig, GRPOERATrainer
from era_rl.runs.command import Parser, refuse_old
from era_rl.runs.folder import locked


class _Options(Parser, TrlParser):  # pyright: ignore[reportIncompatibleMethodOverride]
    """TRL's parser, whose errors are one line."""


class _Resume(argparse.Action):
    """Go on in the folder of a run, from its newest whole checkpoint, or from the one that is named."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        path = Path(values)
        one = path.name.startswith("checkpoint-")
        namespace.output_dir = str(path.parent if one else path)
        namespace.resume_from_checkpoint = values if one else "true"


class _Device(argparse.Action):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        namespace.use_cpu = values == "cpu"


_DEVICES = ("auto", "cpu", "cuda")
_TRLS_NAMES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "max_steps": ("--steps", "training steps; below 0: as num_train_epochs says", {"type": int}),
    "output_dir": ("--out", "folder of the run", {}),
    "resume_from_checkpoint": ("--resume", str(_Resume.__doc__), {"action": _Resume}),
    "use_cpu": ("--device", "auto: a GPU, if any", {"action": _Device, "choices": _DEVICES}),
}


def train(arguments: list[str]) -> None:
    """Train a model with GRPO and ERA.

    Args:
        arguments: Options of `DataArguments`, `GRPOERAConfig` and TRL's `ModelConfig`, or
            `--config FILE` with them; `--recipe NAME` stands for the file of a recipe of this package.

    Raises:
        ValueError: If a setting is wrong, the checkpoint to resume from is damaged, or another process
            works in the output folder.
    """
    options, config, model = parse(arguments)
    # what can be refused at once, before the model is loaded
    out = config.output_dir or "."
    checkpoint = checkpoint_to_resume(config.resume_from_checkpoint, out)
    with locked(out) if config.process_index == 0 else nullcontext():
        rows = load_rows(options)
        trainer = GRPOERATrainer(
            model.model_name_or_path,
            load_rewards(options.reward, rows.column_names),
            config,
            train_dataset=rows,
            eval_dataset=None if options.eval_dataset_name is None else load_rows(options, True),
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(out)


def parse(arguments: list[str]) -> tuple[DataArguments, GRPOERAConfig, ModelConfig]:
    """Return the settings that command line and configuration file say.

    Raises:
        ValueError: If a setting is wrong.
    """
    options, config, model = parser().parse_args_and_config(with_recipe(arguments))
    config.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(config.model_init_kwargs or {}),
    }
    return options, config, model


def parser() -> TrlParser:
    """Return TRL's parser, with this project's names for what all of its commands have."""
    kinds: Any = (DataArguments, GRPOERAConfig, ModelConfig)
    about = "--config FILE has settings, under TRL's names; --recipe NAME is a file of this package"
    ours = _Options(kinds, prog="era-llm train", epilog=about, conflict_handler="resolve")
    for old, (new, text, reading) in _TRLS_NAMES.items():
        default = ours.get_default(old)
        for name in (f"--{old}", f"--{old.replace('_', '-')}"):
            refuse_old(ours, {name: f"{new}; in a configuration file the name is TRL's"})
        ours.add_argument(new, dest=old, default=default, help=text, **reading)
    low = next(action for action in ours._actions if action.dest == "era_entropy_low")
    low.type = lambda text: text if text == "auto" else float(text)
    return ours


def with_recipe(arguments: list[str]) -> list[str]:
    """Replace `--recipe NAME` by `--config` and the path of the recipe.

    Raises:
        ValueError: If no recipe has the name.
    """
    files = argparse.ArgumentParser("era-llm train", add_help=False, allow_abbrev=False)
    files.add_argument("--config")
    files.add_argument("--recipe", nargs="?", const="")
    given, rest = files.parse_known_args(arguments)
    if given.recipe is not None:
        recipes = {path.stem: path for path in Path(__file__).with_name("recipes").glob("*.yaml")}
        if given.recipe not in recipes:
            raise ValueError(f"recipe must be one of {sorted(recipes)}, got {given.recipe!r}")
        rest = ["--config", str(recipes[given.recipe]), *rest]
    return rest if given.config is None else ["--config", given.config, *rest]
