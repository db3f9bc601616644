"""Keeps the language-model tests offline and lets TRL's own deprecation warnings pass."""

import os
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Warnings that other libraries raise about themselves are no errors of this one."""
    for item in items:
        if "tests/llm" in item.path.as_posix():
            item.add_marker(pytest.mark.filterwarnings("ignore::FutureWarning"))


@pytest.fixture(scope="session")
def toy() -> Any:
    """Return a toy model that earns the reward now and then."""
    from benchmarks.llm.toy import pretrained_toy

    return pretrained_toy(0, steps=150)
