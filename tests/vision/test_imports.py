import subprocess
import sys

import era_vision

_CODE = """
import sys, era_vision
assert not {"torch", "torchvision"} & set(sys.modules), "names must load on first use"
era_vision.ERAHead
assert "torchvision" not in sys.modules, "the head needs torch and tensordict alone"
era_vision.Trainer, era_vision.export_model
loaded = {"stable_baselines3", "gymnasium", "torchrl", "era_llm"} & set(sys.modules)
assert not loaded, loaded
"""


def test_era_vision_loads_no_reinforcement_learning_library():
    run = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_public_name_exists():
    for name in era_vision.__all__:
        assert callable(getattr(era_vision, name))
    assert set(era_vision.__all__) <= set(dir(era_vision))
    assert not hasattr(era_vision, "Unknown")
