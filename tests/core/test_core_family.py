"""What holds of every head: one contract for the continuous, the squashed and the discrete ones."""

import copy
import math
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from era_rl.core import (
    CategoricalHead,
    GaussianHead,
    Head,
    MultiCategoricalHead,
    OnPolicyOptions,
    PolicyOptions,
    TanhGaussianHead,
    TruncatedGaussianHead,
    check_bounds,
)

HALF_RANGE = torch.tensor([0.5, 1.0, 4.0])
# name: how to make it, a floor to change to, one that it cannot have
FAMILY: dict[str, tuple[Callable[[], Head], float, float]] = {
    "exact": (lambda: TruncatedGaussianHead(3), 0.5, 2.08),
    "slack": (lambda: TruncatedGaussianHead(3, slack=0.2), 0.5, 2.08),
    "each": (lambda: TruncatedGaussianHead(3, min_entropy_per_dim=-1.0), 0.5, 2.08),
    "gaussian": (lambda: TruncatedGaussianHead(3, floor="gaussian", delta=0.2), 0.5, 4.3),
    "tanh": (lambda: TanhGaussianHead(3, target_entropy=0.0), 0.5, 4.3),
    "normal": (lambda: GaussianHead(3, half_range=HALF_RANGE), 0.5, 4.3),
    "categorical": (lambda: CategoricalHead(5), 1.2, 1.7),
    "lambert": (lambda: CategoricalHead(5, target_entropy=0.4, method="lambert"), 0.8, 1.7),
    "multi": (lambda: MultiCategoricalHead([3, 1, 4]), 1.5, 2.5),
}


@pytest.fixture(params=FAMILY)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def _action_like(head: Head, raw: Tensor) -> Tensor:
    """A tensor of the shape of the actions."""
    return head.deterministic(raw).to(raw.dtype)


def _at_edge(head: Head) -> Tensor:
    """Raw outputs of which most ask for less entropy than there may be."""
    return torch.cat([3.0 * torch.randn(64, head.raw_dim), 40.0 * torch.randn(64, head.raw_dim)])


def _held(head: Head, raw: Tensor) -> Tensor:
    """The entropy that the floor speaks of: with Eq. 11 that of the normal, less delta."""
    params = head.params(raw)
    if isinstance(head, TanhGaussianHead) or getattr(head, "floor", "exact") == "gaussian":
        offset = getattr(head, "log_half_range", None)
        log_std = params[1] if offset is None else params[1] - offset
        return (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1) - head.delta
    return head.entropy(params)


def test_the_entropy_is_the_mean_of_minus_log_p(name: str) -> None:
    """H = -E[ln p(a)], a = sample(params, noise), in nats of normalised actions."""
    head = FAMILY[name][0]()
    raw = torch.randn(1, head.raw_dim).expand(20_000, -1)
    params = head.params(raw)
    noise = head.draw_noise(_action_like(head, raw))
    log_prob = head.log_prob(params, head.sample(params, noise), head.shared(params))
    expected = head.entropy(params, head.shared(params))[0]
    if name == "normal":  # whose density is one of actions as they are
        log_prob = log_prob + HALF_RANGE.log().sum()
    error = 5.0 * log_prob.std() / math.sqrt(len(log_prob)) + 1e-4
    assert abs(-log_prob.mean() - expected) < error


def test_the_mode_is_that_of_the_policy_and_needs_no_inversion(name: str) -> None:
    """deterministic(raw) is where p is largest: tanh(raw mean), loc or the largest logit."""
    head = FAMILY[name][0]()
    raw = torch.randn(50, head.raw_dim)
    params, mode = head.params(raw), head.deterministic(raw)
    if name == "tanh":
        assert torch.equal(mode, torch.tanh(params[0]))
    else:
        samples = [head.sample(params, head.draw_noise(_action_like(head, raw))) for _ in range(9)]
        at_mode = head.log_prob(params, mode)
        assert all((head.log_prob(params, x) <= at_mode + 1e-4).all() for x in samples)
    if isinstance(head, TruncatedGaussianHead):
        mean = head.deterministic(raw, "mean")
        assert (mean.abs() <= mode.abs() + 1e-6).all()
    elif name != "normal":
        with pytest.raises(ValueError, match=f"{type(head).__name__} has no mean"):
            head.deterministic(raw, "mean")


