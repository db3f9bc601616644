"""Results of suites: one file a run, never mixed across configurations."""

from pathlib import Path
from typing import Any

from benchmarks.suite import TrainingRun
from era_rl.runs.record import provenance, read_record

RESULTS = Path("benchmarks/results")
SCRATCH = Path("runs/benchmarks")
PACKAGES = ("torch", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "mujoco")
PACKAGES += ("dm_control", "numpy")


def read(run: TrainingRun, results: Path) -> dict[str, Any] | None:
    """Return the result of a run, or None; SettingsError if it is damaged or of another config."""
    return read_record(run.result(results), run.config)


def circumstances() -> dict[str, Any]:
    """Return versions, git commit and machine, without its name."""
    return provenance(PACKAGES, Path(__file__).parent)
