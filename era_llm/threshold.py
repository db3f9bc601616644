"""A low threshold from the first steps of training: era_entropy_low="auto"."""

from math import inf, nextafter

import torch
from torch import Tensor

STEPS, QUANTILE = 20, 0.1


class RunningLow:
    """The 10% quantile of H_resp over the first 20 optimizer steps, and from then on a constant.

    Before anything is seen it is -inf: nothing is sharpened.

    Attributes:
        seen: H_resp of the responses of the first steps, in nats; what a checkpoint keeps.
    """

    def __init__(self) -> None:
        self.seen: list[float] = []

    def add(self, h_resp: Tensor, step: int) -> None:
        """Take in the responses of a step, of all processes, if it is one of the first."""
        if step < STEPS:
            self.seen += h_resp[~h_resp.isnan()].tolist()

    def value(self, high: float) -> float:
        """Return the threshold in nats, below the high one."""
        if not self.seen:
            return -inf
        return min(float(torch.tensor(self.seen).quantile(QUANTILE)), nextafter(high, -inf))
