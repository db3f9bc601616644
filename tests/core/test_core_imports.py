"""Importing a part loads that part's dependencies and no more."""

import subprocess
import sys

import pytest

WATCHED = {
    "torch",
    "tensordict",
    "torchrl",
    "stable_baselines3",
    "gymnasium",
    "torchvision",
    "transformers",
    "trl",
    "mujoco",
    "dm_control",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "torch._dynamo",
}


STAGES = {
    "import era_rl; dir(era_rl)": set(),
    "import era_rl.core; from era_rl import TruncatedGaussianHead": {"torch"},
    "import era_rl.networks": set(),
    "import era_rl.sb3": {"stable_baselines3", "gymnasium"},
    "TruncatedGaussianHead(2).as_tensordict_module()": {"tensordict", "torch._dynamo"},
}
"""Statements, and what each adds to what is loaded."""


def test_each_part_loads_what_it_needs_and_no_more() -> None:
    """One interpreter: torch takes seconds to load, so a part comes after those that it builds on."""
    lines = [
        "import sys",
        "def show(): sys.stdout.write(' '.join(sys.modules) + '\\n')",
        *(f"{statement}\nshow()" for statement in STAGES),
    ]
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    before: set[str] = set()
    for (statement, added), modules in zip(STAGES.items(), result.stdout.splitlines(), strict=True):
        found = WATCHED & set(modules.split())
        assert found - before == added, statement
        before = found


def test_unknown_names_are_attribute_errors() -> None:
    import era_rl

    assert set(dir(era_rl)) >= {"TruncatedNormal", "gaussian_era"}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = era_rl.nothing
