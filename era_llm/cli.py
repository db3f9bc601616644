"""The era-llm command: train, eval, calibrate."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from yaml import YAMLError

from era_rl.runs.command import Parser, count, exit_status, refuse_old
from era_rl.runs.folder import writable_file, write_json


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status: 2, with one line of text, for bad input.

    Args:
        arguments: The arguments; those of the process if None.
    """
    given = sys.argv[1:] if arguments is None else arguments
    refused = (ValueError, OSError, ImportError, YAMLError)
    return exit_status("era-llm", lambda: _run(given), refused, extra="llm")


def _run(given: list[str]) -> None:
    if given[:1] == ["toy"]:
        raise ValueError("toy is now python -m benchmarks.llm.toy_runs, in a checkout")
    if given[:1] == ["train"]:
        from era_llm.train import train

        return train(given[1:])
    options = _parser().parse_args(given)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="era-llm", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("train", help="GRPO with ERA; era-llm train --help lists TRL's options")

    evaluation = commands.add_parser("eval", help="pass@k and avg@k on a data set")
    _add_model(evaluation, 16, _evaluate)
    evaluation.add_argument("--k", type=count, nargs="+", help="default: 1, 8, 16, up to --samples")

    calibration = commands.add_parser("calibrate", help="thresholds from the initial model")
    _add_model(calibration, 8, _calibrate)
    calibration.add_argument("--top-ratio", type=float, default=0.2, help="era_top_ratio")
    calibration.add_argument("--tokens", default="top", help="era_tokens: top, bottom or random")
    return parser


def _add_model(
    parser: argparse.ArgumentParser, samples: int, run: Callable[[argparse.Namespace], None]
) -> None:
    parser.add_argument("--model", required=True, help="model id or local path")
    parser.add_argument("--data", required=True, help="Hub id, or local .jsonl, .csv or .parquet")
    parser.add_argument("--split", default="test", help="of a data set of the Hub")
    parser.add_argument("--prompt-column", default="prompt")
    parser.add_argument("--answer-column", help="what rewards get as answer; a.b is field b of a")
    parser.add_argument("--chat", action="store_true", help="use the chat template on text prompts")
    parser.add_argument("--system-prompt", help="first message of every conversation")
    parser.add_argument("--limit", type=count, help="use the first prompts alone")
    parser.add_argument("--reward", nargs="+", default=[], help="dotted names of functions")
    parser.add_argument("--reward-weights", type=float, nargs="+", help="one for each reward")
    parser.add_argument("--samples", type=count, default=samples, help="samples of each prompt")
    parser.add_argument("--max-new-tokens", type=count, default=1024)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--batch-size", type=count, default=16)
    dtypes = ("auto", "float32", "bfloat16", "float16")
    parser.add_argument("--dtype", default="auto", choices=dtypes)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the result to this JSON file")
    refuse_old(parser, {"--output": "--out"})
    parser.set_defaults(run=run)


def _load(options: argparse.Namespace) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return model, tokenizer, rows and rewards, and the arguments of sampling and weighing."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from era_llm.data import DataArguments, load_rewards, load_rows
    from era_rl.devices import resolved_device

    if options.out is not None:
        writable_file(options.out)
    torch.manual_seed(options.seed)
    source = DataArguments(options.data, dataset_split=options.split)
    for name in ("prompt_column", "answer_column", "chat", "system_prompt"):
        setattr(source, name, getattr(options, name))
    rows = load_rows(source)
    rewards = load_rewards(options.reward, rows.column_names)
    weights = options.reward_weights
    if weights is not None and len(weights) != len(rewards):
        raise ValueError(f"--reward-weights must be {len(rewards)} numbers, got {weights}")
    model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    names = ("samples", "max_new_tokens", "temperature", "batch_size")
    sampling = {name: getattr(options, name) for name in names}
    model = model.to(resolved_device(options.device))
    loaded = model, tokenizer, rows.to_list()[: options.limit], rewards
    return loaded, {**sampling, "weights": weights}


def _evaluate(options: argparse.Namespace) -> None:
    from era_llm.evaluate import evaluate

    options.reward = options.reward or ["era_llm.rewards.math_reward"]
    loaded, sampling = _load(options)
    ks = options.k or [k for k in (1, 8, 16) if k <= options.samples]
    _report({"prompts": len(loaded[2]), **evaluate(*loaded, ks=ks, **sampling)}, options.out)


def _calibrate(options: argparse.Namespace) -> None:
    from era_llm.calibrate import calibrate

    loaded, sampling = _load(options)
    found = calibrate(*loaded, ratio=options.top_ratio, tokens=options.tokens, **sampling)
    _report(found, options.out)


def _report(result: dict[str, Any], out: Path | None) -> None:
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if out is not None:
        write_json(out, result)


if __name__ == "__main__":
    sys.exit(main())
