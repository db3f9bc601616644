"""The hosts' own test files, run with the ERA classes in the place of theirs.

They are in no wheel: name checkouts of stable-baselines3 and sb3-contrib by the environment variables
below. What is deselected, and why, is in ``deselected.py``; CONTRIBUTING.md has the last figures.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
Record = Callable[[str, object], None]
# test_utils.py and test_logger.py look at the hosts' tools, with packages that ours do not need
CHECKOUTS = {"ERA_SB3_CHECKOUT": ["--ignore=tests/test_utils.py"], "ERA_SB3_CONTRIB_CHECKOUT": []}


def _check(
    variable: str, arguments: list[str], least: int, cwd: Path | str, record: Record
) -> None:
    """Run pytest in a process of its own; at least so many tests pass, and none fails."""
    path = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-W",
            "ignore",
            *arguments,
        ],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = process.stdout.splitlines()[-1]
    record(variable, summary)
    assert process.returncode == 0, process.stdout[-20_000:]
    assert int(re.search(r"(\d+) passed", summary)[1]) >= least  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.timeout(5_400)
@pytest.mark.parametrize("variable", CHECKOUTS)
def test_passes_the_hosts_own_tests(variable: str, record_testsuite_property: Record) -> None:
    checkout = os.environ.get(variable)
    if checkout is None:
        pytest.skip(f"{variable} names no checkout")
    arguments = ["-p", "substitute", *CHECKOUTS[variable], "--tb=short", "tests"]
    _check(variable, arguments, 40, checkout, record_testsuite_property)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_passes_trls_own_tests(tmp_path: Path, record_testsuite_property: Record) -> None:
    """Of GRPOTrainer and RLOOTrainer, on a stand-in for the Hub that is built in code."""
    checkout = os.environ.get("ERA_TRL_CHECKOUT")
    if checkout is None:
        pytest.skip("ERA_TRL_CHECKOUT names no checkout")
    import trl_hub  # loads transformers

    trl_hub.build(tmp_path)
    arguments = ["-p", "trl_substitute", "--rootdir", checkout, "--tb=short", "--timeout=120"]
    arguments += [f"{checkout}/tests/test_{name}_trainer.py" for name in ("grpo", "rloo")]
    _check("ERA_TRL_CHECKOUT", arguments, 150, tmp_path, record_testsuite_property)
