"""Training from the command line, over TRL's own argument parser."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from importlib.resources import files
from operator import getitem
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from trl.scripts.utils import TrlParser
from trl.trainer.model_config import ModelConfig
from trl.trainer.utils import get_peft_config, get_quantization_config

from era_llm.resume import checkpoint_to_resume
from era_llm.trl import GRPOERAConfig, GRPOERATrainer
from era_rl.runs.folder import locked

_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


@dataclass
class TrainArguments:
    """Data set and reward of a training run."""

    dataset_name: str = field(
        metadata={"help": "Hub id or local .jsonl, .json, .csv or .parquet file."}
    )
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration on the Hub."})
    dataset_split: str = field(default="train", metadata={"help": "Split to train on."})
    prompt_column: str = field(
        default="prompt", metadata={"help": "Column of prompts, texts or conversations."}
    )
    answer_column: str = field(
        default="answer",
        metadata={"help": "Column of right answers; a.b is field b of column a."},
    )
    chat: bool = field(
        default=False, metadata={"help": "Send text prompts through the chat template."}
    )
    reward: str = field(
        default="era_llm.rewards.math_reward",
        metadata={"help": "Dotted name of a reward function; it is given `answer`."},
    )


def train(arguments: list[str]) -> None:
    """Train a model with GRPO and ERA.

    Args:
        arguments: Options of `TrainArguments`, `GRPOERAConfig` and TRL's `ModelConfig`, or
            `--config FILE`; `--recipe NAME` stands for the file of a recipe of this package.

    Raises:
        ValueError: If a setting is wrong, the checkpoint to resume from is damaged, or another process
            works in the output folder.
    """
    kinds: Any = (TrainArguments, GRPOERAConfig, ModelConfig)
    parser = TrlParser(kinds, prog="era-llm train")
    options, config, model = parser.parse_args_and_config(with_recipe(arguments))
    config.model_init_kwargs = {
        "revision": model.model_revision,
        "attn_implementation": model.attn_implementation,
        "dtype": model.dtype,
        **(config.model_init_kwargs or {}),
    }
    # what can be refused at once, before the model is loaded
    checkpoint = checkpoint_to_resume(config.resume_from_checkpoint, config.output_dir)
    with locked(config.output_dir) if config.process_index == 0 else nullcontext():
        trainer = GRPOERATrainer(
            model.model_name_or_path,
            resolve(options.reward),
            config,
            train_dataset=load_rows(options),
            quantization_config=get_quantization_config(model),
            peft_config=get_peft_config(model),
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(config.output_dir)


def with_recipe(arguments: list[str]) -> list[str]:
    """Replace `--recipe NAME` by `--config` and the path of the recipe.

    Args:
        arguments: Command-line arguments.

    Raises:
        ValueError: If no recipe has the name.
    """
    if "--recipe" not in arguments:
        return arguments
    at = arguments.index("--recipe")
    name = arguments[at + 1] if at + 1 < len(arguments) else ""
    recipes = {
        Path(str(item)).stem: item for item in files("era_llm").joinpath("recipes").iterdir()
    }
    if name not in recipes:
        raise ValueError(f"recipe must be one of {sorted(recipes)}, got {name!r}")
    return [*arguments[:at], "--config", str(recipes[name]), *arguments[at + 2 :]]


def load_rows(options: TrainArguments) -> Dataset:
    """Load a data set and give it the columns "prompt" and "answer".

    Args:
        options: Where the data are and which columns to take.

    Raises:
        ValueError: If prompt_column or answer_column names no column.
    """
    path = Path(options.dataset_name)
    if path.suffix in _FORMATS and path.is_file():
        rows = load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train")
    else:
        rows = load_dataset(
            options.dataset_name, options.dataset_config, split=options.dataset_split
        )

    prompts = _column_path("prompt_column", options.prompt_column, rows)
    answers = _column_path("answer_column", options.answer_column, rows)

    def row(given: dict[str, Any]) -> dict[str, Any]:
        prompt = reduce(getitem, prompts, given)
        if options.chat and isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        return {"prompt": prompt, "answer": reduce(getitem, answers, given)}

    return rows.map(row, remove_columns=rows.column_names)


def _column_path(option: str, name: str, rows: Dataset) -> list[str]:
    """Return the keys that lead from a row to a value: the column, then fields of a struct."""
    path = [name] if name in rows.column_names else name.split(".")
    fields: Any = rows.features
    for key in path:
        if not isinstance(fields, dict) or key not in fields:
            raise ValueError(f"{option} must name a column of {rows.features}, got {name!r}")
        fields = fields[key]
    return path


def resolve(dotted: str) -> Any:
    """Return the object of a dotted name.

    Args:
        dotted: For example "era_llm.rewards.math_reward".

    Raises:
        ValueError: If the name has no module part.
    """
    module, _, name = dotted.rpartition(".")
    if not module:
        raise ValueError(f"reward must be a dotted name such as package.function, got {dotted!r}")
    return getattr(import_module(module), name)
