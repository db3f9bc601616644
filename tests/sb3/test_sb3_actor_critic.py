"""The actor-critic policies: their floors, spaces, ratios and masks."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, DISCRETE, FAMILY, MULTI_DISCRETE, ON_POLICY, small, some_states
from sb3_toys import TargetEnv
from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import Tensor

from era_rl.sb3 import PPOERA, MaskablePPOERA

MASKED_FRACTION = 0.6


def _scrambled(model: Any, scale: float = 20.0) -> Any:
    """Return the model's policy with an action layer that asks for extreme outputs."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.policy.action_net.parameters():
            parameter.normal_(0.0, scale)
    return model.policy


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize(
    ("space", "options", "floor"),
    [
        (BOX, {}, -0.6),
        (BOX, {"target_entropy": 0.5}, 0.5),
        (BOX, {"slack": 0.3}, -0.6),
        (BOX, {"distribution": "normal"}, -0.6),
        (BOX, {"distribution": "normal", "target_entropy": 1.0, "log_std_max": 0.5}, 1.0),
        (DISCRETE, {}, 0.3 * math.log(4)),
        (DISCRETE, {"target_entropy": 1.2}, 1.2),
        (DISCRETE, {"target_entropy_fraction": 0.9}, 0.9 * math.log(4)),
        (MULTI_DISCRETE, {}, 0.3 * math.log(12)),
        (MULTI_DISCRETE, {"target_entropy": 2.0}, 2.0),
    ],
    ids=str,
)
def test_the_floor_holds_whatever_the_network_says(
    name: str, space: spaces.Space, options: dict[str, Any], floor: float
) -> None:
    model: Any = small(name, space, **options)
    assert model.policy.target_entropy == pytest.approx(floor)
    with torch.no_grad():
        entropy = _scrambled(model).entropy(torch.as_tensor(some_states(model, 500)))
    assert entropy.min().item() >= floor - 1e-6
    assert np.isfinite(entropy.numpy()).all()


def test_the_default_floor_is_minus_three_tenths_of_a_nat_per_dimension() -> None:
    for kind in ("truncated", "tanh", "normal"):
        assert PPOERA("MlpPolicy", TargetEnv(5), distribution=kind).target_entropy == -1.5


def test_the_std_depends_on_the_state() -> None:
    for options in ({}, {"distribution": "normal"}):
        model: Any = small("PPOERA", BOX, **options)
        policy = _scrambled(model, 1.0)
        log_std = policy.dist_params(policy.raw_params(torch.as_tensor(some_states(model))))[1]
        assert (log_std.std(0) > 1e-2).all()


def test_actions_are_normalised_or_clipped_to_the_bounds() -> None:
    env = TargetEnv(2, bounds=(-3.0, 1.0))
    squashed: Any = small("PPOERA", env)
    actions = squashed.policy.predict(some_states(squashed, 2_000))[0]
    assert actions.min() >= -3.0
    assert actions.max() <= 1.0
    assert actions.mean() == pytest.approx(-1.0, abs=0.1)  # the middle of the bounds
    plain: Any = small("PPOERA", env, distribution="normal")
    distribution = plain.policy.get_distribution(torch.as_tensor(some_states(plain, 3)))
    # the floor is that of actions normalised to [-1, 1]: half the range is 2, ln 2 a dimension
    host = DiagGaussianDistribution(2).proba_distribution(*distribution.params)
    assert host.entropy().min().item() == pytest.approx(-0.6 + 2.0 * math.log(2.0), abs=1e-6)
    actions = distribution.sample()
    torch.testing.assert_close(distribution.log_prob(actions), host.log_prob(actions))
    assert plain.policy.entropy(torch.as_tensor(some_states(plain, 3))).min() >= -0.6 - 1e-6


