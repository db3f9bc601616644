"""Tables of the raw results, as Markdown.

    python -m benchmarks.vision.report

Figures are means over seeds with the lowest and highest seed in brackets; nothing is run.
"""

import statistics
from collections import defaultdict
from typing import Any

from benchmarks.document import Table, markdown_block
from benchmarks.vision.results import RESULTS
from era_rl.runs.folder import in_one_piece, read_json

COLUMNS = ("top1", "nll", "raw_nll", "ece", "raw_ece", "train_entropy_min")


def spread(values: list[float]) -> str:
    """Return "mean [lowest, highest]" with three decimals."""
    return f"{statistics.mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    return markdown_block(Table(header, rows))


def by_arm(runs: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the runs of each arm: a key is the arm, then " seed " and the seed."""
    arms = defaultdict(list)
    for key, run in runs.items():
        arms[key.partition(" seed ")[0]].append(run)
    return arms


def ablation(runs: dict[str, Any]) -> str:
    """Return the table of one data set: an arm a row."""
    rows = []
    for arm, repeated in by_arm(runs).items():
        metrics = [run["metrics"] for run in repeated]
        cells = [spread([m[column] for m in metrics]) for column in COLUMNS]
        names = arm.replace("lambert None", "none -").split(" ")
        rows.append([*names, str(len(metrics)), *cells])
    return table(["head", "H0", "with", "seeds", *COLUMNS], rows)


def confidence(runs: dict[str, Any]) -> str:
    """Return the gradient norms by gap, and the accuracy by epoch after renaming the classes."""
    # the first runs are the norms themselves
    norms = {
        key.removeprefix("gradient "): run.get("norms", run)
        for key, run in runs.items()
        if key.startswith("gradient")
    }
    gaps = list(next(iter(norms.values())))
    first = table(
        ["gap", *gaps],
        [[name, *(f"{run[gap]:.2g}" for gap in gaps)] for name, run in norms.items()],
    )
    rows = []
    for arm, repeated in by_arm(runs).items():
        if arm.startswith("relabel"):
            epochs = zip(*(run["relearned"] for run in repeated), strict=True)
            cells = [spread(list(values)) for values in epochs]
            rows.append([arm.removeprefix("relabel "), str(len(repeated)), *cells])
    epochs = [f"epoch {epoch}" for epoch in range(len(rows[0]) - 2)]
    return f"{first}\n\n{table(['head', 'seeds', *epochs], rows)}"


def overhead(runs: dict[str, Any]) -> str:
    """Return the ratio of a step with a head to one without, and the head's own share of a step."""
    rows = []
    for case, run in runs.items():
        bare = run["step_seconds"]["none"]
        for method in run["ratio"]:
            ratios = [a / b for a, b in zip(run["step_seconds"][method], bare, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            share = f"{run['head_share'][method]:.2%}"
            rows.append([case, method, f"{middle:.3f} [{low:.3f}, {high:.3f}]", share])
    return table(["case", "method", "step ratio, median [quartiles]", "head alone / step"], rows)


SECTIONS = {
    "ablation-digits": ("Floor, label smoothing and dropout on digits", ablation),
    "ablation-fashion-mnist": ("The same on a part of Fashion-MNIST", ablation),
    "confidence": ("Confidently wrong samples", confidence),
    "overhead": ("Overhead of the head", overhead),
}


def main() -> None:
    """Write tables.md beside the results."""
    parts = ["Written by `python -m benchmarks.vision.report`."]
    for name, (title, section) in SECTIONS.items():
        path = RESULTS / f"{name}.json"
        if path.is_file():
            command = f"python -m benchmarks.vision.{name.partition('-')[0]}"
            parts.append(f"## {title}\n\n`{command}`\n\n{section(read_json(path)['runs'])}")
    with in_one_piece(RESULTS / "tables.md") as part:
        part.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
