"""Fixtures of the TorchRL tests."""

from collections.abc import Iterator

import pytest
import torch
import toy  # noqa: F401 (registers Toy-v0)


@pytest.fixture
def float64() -> Iterator[None]:
    """Compute in double precision, so that a reference is equal to far below its own effects."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test, which looks at something else, the whole episodes at the end."""
    monkeypatch.setattr(
        "era_rl.torchrl.trainer.Trainer.evaluate",
        lambda trainer: torch.zeros(trainer.config.seeds, 1),
    )
