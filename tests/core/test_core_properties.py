"""Properties over generated shapes, strides and numbers."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from era_rl.core import (
    CategoricalHead,
    TruncatedGaussianHead,
    categorical_entropy,
    gaussian_era,
    softmax_era,
    truncated_normal_entropy,
    truncated_normal_era,
    truncated_normal_log_std,
    truncated_normal_sample,
)
from era_rl.core.feasibility import MAX_ENTROPY

settings.register_profile("core", max_examples=25, deadline=None, derandomize=True, database=None)
generated = settings(settings.get_profile("core"))

SEEDS = st.integers(0, 2**31 - 1)
SHAPES = st.lists(st.integers(1, 4), max_size=3).map(tuple)
DTYPES = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
METHODS = st.sampled_from(["lambert", "paper", "temperature"])
FLOORS = st.floats(-4.0, MAX_ENTROPY - 1e-4)
SPREADS = st.sampled_from([1e-3, 1.0, 30.0, 1e4])


def _normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _truncated(loc: Tensor, raw: Tensor) -> Tensor:
    return truncated_normal_era(loc.tanh(), raw, target_entropy=-0.5 * raw.shape[-1])


def _softmax(method: str, num_classes: int):
    head = CategoricalHead(num_classes, target_entropy=0.3, method=method)
    return lambda logits: head(logits)


@generated
@given(SHAPES, st.integers(2, 7), METHODS, SEEDS)
def test_leading_dimensions_are_a_loop(shape, width, method, seed) -> None:
    loc, raw = _normal(seed, 2, *shape, width).unbind()
    discrete = _softmax(method, width)
    whole = _truncated(loc, raw), gaussian_era(raw, target_entropy=0.0), discrete(raw)
    assert all(t.shape == raw.shape for t in whole)
    rows = zip(loc.reshape(-1, width), raw.reshape(-1, width), strict=True)
    looped = [(_truncated(a, b), gaussian_era(b, target_entropy=0.0), discrete(b)) for a, b in rows]
    for i, batched in enumerate(whole):
        torch.testing.assert_close(batched, torch.stack([r[i] for r in looped]).view_as(batched))


@generated
@given(st.integers(2, 6), st.integers(2, 6), METHODS, SEEDS)
def test_strides_do_not_matter(rows, width, method, seed) -> None:
    loc, raw = _normal(seed, 2, 2 * width, rows)[:, ::2].unbind()
    loc, raw = loc.T, raw.T
    assert not raw.is_contiguous()
    torch.testing.assert_close(_truncated(loc, raw), _truncated(loc.contiguous(), raw.contiguous()))
    discrete = _softmax(method, width)
    torch.testing.assert_close(discrete(raw), discrete(raw.contiguous()))


@generated
@given(DTYPES, METHODS, SEEDS)
def test_dtype_is_kept_and_half_precision_widened(dtype, method, seed) -> None:
    raw = _normal(seed, 3, 4, dtype=torch.float32).to(dtype)
    loc = raw.tanh()
    outputs = [
        _truncated(raw, raw),
        gaussian_era(raw, target_entropy=0.0),
        _softmax(method, 4)(raw),
        truncated_normal_entropy(loc, raw),
        truncated_normal_log_std(loc, raw.clamp_max(0.5)),
        truncated_normal_sample(loc, raw, raw.sigmoid()),
        categorical_entropy(raw),
        *TruncatedGaussianHead(2)(raw),
    ]
    expected = dtype if dtype in (torch.float32, torch.float64) else torch.float32
    assert {t.dtype for t in outputs} == {expected}


@generated
@given(st.integers(2, 8), METHODS, SEEDS)
def test_permuting_dimensions_permutes_the_result(width, method, seed) -> None:
    loc, raw = _normal(seed, 2, 5, width).unbind()
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        _truncated(loc, raw)[:, order], _truncated(loc[:, order], raw[:, order])
    )
    discrete = _softmax(method, width)
    torch.testing.assert_close(discrete(raw)[:, order], discrete(raw[:, order]))


@generated
@given(st.floats(-50.0, 50.0), METHODS, SEEDS)
def test_a_common_shift_of_raw_outputs_changes_no_policy(shift, method, seed) -> None:
    loc, raw = _normal(seed, 2, 5, 6).unbind()
    torch.testing.assert_close(_truncated(loc, raw + shift), _truncated(loc, raw))
    probs = [_softmax(method, 6)(z).softmax(-1) for z in (raw, raw + shift)]
    torch.testing.assert_close(probs[1], probs[0])


@generated
@given(st.integers(2, 30), METHODS, SPREADS, SEEDS)
def test_softmax_era_keeps_the_order_of_logits(width, method, spread, seed) -> None:
    logits = spread * _normal(seed, 20, width)
    bounded = _softmax(method, width)(logits)
    ranked = bounded.gather(-1, logits.argsort(-1))
    assert (ranked.diff(dim=-1) >= -1e-12 * ranked.abs().amax()).all()
    best = logits.argmax(-1, keepdim=True)
    torch.testing.assert_close(bounded.gather(-1, best), bounded.amax(-1, keepdim=True))


@generated
@given(st.integers(1, 8), FLOORS, SPREADS, SEEDS)
def test_the_floor_holds_for_any_floor_width_and_spread(width, floor, spread, seed) -> None:
    for dtype in (torch.float32, torch.float64):
        head = TruncatedGaussianHead(width, target_entropy=width * floor)
        loc, log_std = head.params(spread * _normal(seed, 50, 2 * width, dtype=dtype))
        entropy = truncated_normal_entropy(loc.double(), log_std.double()).sum(-1)
        assert (entropy >= width * floor).all()


@generated
@given(st.integers(1, 8), SPREADS, SEEDS)
def test_entropy_rises_with_the_slack_logit(width, spread, seed) -> None:
    loc, raw = spread * _normal(seed, 2, width)
    slack = torch.linspace(-20.0, 20.0, 60, dtype=torch.float64).unsqueeze(-1)
    loc = loc.tanh().expand(60, width)
    log_std = truncated_normal_era(
        loc, raw.expand(60, width), target_entropy=-2.0 * width, slack_logit=slack
    )
    entropy = truncated_normal_entropy(loc, log_std).sum(-1)
    assert (entropy.diff() >= -1e-12).all()
    assert entropy[-1] <= width * MAX_ENTROPY + 1e-9


@generated
@given(st.integers(2, 20), SPREADS, SEEDS)
def test_temperature_is_idempotent_and_monotone_in_its_target(width, spread, seed) -> None:
    logits = spread * _normal(seed, 10, width)
    entropies = []
    for share in (0.1, 0.4, 0.8):
        target = share * torch.tensor(width).log().item()
        once = softmax_era(logits, target_entropy=target, method="temperature")
        twice = softmax_era(once, target_entropy=target, method="temperature")
        torch.testing.assert_close(twice.softmax(-1), once.softmax(-1), rtol=0.0, atol=1e-12)
        entropies.append(categorical_entropy(once))
    assert (torch.stack(entropies).diff(dim=0) >= -1e-12).all()


@generated
@given(st.floats(-7.0, 0.69), SEEDS)
def test_the_inverse_is_even_in_loc_and_inverts(entropy, seed) -> None:
    loc = _normal(seed, 50).tanh()
    target = torch.full_like(loc, entropy)
    log_std = truncated_normal_log_std(loc, target)
    assert torch.equal(log_std, truncated_normal_log_std(-loc, target))
    torch.testing.assert_close(truncated_normal_entropy(loc, log_std), target, rtol=0.0, atol=1e-12)


@generated
@given(SEEDS)
def test_samples_mirror_with_loc_and_u(seed) -> None:
    loc, log_std = _normal(seed, 2, 50).unbind()
    loc, u = loc.tanh(), torch.rand(50, dtype=torch.float64)
    mirrored = truncated_normal_sample(-loc, log_std, 1.0 - u)
    torch.testing.assert_close(truncated_normal_sample(loc, log_std, u), -mirrored)
