"""The capped softmax: exact shares, their derivative, and every way in which torch may call it."""

import pytest
import torch
from torch import Tensor

from era_rl.core.budget import capped_softmax

DIMENSIONS = [1, 2, 6, 21, 61]


def by_bisection(logits: Tensor, cap: float, free_logit: Tensor | None = None) -> Tensor:
    """Return min(c e^z, cap) with ln c by bisection: slow, and obviously right."""
    extra = (
        logits.new_full((*logits.shape[:-1], 1), -torch.inf) if free_logit is None else free_logit
    )
    low = -torch.cat([logits, extra], dim=-1).logsumexp(-1, keepdim=True)  # no share is capped
    high = low + 20_000.0
    for _ in range(200):
        middle = (low + high) / 2
        total = (logits + middle).exp().clamp_max(cap).sum(-1, keepdim=True) + (
            extra + middle
        ).exp()
        low, high = torch.where(total < 1, middle, low), torch.where(total < 1, high, middle)
    return (logits + low).exp().clamp_max(cap)


def caps(dim: int) -> list[float]:
    return [min(1.0, relative / dim) for relative in (1.05, 1.5, 3.0)] + [1.0]


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 60.0])
@pytest.mark.parametrize("free", [False, True])
def test_shares_are_those_of_bisection(dim: int, scale: float, free: bool) -> None:
    """w_i = min(c p_i, cap), sum w = 1, with the c of a bisection in float64, up to e^-700."""
    generator = torch.Generator().manual_seed(dim)
    logits = scale * torch.randn(200, dim, dtype=torch.float64, generator=generator)
    free_logit = (
        scale * torch.randn(200, 1, dtype=torch.float64, generator=generator) if free else None
    )
    for cap in caps(dim):
        shares = capped_softmax(logits, cap, free_logit)
        torch.testing.assert_close(
            shares, by_bisection(logits, cap, free_logit), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("dim", DIMENSIONS)
@pytest.mark.parametrize("scale", [0.1, 3.0, 1000.0])
def test_in_float32_no_share_exceeds_the_cap_nor_the_sum_one(dim: int, scale: float) -> None:
    """max w <= cap to the bit; 1 - 1e-6 <= sum w <= 1 + a rounding of each share."""
    logits = scale * torch.randn(2000, dim, generator=torch.Generator().manual_seed(dim))
    for cap in [1.0 / dim, *caps(dim)]:
        shares = capped_softmax(logits, cap)
        assert shares.max() <= torch.tensor(cap)
        assert (shares.sum(-1) - 1.0).abs().max() <= 4.0 * torch.finfo(torch.float32).eps


def test_without_a_cap_met_it_is_the_softmax() -> None:
    """w = softmax(z), to the bit, where max softmax(z) <= cap."""
    logits = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0))
    uniform = logits.softmax(-1).amax(-1) <= 0.5
    assert 0 < uniform.sum() < len(uniform)
    shares = capped_softmax(logits, 0.5)
    assert torch.equal(shares[uniform], logits.softmax(-1)[uniform])
    assert torch.equal(capped_softmax(logits, 1.0), logits.softmax(-1))


def test_ties_and_infinite_differences() -> None:
    """Equal logits share equally; one that towers takes its cap, the others share what is left."""
    assert torch.equal(capped_softmax(torch.zeros(1, 4), 0.25), torch.full((1, 4), 0.25))
    towering = torch.tensor([[1e30, 0.0, 0.0], [0.0, -1e30, -1e30]])
    expected = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]])
    assert torch.equal(capped_softmax(towering, 0.5), expected)
    towering.requires_grad_()
    capped_softmax(towering, 0.5)[:, 1].sum().backward()
    assert towering.grad is not None
    assert towering.grad.isfinite().all()


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("gap", [45.0, 80.0, 300.0])
def test_gradients_are_finite_however_far_a_share_is_ahead(gap: float, free: bool) -> None:
    """What is left to others is shared by their softmax: the same in float32 as in float64."""
    found = []
    for dtype in (torch.float32, torch.float64):
        rows = torch.tensor([[gap, 0.0, 1.0], [gap, gap, 0.0], [0.0, 1.0, -gap]], dtype=dtype)
        logits = rows.requires_grad_()
        free_logit = torch.zeros(3, 1, dtype=dtype) if free else None
        shares = capped_softmax(logits, 0.6, free_logit)
        (gradient,) = torch.autograd.grad((shares * torch.arange(3.0, dtype=dtype)).sum(), logits)
        found.append((shares.double(), gradient.double()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert found[1][1][0, 2] > 0.01


@pytest.mark.parametrize("free", [False, True])
def test_gradient(free: bool) -> None:
    """gradcheck by logits, free logit and cap in float64, away from where a cap is just met."""
    generator = torch.Generator().manual_seed(3)
    logits = 2.0 * torch.randn(7, 6, dtype=torch.float64, generator=generator)
    free_logit = torch.randn(7, 1, dtype=torch.float64, generator=generator)
    cap = torch.tensor(0.25, dtype=torch.float64)
    inputs = (logits.requires_grad_(), free_logit.requires_grad_(), cap.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda z, z0, cap: capped_softmax(z, cap, z0 if free else None), inputs
    )


def test_under_transforms() -> None:
    """vmap, torch.func.grad, a full graph and torch.export give what the plain call gives."""
    logits = 2.0 * torch.randn(5, 6, generator=torch.Generator().manual_seed(4))
    plain = capped_softmax(logits, 0.25)

    class Shares(torch.nn.Module):
        def forward(self, z: Tensor) -> Tensor:
            return capped_softmax(z, 0.25)

    assert torch.equal(torch.func.vmap(Shares())(logits), plain)
    graph = torch.compile(Shares(), fullgraph=True, backend="aot_eager")
    assert torch.equal(graph(logits), plain)
    assert torch.equal(torch.export.export(Shares(), (logits,)).module()(logits), plain)
    by_transform = torch.func.grad(lambda z: capped_softmax(z, 0.25)[0, 0])(logits)
    required = logits.clone().requires_grad_()
    capped_softmax(required, 0.25)[0, 0].backward()
    assert torch.equal(by_transform, required.grad)
    rows = torch.compile(torch.func.vmap(Shares()), fullgraph=True, backend="aot_eager")
    assert torch.equal(rows(logits), plain)
    slopes = torch.func.vmap(torch.func.grad(lambda z: capped_softmax(z, 0.25)[0]))(logits)
    torch.testing.assert_close(slopes[0], by_transform[0])
