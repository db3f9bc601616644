"""Runs on the toy language, one JSON file each, and the comparison of GRPO with and without ERA.

python -m benchmarks.llm.toy_runs --out toy
"""

import sys
import time
from dataclasses import fields
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PrinterCallback

from benchmarks.document import Table, markdown_block
from benchmarks.llm.toy import (
    DIGITS,
    pretrained_toy,
    toy_perplexity,
    toy_prompts,
    toy_reward,
    toy_samples,
    toy_tokenizer,
)
from benchmarks.results import circumstances
from era_llm.trl import GRPOERATrainer
from era_rl.runs.command import Parser
from era_rl.runs.folder import locked, read_json, write_json
from era_rl.runs.record import command_line, read_record

ERA = {"era_enabled": True, "era_entropy_low": 1.5}
ADAPTIVE = {"era_enabled": False, "use_adaptive_entropy": True}
ARMS: dict[str, dict[str, Any]] = {
    "grpo": {"era_enabled": False},
    "adaptive-1.5": {**ADAPTIVE, "entropy_target": 1.5},
    "adaptive-1.1": {**ADAPTIVE, "entropy_target": 1.1},
    "top-quantile": {"era_enabled": False, "top_entropy_quantile": 0.2},
    "era-1.5": ERA,
}
TITLES = {
    "grpo": "GRPO",
    "adaptive-1.5": "GRPO + TRL's adaptive bonus, target 1.5",
    "adaptive-1.1": "GRPO + TRL's adaptive bonus, target 1.1",
    "top-quantile": "GRPO on the fifth of the tokens of highest entropy",
    "era-1.5": "GRPO-ERA, low threshold 1.5",
}
SETTINGS = {
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 10,
    "loss_type": "dapo",
    "beta": 0.0,
    "epsilon": 1.0,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 128,
    "num_generations": 16,
    "max_completion_length": DIGITS,
}
"""Of `GRPOERAConfig`, in all runs."""
CURVES = ("reward", "entropy", "era/h_resp", "era/frac_sharpened", "era/frac_flattened")
MEASURES = ("avg@100", "pass@16", "distinct_correct", "perplexity", "entropy")


def main(arguments: list[str] | None = None) -> None:
    """Run what is missing, and print the table."""
    parser = Parser(prog="python -m benchmarks.llm.toy_runs", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("toy"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=260)
    options = parser.parse_args(arguments)
    sys.stdout.write(compare(options.out, options.seeds, options.steps) + "\n")


def compare(output: Path, seeds: list[int], steps: int) -> str:
    """Run every arm on every seed that has no file yet; write and return the table.

    The arms of a seed, which is that of model, data and sampling, share a pre-trained model.

    Raises:
        ValueError: If the folder has runs of other settings, or another process works in it.
    """
    with locked(output):
        for seed in seeds:
            paths = {arm: output / f"{arm}-seed{seed}.json" for arm in ARMS}
            missing = [a for a, path in paths.items() if not is_done(path, seed, steps, ARMS[a])]
            model = pretrained_toy(seed) if missing else None
            for arm in missing:
                write_json(paths[arm], run(model, seed, steps, ARMS[arm])[0])
    records = {
        TITLES[arm]: [read_json(output / f"{arm}-seed{seed}.json") for seed in seeds]
        for arm in ARMS
    }
    text = table(records)
    (output / "table.md").write_text(text + "\n")
    figure(records, output / "curves.png")
    return text


def run(
    model: Any, seed: int, steps: int, changes: dict[str, Any], kind: Any = GRPOERATrainer
) -> tuple[dict[str, Any], Any]:
    """Train a copy of a toy model; return the record of the run and the trained model.

    Args:
        model: The initial model; left as it is.
        seed: Seed of the training run.
        steps: Optimizer steps.
        changes: Options of the trainer's configuration that set this run apart.
        kind: The trainer.
    """
    # TRL binds a forward to each model it trains, which a deep copy would keep calling.
    trained = type(model)(model.config)
    trained.load_state_dict(model.state_dict())
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        settings = _settings(seed, steps, changes)
        trainer = kind(
            trained,
            toy_reward,
            kind.config_class(output_dir=folder, **settings),
            train_dataset=toy_prompts(),
            processing_class=toy_tokenizer(),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    logs = [log for log in trainer.state.log_history if "reward" in log]
    curves = {name: [log[name] for log in logs] for name in ("step", *CURVES)}
    record = {
        "command": command_line(),
        "seed": seed,
        "config": settings,
        "versions": circumstances()["versions"],
        "seconds": round(time.perf_counter() - started, 1),
        "initial": measure(model),
        "final": {**measure(trained), "entropy": mean(curves["entropy"][-3:])},
        "curves": curves,
    }
    return record, trained


def is_done(
    path: Path, seed: int, steps: int, changes: dict[str, Any], kind: Any = GRPOERATrainer
) -> bool:
    """Return whether the file of a run is there; arguments as those of :func:`run`.

    Raises:
        SettingsError: If it is of a run with other settings, or damaged.
    """
    defaults = {option.name: option.default for option in fields(kind.config_class)}
    return read_record(path, _settings(seed, steps, changes), defaults) is not None


def measure(model: Any) -> dict[str, float]:
    """Return right samples, their diversity and the perplexity of held-out text."""
    return {**toy_samples(model), "perplexity": toy_perplexity(model)}


def table(records: dict[str, list[dict[str, Any]]], measures: tuple[str, ...] = MEASURES) -> str:
    """Return a Markdown table of the runs' final measures, by title: mean and deviation over seeds."""
    initial = next(iter(records.values()))[0]["initial"]
    cells = (f"{initial[name]:.3g}" if name in initial else "" for name in measures)
    rows = [["before training, first seed", "", *cells]]
    for title, found in records.items():
        cells = (_spread([record["final"][name] for record in found]) for name in measures)
        rows.append([title, str(len(found)), *cells])
    return markdown_block(Table(["run", "seeds", *measures], rows))


def figure(records: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw token entropy and reward over steps: mean over seeds, and their range shaded."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 4), layout="constrained")
    axes = drawing.subplots(1, 2)
    for axis, name, label in zip(
        axes, ("entropy", "reward"), ("token entropy (nats)", "reward"), strict=True
    ):
        for title, found in records.items():
            curves = torch.tensor([record["curves"][name] for record in found])
            steps = found[0]["curves"]["step"]
            (line,) = axis.plot(steps, curves.mean(0), label=title)
            low, high = curves.amin(0).tolist(), curves.amax(0).tolist()
            axis.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
        axis.set(xlabel="update", ylabel=label)
    axes[0].legend(fontsize=8)
    drawing.savefig(path, dpi=130)


def _settings(seed: int, steps: int, changes: dict[str, Any]) -> dict[str, Any]:
    return {**SETTINGS, "max_steps": steps, "seed": seed, **changes}


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3g} ± {stdev(values):.2g}" if len(values) > 1 else f"{values[0]:.3g}"


if __name__ == "__main__":
    main()
