"""Training from the command line, over TRL's own argument parser."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from trl.scripts.utils import TrlParser
from trl.trainer.model_config import ModelConfig
from trl.trainer.utils import get_peft_config, get_quantization_config

from era_llm.data import DataArguments, load_rewards, load_rows
from era_llm.resume import checkpoint_to_resume
from era_llm.trl import GRPOERAConfig, GRPOERATrainer
from era_rl.runs.folder import locked

_TRLS_NAMES = {
    "--max_steps": "--steps",
    "--output_dir": "--out",
    "--resume_from_checkpoint": "--resume",
    "--use_cpu": "--device",
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
    kinds: Any = (DataArguments, GRPOERAConfig, ModelConfig)
    parser = TrlParser(kinds, prog="era-llm train")
    low = next(action for action in parser._actions if action.dest == "era_entropy_low")
    low.type = lambda text: text if text == "auto" else float(text)
    options, config, model = parser.parse_args_and_config(in_trls_names(with_recipe(arguments)))
    config.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(config.model_init_kwargs or {}),
    }
    return options, config, model


def in_trls_names(arguments: list[str]) -> list[str]:
    """Return arguments with `--steps`, `--out`, `--resume` and `--device` under TRL's names.

    These are the names that all commands of this project share. `--resume` takes the folder of a run,
    whose newest whole checkpoint is gone on from, or one of its checkpoints.

    Raises:
        ValueError: If an argument has TRL's name for one of them, or a device is none.
    """
    words, given = [], iter(arguments)
    for argument in given:
        name, _, value = argument.partition("=")
        if new := _TRLS_NAMES.get(name.replace("-", "_").replace("__", "--", 1)):
            raise ValueError(f"{name} is now {new}; in a configuration file the name is TRL's")
        if name not in _TRLS_NAMES.values():
            words.append(argument)
            continue
        value = value or next(given, "")
        if name == "--resume":
            path = Path(value)
            one = path.name.startswith("checkpoint-")
            words += ["--output_dir", str(path.parent if one else path)]
            words += ["--resume_from_checkpoint", value if one else "true"]
        elif name == "--device":
            if value not in ("cpu", "cuda", "auto"):
                raise ValueError(f"--device must be cpu, cuda or auto, got {value!r}")
            words += ["--use_cpu", str(value == "cpu")]
        else:
            words += ["--max_steps" if name == "--steps" else "--output_dir", value]
    return words


def with_recipe(arguments: list[str]) -> list[str]:
    """Replace `--recipe NAME` by `--config` and the path of the recipe.

    Raises:
        ValueError: If no recipe has the name.
    """
    if "--recipe" not in arguments:
        return arguments
    at = arguments.index("--recipe")
    name = arguments[at + 1] if at + 1 < len(arguments) else ""
    recipes = {path.stem: path for path in Path(__file__).with_name("recipes").glob("*.yaml")}
    if name not in recipes:
        raise ValueError(f"recipe must be one of {sorted(recipes)}, got {name!r}")
    return [*arguments[:at], "--config", str(recipes[name]), *arguments[at + 2 :]]
