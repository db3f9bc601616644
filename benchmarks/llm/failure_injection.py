"""Failure injection: ERA on the lowest-entropy or random tokens in place of the highest.

    python -m benchmarks.llm.failure_injection

If the forking tokens carry the method, selecting others must show in entropy and in the perplexity
of held-out text of the toy language. Each choice of tokens sets H_resp; "forking" scales the chosen
tokens alone, "response" all tokens of a qualifying response. Runs start from the pre-trained model
("scratch") or continue from a model trained with ERA on the highest-entropy tokens ("continued").
A run that has its file is not repeated.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from era_llm.toy import pretrained_toy
from era_llm.toy_runs import ERA, read, run, table, write_json

RESULTS = Path("benchmarks/results/llm/failure_injection")
TOKENS = ("top", "bottom", "random")
STARTS = ("scratch", "continued")
APPLY_TO = ("response", "forking")
STEPS, MORE_STEPS = 260, 130


def main() -> None:
    """Run what is missing, then write and print a table for each way to apply the scale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    for seed in options.seeds:
        run_seed(options.output, seed)
    text = table(
        {
            f"{start}: {tokens} tokens, {apply_to}": [
                read(_path(options.output, start, tokens, apply_to, seed)) for seed in options.seeds
            ]
            for start in ("scratch", "continued")
            for apply_to in APPLY_TO
            for tokens in TOKENS
        }
    )
    (options.output / "table.md").write_text(text + "\n")
    sys.stdout.write(text + "\n")


def run_seed(output: Path, seed: int) -> None:
    """Run the missing runs of one seed.

    Args:
        output: Folder of the runs.
        seed: Seed of model, data and sampling.
    """
    for apply_to in APPLY_TO:
        missing = [
            (start, tokens, _path(output, start, tokens, apply_to, seed))
            for start in ("scratch", "continued")
            for tokens in TOKENS
            if not _path(output, start, tokens, apply_to, seed).exists()
        ]
        if not missing:
            continue
        model = pretrained_toy(seed)
        # Deterministic, and so the checkpoint that every continued run of the seed shares.
        first, trained = run(model, seed, STEPS, _changes("top", apply_to))
        for start, tokens, path in missing:
            if (start, tokens) == ("scratch", "top"):
                record = first
            elif start == "scratch":
                record = run(model, seed, STEPS, _changes(tokens, apply_to))[0]
            else:
                record = run(trained, seed + 1000, MORE_STEPS, _changes(tokens, apply_to))[0]
            write_json(path, record)


def _changes(tokens: str, apply_to: str) -> dict[str, Any]:
    return {**ERA, "era_tokens": tokens, "era_apply_to": apply_to}


def _path(output: Path, start: str, tokens: str, apply_to: str, seed: int) -> Path:
    return output / f"{start}-{tokens}-{apply_to}-seed{seed}.json"


if __name__ == "__main__":
    main()
