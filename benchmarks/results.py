"""Where results stand, and what they were measured with."""

from pathlib import Path
from typing import Any

from era_rl.runs.record import provenance

RESULTS = Path("benchmarks/results")
SCRATCH = Path("runs/benchmarks")
PACKAGES = (
    *("torch", "stable-baselines3", "sb3-contrib", "rl_zoo3", "gymnasium", "mujoco", "dm_control"),
    *("numpy", "torchrl", "tensordict", "ray", "torchvision", "torchmetrics", "accelerate"),
    *("transformers", "trl", "box2d"),
)


def circumstances() -> dict[str, Any]:
    """Return versions, git commit and machine, without its name."""
    return provenance(PACKAGES, Path(__file__).parent)
