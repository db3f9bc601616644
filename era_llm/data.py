"""Data sets and reward functions by name, for training and evaluation alike."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from inspect import Parameter, signature
from operator import getitem
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from era_llm.options import option
from era_llm.rewards import math_reward, math_verify

Reward = Callable[..., Any]

_FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_FROM_TRL = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric"}


@dataclass
class DataArguments:
    """Data sets and rewards of a run."""

    dataset_name: str = option("Hub id or local .jsonl, .json, .csv or .parquet file.")
    dataset_config: str | None = option("Configuration on the Hub.", default=None)
    dataset_split: str = option("Split to train on.", default="train")
    eval_dataset_name: str | None = option("As dataset_name, for eval_strategy.", default=None)
    eval_dataset_split: str = option("Split to evaluate on.", default="test")
    prompt_column: str = option("Column of prompts, texts or conversations.", default="prompt")
    answer_column: str | None = option(
        "Column that rewards get as answer; a.b is field b of column a.", default=None
    )
    chat: bool = option("Send text prompts through the chat template.", default=False)
    system_prompt: str | None = option(
        "First message of every conversation; text prompts become one.", default=None
    )
    reward: list[str] = option(
        "Dotted names of reward functions, of the working folder too; they are given every column. "
        "reward_weights weighs them.",
        default_factory=lambda: ["era_llm.rewards.math_reward"],
    )

    def __post_init__(self) -> None:
        """Take the name of one reward for a list: a configuration file may have it so."""
        self.reward = [self.reward] if isinstance(self.reward, str) else self.reward


def load_rows(options: DataArguments, evaluation: bool = False) -> Dataset:
    """Load a data set, with its columns and "prompt", and "answer" where there is an answer column.

    Raises:
        ValueError: If the file is absent, or prompt_column or answer_column names no column.
    """
    name = (options.eval_dataset_name if evaluation else None) or options.dataset_name
    path = Path(name)
    if path.suffix in _FORMATS:
        if not path.is_file():  # else datasets asks the Hub for it, for half a minute
            raise ValueError(f"there is no file {name}")
        try:
            rows = load_dataset(_FORMATS[path.suffix], data_files=str(path), split="train")
        except (StopIteration, DatasetGenerationError) as error:  # the first of an empty file
            raise ValueError(f"{name} has no rows, or is damaged: {error.__cause__}") from error
    else:
        split = options.eval_dataset_split if evaluation else options.dataset_split
        rows = load_dataset(name, options.dataset_config, split=split)

    places = {"prompt": _column_path("prompt_column", options.prompt_column, rows)}
    if options.answer_column is not None:
        places["answer"] = _column_path("answer_column", options.answer_column, rows)

    def row(given: dict[str, Any]) -> dict[str, Any]:
        found = {name: reduce(getitem, place, given) for name, place in places.items()}
        if not isinstance(found["prompt"], str | list):
            raise ValueError(f"prompt_column must have texts or conversations, not {given!r:.80}")
        prompt = conversation(found["prompt"], options.chat, options.system_prompt)
        return {**found, "prompt": prompt}

    return rows.map(row)


def conversation(prompt: Any, chat: bool = False, system: str | None = None) -> Any:
    """Return a prompt as a conversation where one is asked for, with a system prompt first."""
    if isinstance(prompt, str) and (chat or system is not None):
        prompt = [{"role": "user", "content": prompt}]
    return prompt if system is None else [{"role": "system", "content": system}, *prompt]


def _column_path(option: str, name: str, rows: Dataset) -> list[str]:
    """Return the keys that lead from a row to a value: the column, then fields of a struct."""
    path = [name] if name in rows.column_names else name.split(".")
    fields: Any = rows.features
    for key in path:
        if not isinstance(fields, dict) or key not in fields:
            raise ValueError(f"{option} must name a column of {rows.features}, got {name!r}")
        fields = fields[key]
    return path


def load_rewards(names: Sequence[str], columns: Sequence[str]) -> list[Reward]:
    """Return the reward functions of dotted names, such as "package.function".

    Raises:
        ValueError: If there is no such function, or it needs an argument that is no column.
    """
    if os.getcwd() not in sys.path:  # the console script has its own folder there
        sys.path.insert(0, os.getcwd())
    functions = [_resolve(name) for name in names]
    if math_reward in functions:
        math_verify()  # an error now, not after the first samples
    for name, function in zip(names, functions, strict=True):
        taken = signature(function).parameters.values()
        needed = {p.name for p in taken if p.default is p.empty and p.kind not in _VARIABLE}
        if missing := needed - _FROM_TRL - {*columns}:
            raise ValueError(
                f"reward {name!r} needs the columns {sorted(missing)}, the data set has {[*columns]}"
            )
    return functions


def _resolve(name: str) -> Reward:
    try:
        found = resolve_name(":".join(name.rsplit(".", 1)))
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"reward {name!r} cannot be loaded: {error}") from error
    if isinstance(found, type) or not callable(found):
        raise ValueError(f"reward {name!r} must name a function, not {found!r:.60}")
    return found
