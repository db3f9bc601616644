"""Fixtures of the TorchRL tests."""

import pytest
import torch


@pytest.fixture
def no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare a test, which looks at something else, the whole episodes at the end."""
    monkeypatch.setattr(
        "era_rl.torchrl.trainer.Trainer.evaluate",
        lambda trainer: torch.zeros(trainer.config.seeds, 1),
    )
