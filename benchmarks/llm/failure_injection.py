"""Failure injection: ERA on the lowest-entropy or random tokens in place of the highest.

    python -m benchmarks.llm.failure_injection

If the forking tokens carry the method, selecting others must show in entropy and in the perplexity
of held-out text of the toy language. The chosen tokens set H_resp; in the "response" arms all tokens
of a qualifying response are scaled, in the "forking" arms the chosen ones alone. Runs start from the
pre-trained model ("scratch"), or continue from a model trained with ERA on the highest-entropy
tokens ("continued").

At one threshold the three choices qualify very different shares of the responses, since H_resp of
other tokens is lower. So the "matched" arms ("response") take thresholds that stand where 1.5 nats
stand for the highest-entropy tokens: between the 1% and the 5% quantile of the initial models
(`era-llm calibrate --tokens bottom`). A run that has its file is not repeated. table.md is written
when no run of the seeds 0, 1 and 2 is missing; until then the command ends with a non-zero status.
"""

import sys
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.llm.toy import pretrained_toy
from benchmarks.llm.toy_runs import ERA, MEASURES, is_done, run, table
from era_rl.runs.command import Parser
from era_rl.runs.folder import read_json, write_json

RESULTS = Path("benchmarks/results/llm/failure_injection")
ARMS: dict[str, dict[str, Any]] = {
    "no-era": {"era_enabled": False},
    **{
        f"{tokens}-{apply_to}": {**ERA, "era_tokens": tokens, "era_apply_to": apply_to}
        for apply_to in ("response", "forking")
        for tokens in ("top", "bottom", "random")
    },
    "bottom-matched": {**ERA, "era_tokens": "bottom", "era_entropy_low": 0.6},
    "random-matched": {**ERA, "era_tokens": "random", "era_entropy_low": 0.7},
}
SEEDS = (0, 1, 2)
CHECKPOINT = "top-response"
STEPS, MORE_STEPS = 260, 130
# A fresh Adam at the full rate unlearns most of the checkpoint's gain in its first ten steps.
WARM_UP = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 20}
STARTS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "scratch": (0, STEPS, {}),
    "continued": (1000, MORE_STEPS, WARM_UP),
}
"""What is added to the seed, the optimizer steps and the further options, by where a run starts."""
COLUMNS = (*MEASURES, "sharpened")


def main() -> None:
    """Run what is missing, then print the table, and write it if it is complete."""
    parser = Parser(prog="python -m benchmarks.llm.failure_injection", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--table-only", action="store_true", help="the table of what has been run")
    options = parser.parse_args()
    for seed in [] if options.table_only else options.seeds:
        run_seed(options.out, seed)
    seeds = sorted({*SEEDS, *options.seeds})
    text = report(options.out, seeds)
    sys.stdout.write(text + "\n")
    missing = sum(len(_missing(options.out, start, s)) for start in STARTS for s in SEEDS)
    if missing:
        sys.exit(
            f"incomplete, {missing} runs of seeds {SEEDS} are missing: table.md is not written"
        )
    (options.out / "table.md").write_text(text + "\n")


def report(output: Path, seeds: list[int]) -> str:
    """Return the table of the runs that have files; its second column says how many seeds have.

    Raises:
        ValueError: If there is no run.
    """
    found = {}
    for start, arm in product(STARTS, ARMS):
        paths = [_path(output, start, arm, seed) for seed in seeds]
        if runs := [read_json(path) for path in paths if path.exists()]:
            found[f"{start}: {arm}"] = runs
    if not found:
        raise ValueError(f"out={str(output)!r} has no run of the seeds {seeds}")
    return table(found, COLUMNS)


def run_seed(output: Path, seed: int) -> None:
    """Run the missing runs of one seed, that of model, data and sampling."""
    scratch, continued = (_missing(output, start, seed) for start in ("scratch", "continued"))
    model = pretrained_toy(seed) if scratch or continued else None
    for arm in scratch:
        _run(output, "scratch", arm, seed, model)
    if continued:
        # Deterministic, so each continued run of the seed starts from the same weights.
        trained = run(model, seed, STEPS, ARMS[CHECKPOINT])[1]
        for arm in continued:
            _run(output, "continued", arm, seed, trained)


def _run(output: Path, start: str, arm: str, seed: int, model: Any) -> None:
    """Run, and record with the final measures the mean share of responses that were sharpened."""
    record, _ = run(model, *_settings(start, arm, seed))
    record["final"]["sharpened"] = mean(record["curves"]["era/frac_sharpened"])
    write_json(_path(output, start, arm, seed), record)


def _missing(output: Path, start: str, seed: int) -> list[str]:
    return [
        arm
        for arm in ARMS
        if not is_done(_path(output, start, arm, seed), *_settings(start, arm, seed))
    ]


def _settings(start: str, arm: str, seed: int) -> tuple[int, int, dict[str, Any]]:
    """Return the seed, the optimizer steps and the options of a run."""
    more, steps, changes = STARTS[start]
    return seed + more, steps, {**ARMS[arm], **changes}


def _path(output: Path, start: str, arm: str, seed: int) -> Path:
    return output / f"{start}-{arm}-seed{seed}.json"


if __name__ == "__main__":
    main()
