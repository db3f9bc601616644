"""ERA inside TRL's fused head, which scores tokens tile by tile and never holds the logits.

TRL calls `ChunkedLogProbFunction.apply(hidden, weight, ...)` on the last hidden states. The kernel
keeps log Z, the log-sum-exp of the logits z, for its backward pass, and computes the gradient of the
log-probabilities, e_y - exp(z - log Z), from it and the hidden states. ERA's gradient,
(e_y - exp(s z - log Z_s)), is that of the same kernel given s z and log Z_s. So the forward pass
runs once, the scales are decided from its entropies, and the backward pass runs once with other
tensors in the place of those it kept. For s = 2 the forward pass has what log Z_s takes:
log sum_v exp(2 z_v) = log sum_v p_v^2 + 2 log Z. Other scales take one more forward pass of the rows
concerned.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import frexp
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import trl
import trl.trainer.utils as trl_utils
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from era_llm.loss_call import LossCall

_TRIED = "1.16."
_PARAMETERS = (
    "ctx, hidden, weight, bias, targets, temperature, chunk_size, final_logit_softcapping, "
    "logit_scale, outputs"
)


def check_kernel() -> None:
    """Raise RuntimeError unless TRL's log-probability kernel is the one this module drives.

    Its signature, the tensors it keeps between its passes and what it makes of them.
    """
    found = ", ".join(inspect.signature(ChunkedLogProbFunction.forward).parameters)
    used = getattr(trl_utils, "_ChunkedLogProbFunction", None)
    known = found == _PARAMETERS and used is ChunkedLogProbFunction
    if not (trl.__version__.startswith(_TRIED) and known and _keeps_log_z()):
        raise RuntimeError(
            "This TRL computes log-probabilities in another way than trl 1.16: expected the kernel "
            f"ChunkedLogProbFunction({_PARAMETERS}) in trl.trainer.utils, found {used} with ({found}) "
            f"in trl {trl.__version__}. Install trl>=1.16,<1.17, or set era_enabled=False."
        )


def _keeps_log_z() -> bool:
    """Return whether the kernel, given 2 z and log Z_s by hand, returns e_y - softmax(2 z)."""
    hidden, weight, targets = torch.tensor([[1.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([1])
    kernel = _Kernel(1.0, 2, None, 1.0, ("entropy", "log_sum_sq_probs"))
    scored, log_z, kept = _forward(hidden, (weight, None), targets, kernel)
    log_z_s = scored[2] + 2 * log_z
    saved = (2 * hidden, weight, None, targets, log_z_s, scored[1])
    gradients = _backward(kept, (False, True, False), saved, torch.ones(1), None)
    expected = 2 * (torch.tensor([0.0, 1.0]) - (2 * weight[:, 0]).softmax(0))
    return torch.allclose(gradients[1][:, 0], expected)


class _Kernel(NamedTuple):
    """What TRL's kernel takes besides tensors."""

    temperature: float
    chunk_size: int
    final_logit_softcapping: float | None
    logit_scale: float
    outputs: tuple[str, ...]


def _context(**kept: Any) -> Any:
    """Return what stands in for the context of the kernel, and holds what it keeps."""
    context = SimpleNamespace(**kept)
    context.save_for_backward = lambda *tensors: setattr(context, "saved_tensors", tensors)
    # The outer function says both itself.
    context.mark_non_differentiable = context.set_materialize_grads = lambda *_: None
    return context


def _forward(
    hidden: Tensor, head: tuple[Tensor, Tensor | None], targets: Tensor, kernel: _Kernel
) -> tuple[tuple[Any, ...], Tensor, dict[str, Any]]:
    """Run the kernel; return its outputs, log Z and what it keeps besides tensors."""
    context = _context()
    scored: Any = ChunkedLogProbFunction.forward(context, hidden, *head, targets, *kernel)
    kept = ("compute_dtype", "chunk_size", "kernel_args")
    return scored, context.saved_tensors[4], {name: getattr(context, name) for name in kept}


