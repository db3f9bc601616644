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
# test_utils.py and test_logger.py look at the hosts' tools, with packages that ours do not need
CHECKOUTS = {"ERA_SB3_CHECKOUT": ["--ignore=tests/test_utils.py"], "ERA_SB3_CONTRIB_CHECKOUT": []}


@pytest.mark.slow
@pytest.mark.timeout(5_400)
@pytest.mark.parametrize("variable", CHECKOUTS)
def test_passes_the_hosts_own_tests(
    variable: str, record_testsuite_property: Callable[[str, object], None]
) -> None:
    checkout = os.environ.get(variable)
    if checkout is None:
        pytest.skip(f"{variable} names no checkout")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "substitute", "-p", "no:cacheprovider"]
    options = [*CHECKOUTS[variable], "-W", "ignore", "--tb=short", "tests"]
    process = subprocess.run(
        [*command, *options],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = process.stdout.splitlines()[-1]
    record_testsuite_property(variable, summary)
    assert process.returncode == 0, process.stdout[-20_000:]
    assert int(re.search(r"(\d+) passed", summary)[1]) >= 40  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_passes_trls_own_tests(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    """Of GRPOTrainer and RLOOTrainer, on a stand-in for the Hub that is built in code."""
    checkout = os.environ.get("ERA_TRL_CHECKOUT")
    if checkout is None:
        pytest.skip("ERA_TRL_CHECKOUT names no checkout")
    import trl_hub  # loads transformers

    trl_hub.build(tmp_path)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "trl_substitute",
        "-p",
        "no:cacheprovider",
    ]
    options = ["--rootdir", checkout, "-W", "ignore", "--tb=short", "--timeout=120"]
    path = f"{HERE}{os.pathsep}{HERE.parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    files = [f"{checkout}/tests/test_{name}_trainer.py" for name in ("grpo", "rloo")]
    process = subprocess.run(
        [*command, *options, *files],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = process.stdout.splitlines()[-1]
    record_testsuite_property("ERA_TRL_CHECKOUT", summary)
    assert process.returncode == 0, process.stdout[-20_000:]
    assert int(re.search(r"(\d+) passed", summary)[1]) >= 150  # type: ignore[index]
