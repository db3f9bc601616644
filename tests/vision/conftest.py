from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from era_vision.config import Config


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """Each test may choose its own device and precision, which accelerate fixes once a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run of about a second."""
    return Config(
        data="fake",
        image_size=8,
        batch_size=128,
        epochs=2,
        lr=0.01,
        cpu=True,
        progress=False,
        out=str(tmp_path / "out"),
    )
