"""ERA inside TRL's fused head, which scores tokens tile by tile and never holds the logits.

TRL calls `ChunkedLogProbFunction.apply(hidden, weight, ...)` on the last hidden states. Scaling the
logits of a linear head is scaling its input row, so ERA costs one more pass of that head and no
(batch, time, vocabulary) tensor.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from math import frexp

import torch
import trl.trainer.utils as trl_utils
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from era_llm.functional import straight_through
from era_llm.loss_call import LossCall

_PARAMETERS = (
    "ctx",
    "hidden",
    "weight",
    "bias",
    "targets",
    "temperature",
    "chunk_size",
    "final_logit_softcapping",
    "logit_scale",
    "outputs",
)


def check_kernel() -> None:
    """Raise RuntimeError unless TRL's log-probability kernel is the one this module replaces."""
    found = tuple(inspect.signature(ChunkedLogProbFunction.forward).parameters)
    used = getattr(trl_utils, "_ChunkedLogProbFunction", None)
    if found != _PARAMETERS or used is not ChunkedLogProbFunction:
        raise RuntimeError(
            "This TRL computes log-probabilities in another way than trl 1.16: expected the kernel "
            f"ChunkedLogProbFunction{_PARAMETERS} in trl.trainer.utils, found {used} with {found}. "
            "Install a supported trl, or set era_enabled=False."
        )


class ERAHead:
    """Stands in for TRL's kernel during one loss computation.

    Values and entropies are those of the plain head; gradients of the log-probabilities are ERA's.
    Every call runs the same number of kernels whatever the data, as sharded weights require.
    """

    def __init__(self, call: LossCall, sequence_length: int, entropy_gradient: bool) -> None:
        """Bind the head to the responses of one loss computation.

        Args:
            call: The responses.
            sequence_length: Tokens of prompt and completion.
            entropy_gradient: Whether the loss differentiates the entropies (an entropy bonus).
        """
        self.call = call
        self.entropy_gradient = entropy_gradient
        self.calls = 0
        time = call.scored.size(1)
        # TRL scores each token from the position before it: one column less than tokens.
        self.scored = call.scored.new_zeros(len(call.scored), sequence_length - 1, dtype=torch.bool)
        self.scored[:, -time:] = call.scored.bool()

    def apply(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None,
        logit_scale: float,
        outputs: tuple[str, ...],
    ) -> tuple[Tensor | None, ...]:
        """Score rows of hidden states as TRL's kernel does, with ERA's gradient."""
        self.calls += 1
        head = (weight, bias)
        rest = (chunk_size, final_logit_softcapping, logit_scale)
        with torch.set_grad_enabled(self.entropy_gradient and torch.is_grad_enabled()):
            plain = _kernel(hidden, head, targets, temperature, rest, outputs)
        scale = self._rows(self.call.observe(self._responses(plain[1])), len(hidden))
        linear = bias is None and final_logit_softcapping is None
        # A power of two only moves the exponent: exact in every floating-point type.
        if linear and frexp(self.call.options.era_k)[0] == 0.5:
            scaled_hidden = hidden * scale.unsqueeze(-1).to(hidden.dtype)
            scaled = _kernel(scaled_hidden, head, targets, temperature, rest, ())[0]
        else:
            scaled = self._by_group(hidden, head, targets, temperature, rest, scale)
        logp = straight_through(plain[0], scaled, scale, self.call.options.era_advantage_scale)
        return (logp, *plain[1:])

    def _by_group(
        self,
        hidden: Tensor,
        head: tuple[Tensor, Tensor | None],
        targets: Tensor,
        temperature: float,
        rest: tuple[int, float | None, float],
        scale: Tensor,
    ) -> Tensor:
        """Score each group of rows of one scale under the temperature / s: exact for any head."""
        k = self.call.options.era_k
        scaled = scale.new_zeros(len(hidden))
        for value, rows in ((1.0, scale == 1), (k, scale > 1), (1 / k, scale < 1)):
            part = _kernel(hidden[rows], head, targets[rows], temperature / value, rest, ())[0]
            scaled = scaled.masked_scatter(rows, part)
        return scaled

    def _responses(self, rows: Tensor) -> Tensor:
        """Lay out rows as (responses, time): TRL passes the scored positions alone, or all."""
        rows, all_rows = rows.detach(), self.scored.numel()
        if len(rows) == all_rows:
            full = rows.view(self.scored.shape)
        elif len(rows) == (known := int(self.scored.sum())):
            full = rows.new_zeros(self.scored.shape).masked_scatter(self.scored, rows)
        else:
            raise RuntimeError(
                f"TRL scored {len(rows)} positions; the masks give {known} of {all_rows}"
            )
        return full[:, -self.call.scored.size(1) :]

    def _rows(self, values: Tensor, count: int) -> Tensor:
        """Lay out (responses, time) values as rows, with 1 where TRL scores nothing."""
        full = values.new_ones(self.scored.shape)
        full[:, -values.size(1) :] = values
        return full.flatten() if count == full.numel() else full[self.scored]


@contextmanager
def installed(head: ERAHead) -> Iterator[None]:
    """Let TRL's fused forward call the head in place of its kernel.

    Args:
        head: The head of this loss computation.

    Raises:
        RuntimeError: If the model's forward did not call it exactly once.
    """
    trl_utils._ChunkedLogProbFunction = head  # pyright: ignore
    try:
        yield
    finally:
        trl_utils._ChunkedLogProbFunction = ChunkedLogProbFunction  # pyright: ignore
    if head.calls != 1:
        raise RuntimeError(
            f"TRL's forward called the log-probability head {head.calls} times, not once"
        )


def _kernel(
    hidden: Tensor,
    head: tuple[Tensor, Tensor | None],
    targets: Tensor,
    temperature: float,
    rest: tuple[int, float | None, float],
    outputs: tuple[str, ...],
) -> tuple[Tensor, ...]:
    """Call TRL's kernel."""
    return ChunkedLogProbFunction.apply(hidden, *head, targets, temperature, *rest, outputs)