def _backward(
    kept: dict[str, Any], needs: tuple[bool, ...], saved: tuple[Any, ...],
    gradient: Tensor | None, entropy_gradient: Tensor | None,
) -> tuple[Any, ...]:  # fmt: skip
    """Run the kernel's backward pass on (hidden, weight, bias, targets, log Z, entropy)."""
    context = _context(**kept, needs_input_grad=needs, saved_tensors=saved)
    return ChunkedLogProbFunction.backward(context, gradient, entropy_gradient)[:3]


class _Gradients:
    """The gradients of hidden states, weight and bias, summed over parts of the rows."""

    def __init__(self, ctx: Any) -> None:
        self.hidden_states, self.weight, self.bias, self.targets, *_ = ctx.saved_tensors
        self.entropy, self.kept = ctx.saved_tensors[6], ctx.kept
        self.needs = ctx.needs_input_grad[:3]
        self.total: list[Tensor | None] = [None, None, None]

    def add(
        self, rows: Tensor, scale: float, log_z: Tensor,
        gradient: Tensor | None, entropy_gradient: Tensor | None,
    ) -> None:  # fmt: skip
        """Add the part of some rows, whose logits are multiplied by one scale.

        With sharded weights each call gathers them, on every rank: there, no rows are a call too.
        """
        if not rows.any() and not hasattr(self.weight, "ds_id"):
            return
        kept = {**self.kept, "kernel_args": dict(self.kept["kernel_args"])}
        kept["kernel_args"]["inv_t"] *= scale
        states, entropy = self.hidden_states[rows], self.entropy[rows]
        saved = (states, self.weight, self.bias, self.targets[rows], log_z[rows], entropy)
        of = [None if g is None else g[rows] for g in (gradient, entropy_gradient)]
        hidden, weight, bias = _backward(kept, self.needs, saved, *of)
        if hidden is not None:
            hidden = torch.zeros_like(self.hidden_states).masked_scatter(rows.unsqueeze(-1), hidden)
        self.include(hidden, weight, bias)

    def include(self, *parts: Tensor | None) -> None:
        """Add gradients of all three."""
        both = zip(self.total, parts, strict=True)
        self.total = [b if a is None else a if b is None else a + b for a, b in both]


class OnePass(torch.autograd.Function):
    """TRL's kernel, run once, with ERA's gradient for the log-probabilities.

    Outputs are the kernel's five, then the log-probabilities with their plain gradient (None unless
    asked for) and log p_s(y) - log p(y).
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor,
        kernel: _Kernel, decide: Callable[[Tensor], Tensor], k: float, divide: bool, plain: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        """Score the rows, decide their scales from the entropies, and get log Z_s of each."""
        ctx.set_materialize_grads(False)
        head, squares = (weight, bias), ("log_sum_sq_probs",) if k == 2 else ()
        wanted = kernel._replace(outputs=tuple(dict.fromkeys((*kernel.outputs, *squares))))
        scored, log_z, ctx.kept = _forward(hidden, head, targets, wanted)
        logp, entropy, log_squares, *others = scored
        scale = decide(entropy)
        log_z_s = torch.where(scale == 2, log_squares + 2 * log_z, log_z) if k == 2 else log_z
        for value in (1 / k,) if k == 2 else (k, 1 / k):
            rows = _is(scale, value)
            if rows.any():
                flat = kernel._replace(temperature=kernel.temperature / value, outputs=())
                part = _forward(hidden[rows], head, targets[rows], flat)[1]
                log_z_s = log_z_s.masked_scatter(rows, part)
        ctx.save_for_backward(hidden, weight, bias, targets, log_z, log_z_s, entropy, scale)
        ctx.k, ctx.divide = k, divide
        # A power of two only moves the exponent: exact in every floating-point type.
        ctx.linear = bias is None and kernel.final_logit_softcapping is None and frexp(k)[0] == 0.5
        log_ratio = (scale - 1) * (logp + log_z) - (log_z_s - log_z)
        asked = log_squares if "log_sum_sq_probs" in kernel.outputs else None
        fixed = (asked, *others, log_ratio)
        ctx.mark_non_differentiable(*(x for x in fixed if x is not None))
        return logp, entropy, *fixed[:3], logp.clone() if plain else None, log_ratio

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        """Give scaled rows ERA's gradient, and the entropies and plain values their own."""
        gradient, of_entropy, of_plain = given[0], given[1], given[5]
        hidden, weight, bias, targets, log_z, log_z_s, entropy, scale = ctx.saved_tensors
        if gradient is not None and ctx.divide:
            gradient = gradient / scale
        unscaled = scale == 1
        if of_plain is not None:
            of_unscaled = of_plain * unscaled
            gradient = of_unscaled if gradient is None else gradient + of_unscaled
        gradients = _Gradients(ctx)
        if ctx.linear:
            # Scaling the logits of a linear head is scaling its input row.
            rows = scale.unsqueeze(-1).to(hidden.dtype)
            saved = (hidden * rows, weight, bias, targets, log_z_s, entropy)
            own = None if of_entropy is None else of_entropy * unscaled
            states, *others = _backward(ctx.kept, gradients.needs, saved, gradient, own)
            gradients.include(None if states is None else states * rows, *others)
        else:
            gradients.add(unscaled, 1.0, log_z, gradient, of_entropy)
            for value in (ctx.k, 1 / ctx.k):
                gradients.add(_is(scale, value), value, log_z_s, gradient, None)
        if of_entropy is not None or of_plain is not None:
            gradients.add(~unscaled, 1.0, log_z, of_plain, of_entropy)
        return (*gradients.total, *[None] * 6)


