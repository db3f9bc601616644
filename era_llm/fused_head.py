"""ERA inside TRL's fused head, which scores tokens tile by tile and never holds the logits.

TRL calls `ChunkedLogProbFunction.apply(hidden, weight, ...)` on the last hidden states. The kernel
keeps log Z, the log-sum-exp of the logits z, for its backward pass, which folds each tile of logits
into the gradient of the log-probabilities, e_y - exp(z - log Z). ERA's gradient,
e_y - exp(s z - log Z_s), is that of the same fold at another temperature, given log Z_s. So the forward
pass runs once, the scales are decided from its entropies, and the backward pass runs once, on rows
sorted by scale, the rows of one scale folded together. For s = 2 the forward pass has what log Z_s
takes: log sum_v exp(2 z_v) = log sum_v p_v^2 + 2 log Z. Other scales take one more forward pass of the
rows concerned.

Without Triton TRL folds a tile, 0.5 GB and more, in a dozen passes over memory. Here it is folded in
blocks of rows that stay in a processor's cache: the same bits in a fraction of the time.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import torch
import trl
import trl.trainer.utils as trl_utils
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction, chunked_logprob

from era_llm.loss_call import LossCall

_TRIED = "1.16."
_PARAMETERS = (
    "ctx, hidden, weight, bias, targets, temperature, chunk_size, final_logit_softcapping, "
    "logit_scale, outputs"
)
# Logits folded at once: 2 MiB in a cache; enough for many rows of Triton's programs.
_ON_CPU, _ON_GPU = 2**19, 2**25


def check_kernel() -> None:
    """Raise RuntimeError unless TRL's log-probability kernel is the one this module drives.

    Its signature, the tensors it keeps between its passes and what it makes of them.
    """
    found = ", ".join(inspect.signature(ChunkedLogProbFunction.forward).parameters)
    used = getattr(trl_utils, "_ChunkedLogProbFunction", None)
    known = found == _PARAMETERS and used is ChunkedLogProbFunction
    if not (trl.__version__.startswith(_TRIED) and known and _has_eras_gradient()):
        raise RuntimeError(
            "This TRL computes log-probabilities in another way than trl 1.16: expected the kernel "
            f"ChunkedLogProbFunction({_PARAMETERS}) in trl.trainer.utils, found {used} with ({found}) "
            f"in trl {trl.__version__}. Install trl>=1.16,<1.17, or set era_enabled=False."
        )


def _has_eras_gradient() -> bool:
    """Return whether two rows, sharpened and flattened, get the gradient sum (e_y - softmax(s z))."""
    hidden, targets, scale = torch.ones(2, 1), torch.tensor([0, 1]), torch.tensor([2.0, 0.5])
    weight = torch.tensor([[0.0], [1.0]], requires_grad=True)
    kernel = _Kernel(1.0, 2, None, 1.0, ("entropy",))
    with torch.enable_grad():
        logp = OnePass.apply(
            hidden, weight, None, targets, kernel, lambda _: scale, 2, True, False
        )[0]
        (found,) = torch.autograd.grad(logp.sum(), weight)
    logits = scale.unsqueeze(-1) * weight.detach().T
    return torch.allclose(found[:, 0], 1 - logits.softmax(-1).sum(0))


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


def _with(function: Any, **names: Any) -> Callable[..., tuple[Any, ...]]:
    """Return a pass of the kernel that finds other functions under some names of its module."""
    globals_ = {**vars(chunked_logprob), **names}
    return FunctionType(function.__code__, globals_, closure=function.__closure__)


def _runs(scale: Tensor, size: int) -> Iterator[tuple[float, slice]]:
    """Yield the runs of equal values in a tensor, cut into slices of at most some size."""
    values, counts = (x.tolist() for x in scale.unique_consecutive(return_counts=True))
    end = 0
    for value, count in zip(values, counts, strict=True):
        start, end = end, end + count
        for at in range(start, end, size):
            yield value, slice(at, min(at + size, end))


def _forward_tile(tile: Tensor, stride: int, *arguments: Any, **options: Any) -> None:
    """Fold a tile of logits into the statistics of its rows, as TRL does, block by block."""
    *rows, start, count = arguments
    size = max(1, _ON_CPU // count)
    host: Any = chunked_logprob._forward_tile
    for at in (slice(i, i + size) for i in range(0, len(tile), size)):
        host(tile[at], stride, *(values[at] for values in rows), start, count, **options)


def _backward_tile(
    tile: Tensor, stride: int, targets: Tensor, logs: Tensor, entropy: Tensor, given: Tensor,
    of_entropy: Tensor, start: int, count: int, **options: Any,
) -> None:  # fmt: skip
    """Turn a tile of logits, (rows, count), into their gradients: TRL's fold, run by run of one scale.

    TRL passes on what `OnePass.backward` gives it: in logs, (rows, 3), s, log Z and log Z_s; in given,
    (rows, 1 or 2), the gradients of the log-probabilities and of their plain values, if any.
    """
    scale, log_z, log_z_s = logs.T.contiguous()
    own, *of_plain = given.T.contiguous()
    on_gpu = chunked_logprob._use_triton(tile.device)

    def fold(part: Tensor, at: slice, log_z: Tensor, of_logp: Tensor, **changes: Any) -> None:
        host: Any = chunked_logprob._backward_tile
        if on_gpu:
            blocks = -(-count // chunked_logprob._BLOCK_SIZE)
            host = chunked_logprob._backward_kernel[(len(part), blocks)]  # pyright: ignore
        rows = (x[at] for x in (targets, log_z, entropy, of_logp, of_entropy))
        host(part, part.stride(0), *rows, start, count, **{**options, **changes})

    for s, at in _runs(scale, max(1, (_ON_GPU if on_gpu else _ON_CPU) // count)):
        part = tile[at]
        if s == 1:
            fold(part, at, log_z, sum(of_plain, own))
            continue
        plain = part.clone() if of_plain or options["HAS_ENTROPY_GRAD"] else None
        fold(part, at, log_z_s, own, inv_t=options["inv_t"] * s, HAS_ENTROPY_GRAD=False)
        if plain is not None:
            fold(plain, at, log_z, sum(of_plain, torch.zeros_like(own)))
            part += plain


def _forward(
    hidden: Tensor, head: tuple[Tensor, Tensor | None], targets: Tensor, kernel: _Kernel
) -> tuple[tuple[Any, ...], Tensor, dict[str, Any]]:
    """Run the kernel; return its outputs, log Z and what it keeps besides tensors."""
    context = _context()
    run = _with(ChunkedLogProbFunction.forward, _forward_tile=_forward_tile)
    scored = run(context, hidden, *head, targets, *kernel)
    kept = ("compute_dtype", "chunk_size", "kernel_args")
    return scored, context.saved_tensors[4], {name: getattr(context, name) for name in kept}


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
            rows = scale > 1 if value > 1 else scale < 1
            if rows.any():
                flat = kernel._replace(temperature=kernel.temperature / value, outputs=())
                part = _forward(hidden[rows], head, targets[rows], flat)[1]
                log_z_s = log_z_s.masked_scatter(rows, part)
        logs = torch.stack([scale, log_z, log_z_s], -1)
        ctx.save_for_backward(hidden, weight, bias, targets, logs, entropy)
        ctx.divide = divide
        log_ratio = (scale - 1) * (logp + log_z) - (log_z_s - log_z)
        asked = log_squares if "log_sum_sq_probs" in kernel.outputs else None
        fixed = (asked, *others, log_ratio)
        ctx.mark_non_differentiable(*(x for x in fixed if x is not None))
        return logp, entropy, *fixed[:3], logp.clone() if plain else None, log_ratio

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        """Give scaled rows ERA's gradient, and the entropies and plain values their own."""
        hidden, weight, bias, targets, logs, entropy = ctx.saved_tensors
        own, of_entropy, of_plain, scale = given[0], given[1], given[5], logs[:, 0]
        own = torch.zeros_like(scale) if own is None else own / scale if ctx.divide else own
        of_logp = torch.stack([own] if of_plain is None else [own, of_plain], -1)
        order = scale.argsort(stable=True)  # as it is, where nothing is scaled
        saved = (hidden[order], weight, bias, targets[order], logs[order], entropy[order])
        context = _context(**ctx.kept, needs_input_grad=ctx.needs_input_grad, saved_tensors=saved)
        names: Any = {"_use_triton": lambda device: False, "_backward_tile": _backward_tile}
        run = _with(ChunkedLogProbFunction.backward, **names)
        of_entropy = None if of_entropy is None else of_entropy[order]
        states, *others = run(context, of_logp[order], of_entropy)
        if states is not None:
            states = torch.empty_like(states).index_copy_(0, order, states)
        return states, *others[:2], *[None] * 6


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