@pytest.mark.parametrize("action_dim", [1, 6, 61])
def test_a_flipped_mean_keeps_the_update_finite(action_dim: int) -> None:
    """Every mean jumps from one end of the range to the other, std as narrow as it can be."""
    model: Any = small("PPOERA", TargetEnv(action_dim))
    head = model.policy.head
    raw = torch.zeros(64, head.raw_dim)
    raw[:, :action_dim] = 6.0
    raw[:, action_dim] = 100.0  # the first dimension takes the whole budget
    old = model.policy.action_dist.proba_distribution(*model.policy.dist_params(raw))
    torch.manual_seed(0)
    actions = old.sample()
    old_log_prob = old.log_prob(actions)
    flipped = raw.clone()
    flipped[:, :action_dim] = -6.0
    flipped.requires_grad_()
    new = model.policy.action_dist.proba_distribution(*model.policy.dist_params(flipped))
    log_ratio = new.log_prob(actions) - old_log_prob
    assert log_ratio.isfinite().all()
    assert log_ratio.min() >= -action_dim * 2.0 * math.exp(-2.0 * head.log_std_min) - 100.0
    ratio = log_ratio.exp()
    for advantage in (1.0, -1.0):
        loss = -torch.min(advantage * ratio, advantage * ratio.clamp(0.8, 1.2)).mean()
        (gradient,) = torch.autograd.grad(loss, flipped, retain_graph=True)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("log_std_min", [-5.0, -8.0])
def test_the_floor_bounds_the_density_and_so_the_ratio(log_std_min: float) -> None:
    """p(a|s) <= exp(D / 2 - H0) for every action, whatever the network says."""
    model: Any = small("PPOERA", TargetEnv(6), log_std_min=log_std_min)
    policy = _scrambled(model, 5.0)
    params = policy.dist_params(policy.raw_params(torch.as_tensor(some_states(model, 2_000))))
    distribution = policy.action_dist.proba_distribution(*params)
    highest = distribution.log_prob(distribution.mode())
    assert highest.max().item() <= 6 / 2 - policy.target_entropy + 1e-4


@pytest.mark.parametrize(
    ("space", "arguments", "message"),
    [
        (BOX, {"use_sde": True}, "use_sde=True must be False"),
        (BOX, {"target_entropy_fraction": 0.5}, "target_entropy_fraction=0.5 is for discrete"),
        (BOX, {"target_entropy": 2.0}, "target_entropy=2.0 must be below 1.38"),
        (BOX, {"distribution": "normal", "slack": 0.1}, "slack=0.1 must be None with distribution"),
        (BOX, {"distribution": "normal", "floor": "exact"}, "floor='exact' must be 'gaussian'"),
        (
            BOX,
            {"distribution": "normal", "delta": "auto"},
            "delta='auto' must be left out with distribution='normal'",
        ),
        (BOX, {"delta": "auto"}, "delta='auto' needs floor='gaussian'"),
        (DISCRETE, {"distribution": "normal"}, "distribution='normal' is for bounded actions"),
        (DISCRETE, {"slack": 0.2}, "slack=0.2 is for bounded actions"),
        (DISCRETE, {"target_entropy": 1.4}, "target_entropy=1.4 must be in [0, 1.38629)"),
        (DISCRETE, {"target_entropy": -0.1}, "target_entropy=-0.1 must be in [0, 1.38629)"),
        (
            DISCRETE,
            {"target_entropy_fraction": 1.0},
            "target_entropy_fraction=1.0 must be in [0, 1)",
        ),
        (DISCRETE, {"target_entropy": 1.0, "target_entropy_fraction": 0.5}, "exclude each other"),
    ],
    ids=str,
)
def test_refuses(space: spaces.Space, arguments: dict[str, Any], message: str) -> None:
    for name in ON_POLICY:
        with pytest.raises(ValueError, match=re.escape(message)):
            small(name, space, **arguments)


def test_refuses_spaces_without_a_head() -> None:
    env = TargetEnv()
    env.action_space = spaces.MultiDiscrete([[2, 3], [2, 3]])  # type: ignore[assignment]
    for name in (*ON_POLICY, "MaskablePPOERA"):
        with pytest.raises(
            ValueError, match=r"(?s)action_space=MultiDiscrete.* must be a bounded Box"
        ):
            FAMILY[name]("MlpPolicy", env)
    with pytest.raises(AssertionError, match=r"only supports .*Discrete"):
        MaskablePPOERA("MlpPolicy", TargetEnv())


