from multiprocessing import forkserver, get_context
from pathlib import Path

import pytest

from era_vision.config import Config


@pytest.fixture(scope="session")
def _forkserver() -> None:
    """The process that others are forked from, which imports the trainer once for all of them."""
    get_context("forkserver").set_forkserver_preload(["era_vision.train"])
    forkserver.ensure_running()


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A run of about a second."""
    return Config(
        data="fake",
        image_size=8,
        batch_size=128,
        epochs=2,
        lr=0.01,
        device="cpu",
        progress=False,
        out=str(tmp_path / "out"),
    )
