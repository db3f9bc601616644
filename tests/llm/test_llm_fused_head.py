"""The head that stands in for TRL's kernel, against the functional form on full logits."""

import pytest
import torch
from torch import Tensor
from trl.kernels import ChunkedLogProbFunction

from era_llm import fused_head
from era_llm.functional import era_logps, selected_logps
from era_llm.fused_head import ScaledHead, check_kernel, installed
from era_llm.loss_call import LossCall
from era_llm.options import ERAOptions

B, T, P, HIDDEN, V = 5, 6, 2, 8, 40


def _head(k: float, scored: Tensor, **more: Tensor) -> ScaledHead:
    scale = torch.tensor([1.0, k, 1 / k, k, 1.0])[:, None].expand(B, T)
    inputs = {"completion_mask": scored, "advantages": torch.ones(B), "era_scale": scale, **more}
    return ScaledHead(LossCall(ERAOptions(era_k=k), True, inputs, 0.45), P + T)


@pytest.mark.parametrize("compact", [True, False], ids=["compact rows", "all rows"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("softcap", [None, 3.0], ids=["", "softcap"])
@pytest.mark.parametrize("k", [2.0, 1.7])
def test_value_entropy_and_gradient(
    compact: bool, bias: bool, softcap: float | None, k: float
) -> None:
    """logp has the gradient e_y - softmax(s z), the entropies and the plain logp their own."""
    scored = (torch.arange(T) < torch.tensor([6, 3, 6, 1, 4])[:, None]).int()
    hidden = torch.randn(B, P + T - 1, HIDDEN)
    weight = torch.randn(V, HIDDEN)
    offset = torch.randn(V) if bias else None
    targets = torch.randint(V, (B, P + T - 1))
    weights = torch.randn(3, B, T) * scored
    mask = torch.zeros(B, P + T - 1, dtype=torch.bool)
    mask[:, -T:] = scored.bool()

    def leaves() -> list[Tensor]:
        return [x.clone().requires_grad_() for x in (hidden, weight, offset) if x is not None]

    fused = leaves()
    head = _head(k, scored, ref_per_token_logps=torch.zeros(B, T))
    rows = fused[0][mask] if compact else fused[0].reshape(-1, HIDDEN)
    labels = targets[mask] if compact else targets.reshape(-1)
    logp, entropy, *_ = head.apply(
        rows, fused[1], fused[2] if bias else None, labels, 0.8, 16, softcap, 1.5, ("entropy",)
    )
    full = torch.zeros(B, P + T - 1)
    logp = full.masked_scatter(mask, logp) if compact else logp.view(B, -1)
    entropy = full.masked_scatter(mask, entropy) if compact else entropy.view(B, -1)
    assert head.call.plain is not None
    all_three = torch.stack([logp[:, -T:], entropy[:, -T:], head.call.plain])
    found = torch.autograd.grad((all_three * weights).sum(), fused)

    plain = leaves()
    logits = (plain[0] @ plain[1].T + (plain[2] if bias else 0)) * 1.5
    logits = (softcap * (logits / softcap).tanh() if softcap else logits)[:, -T:] / 0.8
    assert head.call.scale is not None
    log_p = logits.log_softmax(-1)
    reference = torch.stack(
        [
            era_logps(logits, targets[:, -T:], head.call.scale),
            -(log_p.exp() * log_p).sum(-1),
            selected_logps(logits, targets[:, -T:]),
        ]
    )
    expected = torch.autograd.grad((reference * weights).sum(), plain)

    kept = scored.bool()
    torch.testing.assert_close(all_three[:, kept], reference[:, kept], rtol=0, atol=1e-5)
    scaled = selected_logps(logits * head.call.scale[..., None], targets[:, -T:])
    assert head.call.log_ratio is not None
    torch.testing.assert_close(
        head.call.log_ratio[kept], (scaled - reference[2])[kept], rtol=0, atol=1e-5
    )
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("k", "scales", "passes"),
    [
        (2.0, [1, 1, 1, 1, 1], 1),
        (2.0, [1, 2, 2, 2, 1], 1),
        (2.0, [1, 2, 0.5, 2, 1], 2),
        (4.0, [1, 4, 4, 4, 1], 2),
    ],
)
@pytest.mark.parametrize("bonus", [False, True], ids=["", "bonus"])
def test_the_kernel_runs_once_unless_rows_are_flattened(
    k: float, scales: list[float], passes: int, bonus: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log sum exp(2 z) comes from the one forward pass, all gradients from the one backward pass."""
    calls, names = [], []
    scored, replaced = fused_head._forward, fused_head._with
    monkeypatch.setattr(fused_head, "_forward", lambda *a: calls.append(a) or scored(*a))
    monkeypatch.setattr(
        fused_head, "_with", lambda f, **n: names.append(f.__name__) or replaced(f, **n)
    )
    head = _head(k, torch.ones(B, T, dtype=torch.int))
    head.call.scale = torch.tensor(scales)[:, None].expand(B, T)
    rows, weight = torch.randn(B * (P + T - 1), HIDDEN), torch.randn(V, HIDDEN, requires_grad=True)
    targets = torch.randint(V, (len(rows),))
    logp, entropy, *_ = head.apply(rows, weight, None, targets, 1.0, 16, None, 1.0, ("entropy",))
    (logp.sum() + entropy.sum() if bonus else logp.sum()).backward()
    assert len(calls) == passes
    assert names.count("backward") == 1


@pytest.mark.parametrize("bonus", [0.0, 0.3], ids=["", "bonus"])
def test_unscaled_it_has_the_bits_of_trls_kernel(
    bonus: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of rows, of whatever size, change no bit of values or gradients."""
    monkeypatch.setattr(fused_head, "_ON_CPU", 3 * 16)
    head = _head(2.0, torch.ones(B, T, dtype=torch.int))
    head.call.scale = torch.ones(B, T)
    hidden, weight = torch.randn(B * (P + T - 1), HIDDEN), torch.randn(V, HIDDEN)
    more = (None, torch.randint(V, (len(hidden),)), 0.8, 16, 3.0, 1.5, ("entropy",))
    found = []
    for apply in (head.apply, ChunkedLogProbFunction.apply):
        leaves = [x.clone().requires_grad_() for x in (hidden, weight)]
        logp, entropy, *_ = apply(*leaves, *more)
        gradients = torch.autograd.grad((logp + bonus * entropy).sum(), leaves)
        found.append([logp, entropy, *gradients])
    assert all(torch.equal(ours, trls) for ours, trls in zip(*found, strict=True))


def test_a_power_of_two_is_exact_in_bfloat16() -> None:
    """Doubling a hidden row moves its exponent alone, so both ways to scale give the same bits."""
    scored = torch.ones(B, T, dtype=torch.int)
    hidden = torch.randn(B * (P + T - 1), HIDDEN).bfloat16()
    weight, targets = torch.randn(V, HIDDEN).bfloat16(), torch.randint(V, (len(hidden),))
    gradients = []
    for bias in (None, torch.zeros(V).bfloat16()):
        rows = hidden.clone().requires_grad_()
        out = _head(2.0, scored).apply(
            rows, weight, bias, targets, 1.0, 16, None, 1.0, ("entropy",)
        )
        assert out[0] is not None
        gradients.append(torch.autograd.grad(out[0].sum(), rows)[0])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=2**-8)


def test_rows_that_do_not_fit_the_masks_are_an_error() -> None:
    head = _head(2.0, torch.ones(B, T, dtype=torch.int))
    rows, weight = torch.randn(7, HIDDEN), torch.randn(V, HIDDEN)
    with pytest.raises(RuntimeError, match="TRL scored 7 positions; the masks give 30 of 35"):
        head.apply(rows, weight, None, torch.zeros(7).long(), 1.0, 16, None, 1.0, ("entropy",))


def test_the_kernel_is_back_after_an_error() -> None:
    head = _head(2.0, torch.ones(B, T, dtype=torch.int))
    with pytest.raises(ZeroDivisionError), installed(head):
        _ = 1 / 0
    check_kernel()
