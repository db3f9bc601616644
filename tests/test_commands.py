"""Every command runs as a module, and reads its arguments before it loads what takes seconds."""

import subprocess
import sys

import pytest

COMMANDS = {
    "era_rl.zoo.cli": ["train", "--help"],
    "era_rl.demo": ["--help"],
    "era_vision.cli": ["train", "--help"],
    "era_llm.cli": ["eval", "--help"],
    "benchmarks.__main__": ["run", "--help"],
    "benchmarks.gpu.__main__": ["run", "--help"],
}
CODE = """
import runpy, sys
module = sys.argv.pop(1)
try:
    runpy.run_module(module, run_name="__main__")
finally:
    sys.stderr.write(" ".join(sys.modules))
"""


@pytest.mark.parametrize("module", COMMANDS)
def test_arguments_are_read_before_torch_is_loaded(module: str) -> None:
    """--help took 5 s of era-demo and of the benchmarks; none of a command's loads torch."""
    command = [sys.executable, "-c", CODE, module, *COMMANDS[module]]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usage:" in result.stdout
    assert not {"torch", "numpy", "gymnasium", "transformers"} & set(result.stderr.split())
