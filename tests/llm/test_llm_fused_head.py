"""The head that stands in for TRL's kernel, against the functional form on full logits."""

import pytest
import torch
from torch import Tensor

from era_llm.functional import era_logps, token_entropies
from era_llm.fused_head import ERAHead, check_kernel, installed
from era_llm.loss_call import LossCall
from era_llm.options import ERAOptions

B, T, P, HIDDEN, V = 5, 6, 2, 8, 40


def _head(k: float, scored: Tensor, entropy_gradient: bool = False) -> ERAHead:
    scale = torch.tensor([1.0, k, 1 / k, k, 1.0])[:, None].expand(B, T)
    call = LossCall(ERAOptions(era_k=k), True, scored, scored, torch.ones(B), scale=scale)
    return ERAHead(call, P + T, entropy_gradient)


@pytest.mark.parametrize("compact", [True, False], ids=["compact rows", "all rows"])
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("softcap", [None, 3.0], ids=["", "softcap"])
@pytest.mark.parametrize("k", [2.0, 1.7])
def test_value_entropy_and_gradient(
    compact: bool, bias: bool, softcap: float | None, k: float
) -> None:
    scored = (torch.arange(T) < torch.tensor([6, 3, 6, 1, 4])[:, None]).int()
    hidden = torch.randn(B, P + T - 1, HIDDEN)
    weight = torch.randn(V, HIDDEN)
    offset = torch.randn(V) if bias else None
    targets = torch.randint(V, (B, P + T - 1))
    weights = torch.randn(B, T) * scored
    mask = torch.zeros(B, P + T - 1, dtype=torch.bool)
    mask[:, -T:] = scored.bool()

    def leaves() -> list[Tensor]:
        return [x.clone().requires_grad_() for x in (hidden, weight, offset) if x is not None]

    fused = leaves()
    head = _head(k, scored)
    rows = fused[0][mask] if compact else fused[0].reshape(-1, HIDDEN)
    labels = targets[mask] if compact else targets.reshape(-1)
    logp, entropy, *_ = head.apply(
        rows, fused[1], fused[2] if bias else None, labels, 0.8, 16, softcap, 1.5, ("entropy",)
    )
    full = torch.zeros(B, P + T - 1)
    logp = full.masked_scatter(mask, logp) if compact else logp.view(B, -1)
    entropy = full.masked_scatter(mask, entropy) if compact else entropy.view(B, -1)
    found = torch.autograd.grad((logp[:, -T:] * weights).sum(), fused)

    plain = leaves()
    logits = (plain[0] @ plain[1].T + (plain[2] if bias else 0)) * 1.5
    logits = (softcap * (logits / softcap).tanh() if softcap else logits)[:, -T:] / 0.8
    assert head.call.scale is not None
    reference = era_logps(logits, targets[:, -T:], head.call.scale)
    expected = torch.autograd.grad((reference * weights).sum(), plain)

    kept = scored.bool()
    torch.testing.assert_close(logp[:, -T:][kept], reference[kept], rtol=0, atol=1e-5)
    torch.testing.assert_close(
        entropy[:, -T:][kept], token_entropies(logits)[kept], rtol=0, atol=1e-5
    )
    for left, right in zip(found, expected, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)


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


def test_the_entropy_carries_a_gradient_only_for_a_bonus() -> None:
    scored = torch.ones(B, T, dtype=torch.int)
    weight, targets = torch.randn(V, HIDDEN), torch.randint(V, (B * (P + T - 1),))
    for bonus in (False, True):
        rows = torch.randn(len(targets), HIDDEN, requires_grad=True)
        out = _head(2.0, scored, bonus).apply(
            rows, weight, None, targets, 1.0, 16, None, 1.0, ("entropy",)
        )
        assert out[1] is not None
        assert out[1].requires_grad is bonus


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
