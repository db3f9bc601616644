"""The era-llm command: train, eval, calibrate, toy."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from era_rl.runs.folder import write_json


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The arguments; those of the process if None.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if given[:1] == ["train"]:
        from era_llm.train import train

        train(given[1:])
        return
    options = _parser().parse_args(given)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="era-llm", description=__doc__)
    commands = parser.add_subparsers(required=True)
    commands.add_parser("train", help="GRPO with ERA; era-llm train --help lists TRL's options")

    evaluation = commands.add_parser("eval", help="pass@k and avg@k on a local data set file")
    _add_model(evaluation)
    evaluation.add_argument("--samples", type=int, default=16, help="samples of each prompt")
    evaluation.add_argument("--k", type=int, nargs="+", default=[1, 8, 16])
    evaluation.add_argument("--reward", default="era_llm.rewards.math_reward")
    evaluation.set_defaults(run=_evaluate)

    calibration = commands.add_parser("calibrate", help="thresholds from the initial model")
    _add_model(calibration)
    calibration.add_argument("--samples", type=int, default=8, help="responses to each prompt")
    calibration.add_argument("--top-ratio", type=float, default=0.2, help="era_top_ratio")
    calibration.add_argument("--tokens", default="top", help="era_tokens: top, bottom or random")
    calibration.set_defaults(run=_calibrate)

    toy = commands.add_parser("toy", help="the offline comparison: a table and a figure")
    toy.add_argument("--output", type=Path, default=Path("toy"))
    toy.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    toy.add_argument("--steps", type=int, default=260)
    toy.set_defaults(run=_toy)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="model id or local path")
    parser.add_argument("--data", required=True, help="local .jsonl, .json, .csv or .parquet file")
    parser.add_argument("--prompt-column", default="prompt")
    parser.add_argument("--answer-column", default="answer")
    parser.add_argument("--chat", action="store_true", help="use the chat template on text prompts")
    parser.add_argument("--limit", type=int, help="use the first prompts alone")
    parser.add_argument("--max-new-tokens", type=int, default=1024)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the result to this JSON file")


def _load(options: argparse.Namespace) -> tuple[Any, Any, list[dict[str, Any]], dict[str, Any]]:
    """Return the model, its tokenizer, the rows and the arguments of sampling."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from era_llm.evaluate import prompt_text
    from era_llm.train import TrainArguments, load_rows

    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype)
    model = model.to(device)
    tokenizer = AutoTokenizer.from_pretrained(options.model, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    source = TrainArguments(
        options.data,
        prompt_column=options.prompt_column,
        answer_column=options.answer_column,
        chat=options.chat,
    )
    rows = load_rows(source).to_list()[: options.limit]
    for row in rows:
        row["prompt"] = prompt_text(tokenizer, row["prompt"])
    names = ("max_new_tokens", "temperature", "batch_size")
    return model, tokenizer, rows, {name: getattr(options, name) for name in names}


def _evaluate(options: argparse.Namespace) -> None:
    from era_llm.evaluate import evaluate
    from era_llm.train import resolve

    model, tokenizer, rows, sampling = _load(options)
    reward = resolve(options.reward)
    scores = evaluate(model, tokenizer, rows, reward, options.samples, options.k, **sampling)
    _report({"prompts": len(rows), **scores}, options.output)


def _calibrate(options: argparse.Namespace) -> None:
    from era_llm.calibrate import calibrate

    model, tokenizer, rows, sampling = _load(options)
    prompts = [row["prompt"] for row in rows]
    selection = options.top_ratio, options.tokens
    found = calibrate(model, tokenizer, prompts, options.samples, *selection, **sampling)
    _report(found, options.output)


def _toy(options: argparse.Namespace) -> None:
    from era_llm.toy_runs import compare

    sys.stdout.write(compare(options.output, options.seeds, options.steps) + "\n")


def _report(result: dict[str, Any], output: Path | None) -> None:
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if output is not None:
        write_json(output, result)
