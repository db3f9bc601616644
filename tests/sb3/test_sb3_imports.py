"""Importing the adapter loads SB3 and torch, and none of the other hosts."""

import subprocess
import sys

import era_rl
import era_rl.sb3

OTHERS = {"torchrl", "torchvision", "transformers", "trl", "mujoco", "dm_control", "matplotlib"}


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nsys.stdout.write(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_the_adapter_loads_no_other_host() -> None:
    # SB3 itself loads matplotlib (for its logger) and, where it can, others
    by_sb3 = _loaded_by("import stable_baselines3")
    loaded = _loaded_by("import era_rl.sb3")
    assert "stable_baselines3" in loaded
    assert loaded & OTHERS <= by_sb3 & {"matplotlib"}


def test_the_package_names_the_public_classes() -> None:
    assert era_rl.SACERA is era_rl.sb3.SACERA
    assert era_rl.EntropyMonitor is era_rl.sb3.EntropyMonitor
    assert set(era_rl.sb3.__all__) <= set(dir(era_rl.sb3))
