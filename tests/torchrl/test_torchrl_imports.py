"""The adapter loads TorchRL, and none of the other hosts."""

import subprocess
import sys

OTHERS = {"stable_baselines3", "sb3_contrib", "era_rl.sb3", "era_vision", "era_llm", "trl"}


def test_the_adapter_loads_no_other_host() -> None:
    code = "import sys, era_rl.torchrl.trainer; sys.stdout.write(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.split())
    assert "torchrl" in loaded
    assert not loaded & OTHERS
