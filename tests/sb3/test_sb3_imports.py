"""Importing the adapter loads SB3 and torch, and none of the other hosts."""

import subprocess
import sys

import era_rl
import era_rl.sb3

OTHERS = {"torchrl", "torchvision", "transformers", "trl", "mujoco", "dm_control"}


def test_the_adapter_loads_no_other_host() -> None:
    code = "import sys, era_rl.sb3; sys.stdout.write(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert "stable_baselines3" in loaded
    assert not loaded & OTHERS


def test_the_package_names_the_public_classes() -> None:
    assert era_rl.SACERA is era_rl.sb3.SACERA
    assert era_rl.EntropyMonitor is era_rl.sb3.EntropyMonitor
    assert set(era_rl.sb3.__all__) <= set(dir(era_rl.sb3))
