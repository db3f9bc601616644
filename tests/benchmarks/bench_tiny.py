"""A suite of seconds, and results made up for it."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.suite import TrainingRun
from benchmarks.trace import COLUMNS
from era_rl.sb3.gradient_conflict import CONFLICT_COLUMNS

TINY = """
description: Tiny.
baseline: sac
steps: 300
evaluate_every: 100
evaluation_episodes: 1
checkpoint_every: 100
seeds: [0, 1]
tasks:
  pendulum: {env: Pendulum-v1, range: [-1600, 0]}
arms:
  sac: {algo: sac, about: stock}
  era: {algo: sac_era, nats_per_dim: -0.5, about: floor}
"""


def tiny(folder: Path, *changes: tuple[str, str]) -> str:
    """Write the tiny suite, with texts replaced, and return its path."""
    text = TINY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = folder / "tiny.yaml"
    path.write_text(text)
    return str(path)


def made_up(run: TrainingRun, level: float, *, evaluations: int = 10) -> dict[str, Any]:
    """Return a result as a run would write it, with returns about ``level``."""
    rng = np.random.default_rng(run.seed)
    steps = [run.steps * (i + 1) // evaluations for i in range(evaluations)]
    trace = {name: rng.normal(size=evaluations).tolist() for name in COLUMNS}
    conflict = {name: rng.uniform(-1.0, 1.0, evaluations).tolist() for name in CONFLICT_COLUMNS}
    measured = run.config["gradient_conflict"]
    return {
        "task": run.task,
        "arm": run.arm,
        "seed": run.seed,
        "config": run.config,
        "config_hash": run.config_hash,
        "action_dim": 1,
        "versions": {"torch": "2"},
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "machine": {"cpu": "made up", "cores": 2},
        "wall_seconds": 10.0,
        "steps_per_second": 10.0,
        "peak_memory_mib": 100.0,
        "resumed_at": [],
        "evaluation": {
            "timesteps": steps,
            "returns": (level + rng.normal(size=(evaluations, 3))).tolist(),
        },
        "trace": {**trace, "timesteps": steps, "floor": [-0.5] * evaluations},
        **({"gradient_conflict": {**conflict, "timesteps": steps}} if measured else {}),
    }
