"""The SB3 distributions: entropies against samples, modes, shapes, densities."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from era_rl.core import TanhGaussianHead, TruncatedGaussianHead, TruncatedNormal
from era_rl.sb3 import HeadDistribution


def truncated(action_dim: int) -> HeadDistribution:
    return HeadDistribution(TruncatedGaussianHead(action_dim))


def tanh(action_dim: int) -> HeadDistribution:
    return HeadDistribution(TanhGaussianHead(action_dim, target_entropy=0.0))


DISTRIBUTIONS = [truncated, tanh]
PARAMETERS = [(0.0, -1.0), (0.7, -0.5), (-0.95, -2.0), (0.3, 0.0), (0.0, -4.0)]


def _parameters(loc: float, log_std: float, n: int, action_dim: int = 3) -> tuple[Tensor, Tensor]:
    signs = torch.tensor([1.0, -1.0, 0.5])[:action_dim].double()
    shape = (n, action_dim)
    return (loc * signs).expand(shape), torch.full(shape, log_std, dtype=torch.float64)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize(("loc", "log_std"), PARAMETERS)
def test_entropy_is_the_mean_of_minus_log_prob(
    distribution: Any, loc: float, log_std: float
) -> None:
    n = 40_000
    instance = distribution(3).proba_distribution(*_parameters(loc, log_std, n))
    actions = instance.sample()
    minus_log_prob = -instance.log_prob(actions)
    error = (minus_log_prob.std() / math.sqrt(n)).item()
    entropy = instance.entropy()
    assert entropy.shape == (n,)
    assert entropy.mean().item() == pytest.approx(
        minus_log_prob.mean().item(), abs=5 * error + 1e-4
    )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_shapes_and_bounds(distribution: Any) -> None:
    instance = distribution(3).proba_distribution(*_parameters(0.9, 0.0, 50))
    for actions in (instance.sample(), instance.mode(), instance.get_actions(deterministic=True)):
        assert actions.shape == (50, 3)
        assert actions.abs().max() <= 1.0
    assert instance.log_prob(instance.sample()).shape == (50,)


def test_the_mode_is_where_the_density_is_highest() -> None:
    loc, log_std = _parameters(0.6, -1.0, 1)
    instance = truncated(3).proba_distribution(loc, log_std)
    highest = instance.log_prob(instance.mode())
    nearby = (instance.mode() + 0.05 * torch.randn(200, 3).double()).clamp(-1.0, 1.0)
    wide = instance.proba_distribution(loc.expand(200, 3), log_std.expand(200, 3))
    assert (wide.log_prob(nearby) < highest).all()
    squashed = tanh(3).proba_distribution(loc, log_std)
    assert torch.equal(squashed.mode(), torch.tanh(loc))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_actions_and_log_prob_from_params_agree(distribution: Any) -> None:
    loc, log_std = _parameters(0.4, -1.0, 20)
    torch.manual_seed(1)
    actions, log_prob = distribution(3).log_prob_from_params(loc, log_std)
    torch.manual_seed(1)
    assert torch.equal(actions, distribution(3).actions_from_params(loc, log_std))
    expected = distribution(3).proba_distribution(loc, log_std).log_prob(actions)
    torch.testing.assert_close(log_prob, expected, rtol=1e-6, atol=1e-6)
    mode = distribution(3).actions_from_params(loc, log_std, deterministic=True)
    assert torch.equal(mode, distribution(3).proba_distribution(loc, log_std).mode())


def test_the_truncated_normal_is_that_of_the_core() -> None:
    loc, log_std = _parameters(0.4, -1.0, 20)
    instance = truncated(3).proba_distribution(loc, log_std)
    core = TruncatedNormal(loc, log_std.exp())
    actions = instance.sample()
    torch.testing.assert_close(instance.log_prob(actions), core.log_prob(actions))
    torch.testing.assert_close(instance.entropy(), core.entropy())


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_samples_are_reparameterised(distribution: Any) -> None:
    loc, log_std = (p.clone().requires_grad_() for p in _parameters(0.4, -1.0, 20))
    distribution(3).actions_from_params(loc, log_std).sum().backward()
    for parameter in (loc, log_std):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert (parameter.grad != 0).all()


def test_the_layers_give_the_raw_outputs() -> None:
    layer = truncated(3).proba_distribution_net(8)
    assert layer(torch.as_tensor(np.zeros((5, 8), np.float32))).shape == (5, 6)
