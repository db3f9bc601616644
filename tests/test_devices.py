"""Threads are chosen by what the networks gain by them."""

import pytest
import torch

from era_rl import devices


@pytest.mark.parametrize(
    ("asked", "products", "taken"),
    [
        (0, 256 * 256 * 256, 1),
        (0, 256 * 512 * 512, 2),
        (0, 8_192 * 512 * 256, 3),
        (0, 0, 1),
        (2, 256 * 256 * 256, 2),
    ],
    ids=["256 units", "512 units", "large batches", "none", "asked for"],
)
def test_threads_are_those_that_pay(
    asked: int, products: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """min(products / 2^25, all of the machine's), at least 1, unless a number is asked for."""
    monkeypatch.setattr(devices, "ALL_THREADS", 3)
    before = torch.get_num_threads()
    try:
        devices.set_threads(asked, products)
        assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(before)