def _is(scale: Tensor, value: float) -> Tensor:
    return scale > 1 if value > 1 else scale < 1


class ScaledHead:
    """Stands in for TRL's kernel during one loss computation."""

    def __init__(self, call: LossCall, sequence_length: int) -> None:
        """Bind the head to responses whose prompts and completions are sequence_length tokens."""
        self.call = call
        self.calls = 0
        time = call.scored.size(1)
        # TRL scores each token from the position before it: one column less than tokens.
        self.scored = call.scored.new_zeros(len(call.scored), sequence_length - 1, dtype=torch.bool)
        self.scored[:, -time:] = call.scored.bool()

    def apply(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *kernel: Any
    ) -> tuple[Tensor | None, ...]:
        """Score rows of hidden states as TRL's kernel does, with ERA's gradient."""
        self.calls += 1
        call, options = self.call, self.call.options

        def decide(entropy: Tensor) -> Tensor:
            return self._rows(call.observe(self._responses(entropy.detach())), len(hidden))

        choices = (options.era_k, options.era_advantage_scale, call.reference is not None)
        *scored, plain, log_ratio = OnePass.apply(
            hidden, weight, bias, targets, _Kernel(*kernel), decide, *choices
        )
        call.log_ratio = self._responses(log_ratio)
        if plain is not None:
            call.plain = self._responses(plain).masked_fill(call.scored == 0, 0.0)
        return tuple(scored)

    def _responses(self, rows: Tensor) -> Tensor:
        """Lay out rows as (responses, time): TRL passes the scored positions alone, or all."""
        all_rows = self.scored.numel()
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


class _StandIn:
    """What TRL finds in its kernel's place: one object for all heads, so that compiled code stays."""

    head: ScaledHead

    @torch.compiler.disable
    def apply(self, *arguments: Any) -> tuple[Tensor | None, ...]:
        """Call the head of this loss computation."""
        return self.head.apply(*arguments)


_STAND_IN = _StandIn()


@contextmanager
def installed(head: ScaledHead) -> Iterator[None]:
    """Let TRL's fused forward call the head in place of its kernel.

    Raises:
        RuntimeError: If the model's forward did not call it exactly once.
    """
    _STAND_IN.head = head
    trl_utils._ChunkedLogProbFunction = _STAND_IN  # pyright: ignore
    try:
        yield
    finally:
        trl_utils._ChunkedLogProbFunction = ChunkedLogProbFunction  # pyright: ignore
        del _STAND_IN.head
    if head.calls != 1:
        raise RuntimeError(
            f"TRL's forward called the log-probability head {head.calls} times, not once"
        )