def test_a_floor_that_is_set_is_held_and_reported(name: str) -> None:
    """H >= H0 for the H0 in force, and a floor that cannot be held leaves the one before."""
    make, other, impossible = FAMILY[name]
    head = make()
    raw = _at_edge(head)
    for floor in (head.target_entropy, other):
        head.target_entropy = floor
        assert head.target_entropy == pytest.approx(floor, abs=1e-15)
        assert _held(head, raw).min().item() >= floor - 1e-5
    for wrong in (impossible, math.nan, "high"):
        with pytest.raises(ValueError, match=f"target_entropy='?{wrong}'?.* must be"):
            head.target_entropy = wrong
    assert head.target_entropy == other


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_a_floor_is_in_force_at_once_in_compiled_and_exported_code(name: str) -> None:
    """One graph, whose buffer the setter fills."""
    make, other, _ = FAMILY[name]
    head = make()
    raw = _at_edge(head)
    compiled = torch.compile(head.params, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(head, (raw,)).module()
    before = compiled(raw)[-1]
    head.target_entropy = other
    torch.testing.assert_close(compiled(raw), head.params(raw))
    assert not torch.equal(compiled(raw)[-1], before)
    exported.load_state_dict(head.state_dict(), strict=False)
    torch.testing.assert_close(exported(raw), head(raw))


def test_floors_are_stacked_like_parameters(name: str) -> None:
    """torch.func over heads of two floors is each head by itself."""
    make, other, _ = FAMILY[name]
    first, second = make(), make()
    second.target_entropy = other
    raw = _at_edge(first)
    _, buffers = torch.func.stack_module_state([first, second])

    def call(buffers: dict[str, Tensor], raw: Tensor) -> Tensor:
        out = torch.func.functional_call(first, buffers, (raw,))
        return out[-1] if isinstance(out, tuple) else out

    both = torch.vmap(call, in_dims=(0, None))(buffers, raw)
    for one, head in zip(both, (first, second), strict=True):
        out = head(raw)
        torch.testing.assert_close(one, out[-1] if isinstance(out, tuple) else out)


def test_floors_are_saved_and_are_missing_in_files_of_before(name: str) -> None:
    make, other, _ = FAMILY[name]
    head, fresh = make(), make()
    head.target_entropy = other
    fresh.load_state_dict(head.state_dict())
    assert fresh.target_entropy == copy.deepcopy(head).target_entropy == other
    names = {"gaussian": "gaussian.delta", "tanh": "delta", "normal": "delta"}
    head.load_state_dict({names[name]: torch.tensor(0.3)} if name in names else {})
    assert head.target_entropy == other
    if name in names:
        assert head.delta.item() == pytest.approx(0.3)


def test_half_precision_does_not_move_a_floor(name: str) -> None:
    """-0.9 is -0.8984 in bfloat16."""
    head = FAMILY[name][0]()
    floor = head.target_entropy
    moved = nn.Sequential(head).to(torch.bfloat16).float()[0]
    assert moved.target_entropy == floor
    assert moved.get_buffer("_target_entropy").dtype == torch.float64


def test_bounds_of_log_std_are_settings_too() -> None:
    """log_std >= log_std_min, log_std <= log_std_max."""
    for head in (TruncatedGaussianHead(3), GaussianHead(3)):
        raw = torch.randn(99, 6) * 30.0
        head.log_std_min = -1.0
        assert head.params(raw)[1].min().item() == -1.0
        with pytest.raises(ValueError, match=r"log_std_min=0.5 must be in \[-20.0"):
            head.log_std_min = 0.5
    head.log_std_max = 0.5
    assert 0.0 < head.params(raw)[1].max().item() <= 0.5
    with pytest.raises(ValueError, match=r"log_std_max=0.5 needs floor='gaussian'"):
        TruncatedGaussianHead(3).log_std_max = 0.5


def test_options_make_the_heads_with_the_defaults_of_their_algorithms() -> None:
    """H0 = nats_per_dim D, -0.5 or -0.3; a fraction of the largest entropy for discrete actions."""
    assert PolicyOptions().bounded_head(3).target_entropy == -1.5
    on_policy = OnPolicyOptions().bounded_head(3)
    assert on_policy.target_entropy == pytest.approx(-0.9, abs=1e-15)
    assert on_policy.log_std_min == -5.0
    assert PolicyOptions(nats_per_dim=-1.0).bounded_head(3).target_entropy == -3.0
    discrete = PolicyOptions(target_entropy_fraction=0.5).discrete_head([4, 4])
    assert discrete.target_entropy == pytest.approx(math.log(4.0))
    kinds = {"truncated": TruncatedGaussianHead, "tanh": TanhGaussianHead, "normal": GaussianHead}
    for distribution, kind in kinds.items():
        assert type(PolicyOptions(distribution=distribution).bounded_head(2)) is kind


def test_no_component_loses_its_noise_to_the_others() -> None:
    """H_i >= f ln n_i in every component, of logits that would take all from it, in float64."""
    head = MultiCategoricalHead([3, 2, 40], target_entropy_fraction=0.4)
    for component in range(3):
        mine = head._index[component].unique()
        raw = torch.randn(50, head.raw_dim, dtype=torch.float64)
        raw[:, mine] *= 1e3
        raw[:25, mine[1]] += 1e6
        entropies = head.entropies(head.params(raw))
        floors = 0.4 * torch.tensor([3.0, 2.0, 40.0], dtype=torch.float64).log()
        assert (entropies >= floors - 1e-9).all()
        torch.testing.assert_close(entropies[:25, component], floors[component].expand(25))
        assert head.entropy(head.params(raw)).min() >= head.target_entropy - 1e-9


def test_the_entropies_of_dimensions_add_up(name: str) -> None:
    """H = sum_i H_i, each that of the dimension by itself."""
    head = FAMILY[name][0]()
    params = head.params(torch.randn(6, head.raw_dim))
    entropies = head.entropies(params)
    assert entropies.shape == (
        6,
        getattr(head, "action_dim", len(getattr(head, "num_actions", "1"))),
    )
    torch.testing.assert_close(entropies.sum(-1), head.entropy(params))


def test_floors_of_before_are_held_for_each_row(name: str) -> None:
    """Under ``holding`` row j has the policy that it would have alone at its own floor."""
    make, other, _ = FAMILY[name]
    head = make()
    if name in ("categorical", "lambert"):
        return  # no policy of SB3 is made of them
    before = head.target_entropy
    raw = _at_edge(head)
    floors = torch.linspace(before, other, len(raw))
    with head.holding(floors):
        together = head.params(raw)
    assert head.target_entropy == before
    for row in (0, len(raw) // 2, len(raw) - 1):
        head.target_entropy = floors[row].item()
        for found, expected in zip(together, head.params(raw[row : row + 1]), strict=True):
            torch.testing.assert_close(found[row : row + 1], expected, rtol=1e-5, atol=1e-5)


def test_a_component_without_a_valid_action_is_uniform() -> None:
    """As in sb3-contrib, which trains on; the others keep their floor."""
    head = MultiCategoricalHead([3, 4], target_entropy_fraction=0.5)
    mask = torch.tensor([[False] * 3 + [True, True, False, False], [True] * 7])
    logits = head(9.0 * torch.randn(2, 7), mask)
    assert torch.equal(logits[0, :3].softmax(-1), torch.full((3,), 1.0 / 3.0))
    assert logits[0, 5:].tolist() == [-math.inf] * 2
    expected = 0.5 * torch.tensor([math.log(2.0), math.log(12.0)])
    torch.testing.assert_close(head.floor(mask), expected)


@pytest.mark.parametrize(
    ("low", "high"), [(-3.4e38, 3.4e38), (0.5, 0.5), (1.0, -1.0), (-math.inf, 1.0), (0.0, math.nan)]
)
def test_bounds_without_a_range_are_named_by_their_dimension(low: float, high: float) -> None:
    lows, highs = torch.tensor([[-1.0, low]]), torch.tensor([[1.0, high]])
    expected = r"^spec: the bounds of dimension 1 are low=.* 1e\+09 in torch.float32$"
    with pytest.raises(ValueError, match=expected):
        check_bounds("spec", lows, highs)
    with pytest.raises(ValueError, match=r"spec must have floating-point actions, not torch\.int8"):
        check_bounds("spec", lows.new_zeros(2, dtype=torch.int8), highs)
    check_bounds("spec", torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 1e8]))
