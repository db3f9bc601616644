"""The heads are the activations with settings: plain tensors in and out, and TensorDict modules."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import NormalParamExtractor

from era_rl.core import (
    CategoricalHead,
    GaussianHead,
    MultiCategoricalHead,
    TruncatedGaussianHead,
    auto_target_entropy,
    gaussian_era,
    normal_entropy,
    softmax_era,
    truncated_normal_entropy,
    truncated_normal_era,
)

# (num_classes, H0, method, attained H, p_max, cross-entropy floor) for tau = 4
ATTAINED = [
    (10, 0.4, "lambert", 0.665, 0.872, 0.137),
    (10, 0.4, "paper", 0.685, 0.867, 0.143),
    (10, 0.6, "lambert", 0.970, 0.792, 0.234),
    (10, 0.6, "paper", 0.982, 0.788, 0.238),
    (10, 0.8, "lambert", 1.266, 0.701, 0.355),
    (10, 0.8, "paper", 1.270, 0.700, 0.357),
    (1000, 0.6, "lambert", 1.115, 0.889, 0.118),
    (1000, 0.6, "paper", 1.464, 0.849, 0.163),
]


@pytest.mark.parametrize(("classes", "floor", "method", "entropy", "prob", "loss"), ATTAINED)
def test_attained_floor_and_largest_probability(
    classes, floor, method, entropy, prob, loss
) -> None:
    head = CategoricalHead(classes, target_entropy=floor, method=method)
    assert head.entropy_floor == pytest.approx(entropy, abs=5.01e-4)
    assert head.max_prob == pytest.approx(prob, abs=5.01e-4)
    assert -math.log(head.max_prob) == pytest.approx(loss, abs=5.01e-4)


def test_temperature_attains_its_floor() -> None:
    head = CategoricalHead(18)
    assert head.target_entropy == pytest.approx(0.3 * math.log(18))
    assert head.entropy_floor == pytest.approx(head.target_entropy, abs=1e-12)


def test_no_logits_go_below_the_attained_floor_or_above_the_largest_probability() -> None:
    for classes, floor, method, *_ in ATTAINED:
        head = CategoricalHead(classes, target_entropy=floor, method=method)
        probs = head(20.0 * torch.randn(2000, classes, dtype=torch.float64)).softmax(-1)
        assert probs.max() <= head.max_prob + 1e-12
        assert -(probs * probs.log()).sum(-1).min() >= head.entropy_floor - 1e-12


def test_auto_floor_is_half_a_nat_below_zero_per_dimension() -> None:
    assert auto_target_entropy(6) == -3.0
    assert auto_target_entropy(6, -0.3) == pytest.approx(-1.8)
    assert GaussianHead(6).target_entropy == -3.0
    assert TruncatedGaussianHead(6).target_entropy == -3.0


def test_exact_head_is_the_activation_on_tanh_means() -> None:
    raw = torch.randn(5, 7, 8)
    loc, scale = TruncatedGaussianHead(4, target_entropy=-1.0, log_std_min=-6.0)(raw)
    assert torch.equal(loc, raw[..., :4].tanh())
    log_std = truncated_normal_era(loc, raw[..., 4:], target_entropy=-1.0, log_std_min=-6.0)
    assert torch.equal(scale, log_std.exp())


def test_gaussian_floor_is_equation_11_with_its_delta_buffer() -> None:
    raw = torch.randn(5, 8)
    head = TruncatedGaussianHead(4, target_entropy=1.0, floor="gaussian", delta=0.5)
    loc, log_std = head.params(raw)
    assert torch.equal(loc, raw[:, :4].tanh())
    expected = gaussian_era(raw[:, 4:], target_entropy=1.0, delta=0.5)
    torch.testing.assert_close(log_std, expected)
    assert (normal_entropy(log_std).sum(-1) >= 1.5 - 1e-5).all()
    head.delta.fill_(0.1)
    expected = gaussian_era(raw[:, 4:], target_entropy=1.0, delta=0.1)
    torch.testing.assert_close(head.params(raw)[1], expected)


def test_gaussian_head_leaves_the_mean_unbounded() -> None:
    raw = 10.0 * torch.randn(5, 8)
    loc, scale = GaussianHead(4, target_entropy=1.0)(raw)
    assert torch.equal(loc, raw[:, :4])
    torch.testing.assert_close(scale.log(), gaussian_era(raw[:, 4:], target_entropy=1.0))


@pytest.mark.parametrize("slack", [0.1, 0.5])
def test_slack_starts_at_its_share_of_the_budget(slack) -> None:
    head = TruncatedGaussianHead(4, target_entropy=-2.0, slack=slack)
    assert head.raw_dim == 9
    loc, log_std = head.params(torch.zeros(9, dtype=torch.float64))
    entropy = truncated_normal_entropy(loc, log_std).sum().item()
    budget = 4 * (math.log(2.0) - 1e-3) + 2.0
    assert entropy == pytest.approx(-2.0 + slack * budget, abs=1e-9)


def test_categorical_head_is_softmax_era() -> None:
    logits = torch.randn(6, 5)
    head = CategoricalHead(5, target_entropy=0.5, tau=3.0, method="lambert")
    assert torch.equal(head(logits), softmax_era(logits, target_entropy=0.5, tau=3.0))


def test_heads_pass_other_tensors_through_like_normal_param_extractor() -> None:
    raw, other = torch.randn(3, 8), torch.randn(3, 1)
    head, host = TruncatedGaussianHead(4), NormalParamExtractor()
    ours, theirs = head(raw, other), host(raw, other)
    assert [t.shape for t in ours] == [t.shape for t in theirs]
    assert ours[2] is other


def test_heads_are_tensordict_modules_under_any_keys() -> None:
    raw = torch.randn(3, 8)
    data = TensorDict({"raw": raw, "logits": torch.randn(3, 5)}, [3])
    loc, scale = TruncatedGaussianHead(4)(raw)
    out = TruncatedGaussianHead(4).as_tensordict_module()(data.clone())
    assert torch.equal(out["loc"], loc)
    assert torch.equal(out["scale"], scale)
    nested = TruncatedGaussianHead(4).as_tensordict_module(
        in_keys=["raw"], out_keys=[("agent", "loc"), ("agent", "scale")]
    )
    assert torch.equal(nested(data.clone())["agent", "scale"], scale)
    head = CategoricalHead(5)
    assert torch.equal(head.as_tensordict_module()(data)["logits"], head(data["logits"]))


def test_heads_have_no_parameters_and_survive_copy_and_state_dict() -> None:
    raw = torch.randn(3, 8)
    for head in (
        TruncatedGaussianHead(4),
        TruncatedGaussianHead(4, floor="gaussian", delta=0.2),
        GaussianHead(4, delta=0.2),
    ):
        assert not list(head.parameters())
        copied = copy.deepcopy(head)
        copied.load_state_dict(head.state_dict())
        torch.testing.assert_close(copied(raw), head(raw), rtol=0.0, atol=0.0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace")
@pytest.mark.parametrize("method", ["lambert", "paper", "temperature"])
def test_a_traced_categorical_head_equals_the_head(method) -> None:
    """torch.jit.trace, with sizes as tensors, and torch.fx give the same logits at other inputs."""
    head = CategoricalHead(10, target_entropy=0.6, method=method)
    logits = 9.0 * torch.randn(3, 10)
    traced = torch.jit.trace(head, torch.randn(2, 10))
    torch.testing.assert_close(traced(logits), head(logits))
    torch.testing.assert_close(torch.fx.symbolic_trace(head)(logits), head(logits))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")
def test_a_traced_policy_head_is_saved(tmp_path: Path) -> None:
    """Traced with gradients on, though its derivative is a Python function."""
    head, logits = MultiCategoricalHead([3, 2]), 9.0 * torch.randn(4, 5)
    torch.jit.save(torch.jit.trace(head, torch.randn(2, 5)), tmp_path / "head.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "head.pt")(logits), head(logits))
    each, raw = TruncatedGaussianHead(2, min_entropy_per_dim=-1.0), 9.0 * torch.randn(4, 4)
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(each, torch.randn(2, 4)), tmp_path / "each.pt")
    torch.testing.assert_close(torch.jit.load(tmp_path / "each.pt")(raw), each(raw))


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning", "ignore::DeprecationWarning")
def test_heads_name_what_to_take_for_torch_jit_script() -> None:
    """Within a model too, which torch.jit.script takes without the head."""
    for head in (CategoricalHead(5), MultiCategoricalHead([3, 2]), TruncatedGaussianHead(2)):
        with pytest.raises(ValueError, match=r"by torch\.jit\.script: take"):
            torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, head.raw_dim), head))


def test_heads_have_the_distributions_of_torch() -> None:
    """Their entropies, and densities of samples, are the head's, summed over dimensions."""
    params = {"target_entropy": 0.4}
    for head in (
        *(TruncatedGaussianHead(3, **params), GaussianHead(3, **params)),
        *(CategoricalHead(5, **params), MultiCategoricalHead([3, 1, 4], **params)),
    ):
        parameters = head.params(torch.randn(7, head.raw_dim))
        distribution = head.distribution(parameters)
        action, entropy = distribution.sample(), distribution.entropy()
        log_prob = distribution.log_prob(action)
        if not isinstance(head, CategoricalHead):
            log_prob, entropy = log_prob.sum(-1), entropy.sum(-1)
        torch.testing.assert_close(entropy, head.entropy(parameters))
        torch.testing.assert_close(log_prob, head.log_prob(parameters, action))