class TestMasks:
    def _model(self, space: spaces.Space, **kwargs: Any) -> Any:
        return small("MaskablePPOERA", space, target_entropy_fraction=MASKED_FRACTION, **kwargs)

    def _masks(self, sizes: list[int], n: int) -> Tensor:
        """Return random masks with at least one valid action of each component."""
        rng = np.random.default_rng(0)
        parts = [rng.random((n, size)) < rng.random((n, 1)) for size in sizes]
        for part in parts:
            part[np.arange(n), rng.integers(part.shape[1], size=n)] = True
        return torch.as_tensor(np.concatenate(parts, axis=1))

    @pytest.mark.parametrize("space", [DISCRETE, MULTI_DISCRETE], ids=["one", "several"])
    def test_the_floor_is_met_by_what_the_mask_leaves(self, space: spaces.Space) -> None:
        model = self._model(space)
        policy = _scrambled(model, 5.0)
        obs = torch.as_tensor(some_states(model, 4_000))
        masks = self._masks(policy.head.num_actions, 4_000)
        with torch.no_grad():
            distribution = policy.get_distribution(obs, masks.numpy())
        parts = getattr(distribution, "distributions", None) or [distribution.distribution]
        counts = torch.stack([m.sum(-1) for m in masks.split(policy.head.num_actions, 1)], 1)
        floor = (MASKED_FRACTION * counts.log()).sum(-1)
        assert (distribution.entropy() - floor).min() >= -2e-6
        torch.testing.assert_close(policy.head.floor(masks), floor)
        probs = torch.cat([part.probs for part in parts], dim=1)
        assert (probs[~masks] == 0.0).all()
        # where one action of a component is valid it is taken
        for part, mask in zip(parts, masks.split(policy.head.num_actions, 1), strict=True):
            lone = mask.sum(-1) == 1
            assert (part.probs[lone][mask[lone]] == 1.0).all()

    @pytest.mark.parametrize("space", [DISCRETE, MULTI_DISCRETE], ids=["one", "several"])
    def test_a_pass_meets_the_floor_once(self, space: spaces.Space) -> None:
        """With a mask under it alone; without, or with one taken back, under none."""
        policy = _scrambled(self._model(space), 5.0)
        obs = torch.as_tensor(policy.observation_space.sample()[None])
        masks = torch.ones(1, policy.head.raw_dim, dtype=torch.bool)
        calls: list[int] = []
        policy.head.register_forward_hook(lambda *call: calls.append(len(call[1])))
        for given in (masks.numpy(), None):
            calls.clear()
            distribution = policy.get_distribution(obs, given)
            entropy = distribution.entropy()
            distribution.sample()
            assert calls == [1 if given is None else 2]
        distribution.apply_masking(masks.numpy())
        distribution.apply_masking(None)
        assert torch.equal(distribution.entropy(), entropy)

    def test_gradients_are_finite_and_reach_valid_actions_only(self) -> None:
        model = self._model(DISCRETE)
        policy = model.policy
        raw = (10.0 * torch.randn(200, 4)).requires_grad_()
        masks = self._masks([4], 200)
        distribution = policy.action_dist.proba_distribution(raw)
        distribution.apply_masking(masks.numpy())
        actions = distribution.sample()
        loss = distribution.log_prob(actions).sum() + distribution.entropy().sum()
        (gradient,) = torch.autograd.grad(loss, raw)
        assert gradient.isfinite().all()
        assert (gradient[~masks] == 0.0).all()
        assert (gradient[masks] != 0.0).any()

    def test_without_masks_it_is_the_floor_of_all_actions(self) -> None:
        model = self._model(DISCRETE)
        obs = torch.as_tensor(some_states(model, 100))
        policy = _scrambled(model)
        with torch.no_grad():
            distribution = policy.get_distribution(obs)
            free = distribution.entropy()
            distribution.apply_masking(np.eye(4, dtype=bool)[:1].repeat(100, 0))
            distribution.apply_masking(None)
        assert free.min().item() >= policy.target_entropy - 1e-6
        assert torch.equal(free, distribution.entropy())

    @pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
    def test_refuses(self, fraction: float) -> None:
        with pytest.raises(ValueError, match=re.escape(f"target_entropy_fraction={fraction} must")):
            small("MaskablePPOERA", DISCRETE, target_entropy_fraction=fraction)
        with pytest.raises(ValueError, match="use_sde=True must be False"):
            small("MaskablePPOERA", DISCRETE, use_sde=True)
