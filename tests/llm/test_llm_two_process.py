"""Two processes over gloo train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_process_run.py")
ROOT = Path(__file__).parents[2]


# Without --multi_gpu, accelerate starts one process where it sees no GPU. Port 0 is any free one.
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port 0"


def _launch(output: Path, launcher: list[str], batch_size: int) -> dict[str, Any]:
    command = [sys.executable, *launcher, str(SCRIPT), str(output), str(batch_size)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(SCRIPT.parent))),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one = _launch(tmp_path / "one.json", [], 8)
    two = _launch(tmp_path / "two.json", LAUNCH.split(), 4)
    assert (one["world"], two["world"]) == (1, 2)
    first = one["logs"][0]
    assert first["era/frac_sharpened"] > 0
    for left, right in zip(one["logs"], two["logs"], strict=True):
        keys = [k for k in left if k.startswith("era/") or k in ("reward", "entropy", "grad_norm")]
        assert [right[k] for k in keys] == pytest.approx([left[k] for k in keys], abs=1e-5)
    for name, values in one["weights"].items():
        difference = torch.tensor(values) - torch.tensor(two["weights"][name])
        assert difference.abs().max() < 1e-5, name