def test_a_policys_floor_is_an_inequality_in_its_derivative_too() -> None:
    """dL/dz = beta (G - alpha u), alpha = max(0, -Cov(y, v) / Var(y)) where H = H0, for L = sum_a pi v.

    With alpha of either sign it is the exact derivative, softmax_era's. G = pi (v - E[v]) and
    u = pi (y - E[y]) are the gradients of L and of -H at y = beta z; moments are under pi.
    """
    logits = 3.0 * torch.randn(400, 3, dtype=torch.float64)
    values = torch.randn(400, 3, dtype=torch.float64)
    logits.requires_grad_()
    target = torch.tensor(0.3 * math.log(3.0), dtype=torch.float64)
    floored = softmax_era(logits, target_entropy=target, method="temperature")
    ours = MultiCategoricalHead([3])(logits)
    assert torch.equal(ours, floored)
    exact, found = (
        torch.autograd.grad((y.softmax(-1) * values).sum(), logits)[0] for y in (floored, ours)
    )
    y, probs = floored.detach(), floored.detach().softmax(-1)
    centred = y - (probs * y).sum(-1, keepdim=True)
    gradient = probs * (values - (probs * values).sum(-1, keepdim=True))
    resists = (gradient * centred).sum(-1) < 0.0
    binds = (y != logits).any(-1)
    assert all(50 < n < 350 for n in (binds.sum(), (binds & ~resists).sum()))
    same = ~binds | resists
    torch.testing.assert_close(found[same], exact[same], rtol=1e-12, atol=1e-12)
    beta = (y.amax(-1) - y.amin(-1)) / (logits.amax(-1) - logits.amin(-1)).detach()
    expected = (beta[:, None] * gradient)[~same]
    torch.testing.assert_close(found[~same], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "head", [MultiCategoricalHead([2]), MultiCategoricalHead([3]), CategoricalHead(2)]
)
def test_an_action_ahead_in_error_falls_back(head: Any) -> None:
    """From anywhere to the most that a floor allows, sum_a pi v at H(softmax(beta v)) = H0."""
    n = head.raw_dim
    logits, values = 3.0 * torch.randn(20, n), torch.randn(20, n)
    optimizer = torch.optim.Adam([logits.requires_grad_()], lr=0.1)

    def gains(logits: torch.Tensor) -> torch.Tensor:
        return (head(logits).softmax(-1) * values).sum(-1)

    for _ in range(200):
        optimizer.zero_grad()
        (-gains(logits).sum()).backward()
        optimizer.step()
    best = gains(1e4 * values)
    torch.testing.assert_close(gains(logits).detach(), best, rtol=0.0, atol=0.02)
