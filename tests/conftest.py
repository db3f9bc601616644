"""One thread per process, and GPU tests skipped with a reason where there is no GPU."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# without a display, mujoco's default backend warns when it is imported
os.environ.setdefault("MUJOCO_GL", "disabled")

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs a CUDA device; torch.cuda.is_available() is False")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(no_gpu)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _forget(package: str) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] == package]
    return {name: sys.modules.pop(name) for name in names}


@pytest.fixture
def fake_humanoid_bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the stand-in for the package humanoid_bench in its place."""
    _forget("humanoid_bench")
    jax = _forget("jax")
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "envs" / "fake_humanoid_bench"))
    yield
    _forget("humanoid_bench")
    _forget("jax")
    sys.modules.update(jax)
