"""ERAActor on every kind of action spec, inside TorchRL."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import (
    Binary,
    Bounded,
    Categorical,
    Composite,
    MultiCategorical,
    OneHot,
    TensorSpec,
    Unbounded,
)
from torchrl.envs import ActionMask, Compose, GymWrapper, RenameTransform, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import NormalParamExtractor

from era_rl.core import OnPolicyOptions, PolicyOptions, TruncatedGaussianHead, TruncatedNormal
from era_rl.torchrl import ERAActor, ERAParamExtractor, raw_dim

LOW, HIGH = torch.tensor([-2.0, 0.0, -0.5]), torch.tensor([1.0, 10.0, 0.5])
MASK = torch.tensor([True, False, True, True])
TANH = PolicyOptions(distribution="tanh")
SPECS = {
    "unit": Bounded(-1.0, 1.0, (3,)),
    "per-dimension": Bounded(LOW, HIGH, (3,)),
    "batched": Bounded(LOW.expand(7, 3), HIGH.expand(7, 3), (7, 3)),
    "one-hot": OneHot(4),
    "one-hot-batched": OneHot(4, shape=(7, 4)),
    "categorical": Categorical(4),
    "categorical-batched": Categorical(4, shape=(7,)),
    "composite-of-one": Composite(action=OneHot(4)),
    "composite": Composite(
        action=Composite(arm=Bounded(-2.0, 2.0, (3,)), grip=OneHot(4), mode=Categorical(5))
    ),
}


def _network(
    spec: TensorSpec, gain: float = 1.0, options: PolicyOptions | None = None
) -> nn.Linear:
    network = nn.Linear(3, raw_dim(spec, options))
    nn.init.normal_(network.weight, std=gain)
    return network


def _observations(*shape: int) -> TensorDict:
    return TensorDict({"observation": torch.randn(*shape, 3)}, shape)


@pytest.mark.parametrize("gain", [1.0, 30.0], ids=["mild", "extreme"])
@pytest.mark.parametrize("name", list(SPECS))
def test_floor_holds_and_actions_fit_the_spec(name: str, gain: float) -> None:
    spec = SPECS[name]
    actor = ERAActor(_network(spec, gain), spec)
    data = _observations(7) if "batched" in name else _observations(50)
    with set_exploration_type(ExplorationType.RANDOM):
        actor(data)
    assert (actor.entropy(data) >= actor.target_entropy - 1e-5).all()
    if isinstance(spec, Composite):
        leaves = dict(spec.items(include_nested=True, leaves_only=True))
    else:
        leaves = {"action": spec}
    for key, leaf in leaves.items():
        assert data[key].dtype == (torch.float32 if leaf.dtype.is_floating_point else torch.int64)
        rows = [data[key]] if "batched" in name else data[key]
        assert all(leaf.is_in(row.to(leaf.dtype)) for row in rows)


@pytest.mark.parametrize("name", list(SPECS))
def test_deterministic_exploration_takes_the_mode(name: str) -> None:
    spec = SPECS[name]
    actor = ERAActor(_network(spec), spec)
    data = _observations(7)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        actor(data)
    if name == "composite":
        params = data["params", "action"]
        torch.testing.assert_close(data["action", "arm"], params["arm", "loc"])
        assert torch.equal(data["action", "grip"].argmax(-1), params["grip", "logits"].argmax(-1))
        assert torch.equal(data["action", "mode"], params["mode", "logits"].argmax(-1))
    elif "logits" in actor.out_keys:
        action = data["action"] if "categorical" in name else data["action"].argmax(-1)
        assert torch.equal(action, data["logits"].argmax(-1))
    else:
        policy = actor.get_dist(data)
        x = torch.rand(1000, 7, 3) * (policy.high - policy.low) + policy.low
        assert (policy.log_prob(data["action"]) >= policy.log_prob(x).amax(0)).all()


def test_bounds_scale_the_policy_on_the_unit_interval() -> None:
    network = _network(SPECS["unit"])
    unit, scaled = (ERAActor(network, SPECS[name]) for name in ("unit", "per-dimension"))
    data = _observations(20)
    half = 0.5 * (HIGH - LOW)
    torch.testing.assert_close(
        scaled(data.clone())["loc"], LOW + (unit(data.clone())["loc"] + 1.0) * half
    )
    torch.testing.assert_close(scaled.entropy(data.clone()), unit.entropy(data.clone()))
    own = scaled.get_dist(data.clone()).entropy() - half.log().sum()
    torch.testing.assert_close(own, scaled.entropy(data.clone()))


@pytest.mark.parametrize("shape", [(), (5,), (5, 6)], ids=["unbatched", "batch", "batch-time"])
def test_nested_keys_and_any_batch_shape(shape: tuple[int, ...]) -> None:
    spec = Bounded(-1.0, 1.0, (4, 2))  # four players
    actor = ERAActor(
        _network(spec),
        spec,
        in_keys=[("agents", "observation")],
        action_key=("agents", "action"),
        return_log_prob=True,
    )
    data = TensorDict({"agents": {"observation": torch.randn(*shape, 4, 3)}}, shape)
    with set_exploration_type(ExplorationType.RANDOM):
        actor(data)
    players = data["agents"]
    assert players["action"].shape == (*shape, 4, 2)
    policy = TruncatedNormal(players["loc"], players["scale"])
    torch.testing.assert_close(players["action_log_prob"], policy.log_prob(players["action"]))


@pytest.mark.parametrize(
    "spec", [SPECS["unit"], OneHot(4), Categorical(4)], ids=["bounded", "one-hot", "categorical"]
)
def test_given_noise_makes_the_sample_a_function(spec: TensorSpec) -> None:
    actor = ERAActor(_network(spec), spec, noise_key="noise")
    data = _observations(9)
    data["noise"] = torch.rand(9, 3 if spec is SPECS["unit"] else 1)
    with set_exploration_type(ExplorationType.RANDOM):
        first, second = actor(data.clone())["action"], actor(data.clone())["action"]
        data["noise"] = torch.rand_like(data["noise"])
        other = actor(data.clone())["action"]
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("noise_key", [None, "noise"])
def test_a_deterministic_one_hot_action_has_one_class(noise_key: str | None) -> None:
    """Of classes as likely it is the first valid one; TorchRL's distribution gives all of them."""
    network = nn.Linear(3, 4)
    nn.init.zeros_(network.weight)
    network.bias.data = torch.tensor([2.0, 1.0, 1.0, 0.0])
    actor = ERAActor(network, OneHot(4), noise_key=noise_key, mask_key="action_mask")
    data = _observations(3)
    data["noise"] = torch.rand(3, 1)
    data["action_mask"] = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).bool()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        actions = actor(data)["action"]
    assert actions.argmax(-1).tolist() == [1, 3, 0]
    assert OneHot(4, dtype=torch.long).is_in(actions[0])
    assert torch.equal(actions.sum(-1), torch.ones(3, dtype=torch.long))


def test_rows_of_an_action_are_those_of_what_the_network_gives() -> None:
    """A spec (2, 3) is of two environments or players; a matrix takes raw outputs (..., 2, raw_dim)."""
    spec = Bounded(-1.0, 1.0, (2, 3))
    rows = nn.Sequential(nn.Linear(3, 2 * raw_dim(spec)), nn.Unflatten(-1, (2, raw_dim(spec))))
    actor = ERAActor(rows, spec, PolicyOptions(target_entropy=-1.5))
    data = _observations(5)
    assert actor(data.clone())["action"].shape == (5, 2, 3)
    assert (actor.entropy(data) >= -1.5).all()
    assert actor.entropy(data).shape == (5, 2)
    vectors = ERAActor(_network(spec), spec)
    assert vectors(data)["action"].shape == (5, 3)


def test_samples_of_given_noise_follow_the_policy() -> None:
    spec = Categorical(4)
    actor = ERAActor(_network(spec), spec, noise_key="noise")
    n = 20_000
    data = TensorDict({"observation": torch.randn(3).expand(n, 3)}, [n])
    data["noise"] = ((torch.arange(n) + 0.5) / n)[:, None]
    with set_exploration_type(ExplorationType.RANDOM):
        actor(data)
    frequencies = torch.bincount(data["action"], minlength=4) / n
    torch.testing.assert_close(frequencies, data["logits"][0].softmax(-1), atol=1e-4, rtol=0.0)


def test_tanh_is_eq_11_with_its_compensation() -> None:
    spec = Bounded(-2.0, 2.0, (3,))
    options = PolicyOptions(target_entropy=-1.0, delta=0.5, distribution="tanh")
    actor = ERAActor(_network(spec), spec, options)
    data = _observations(50)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        actor(data)
    torch.testing.assert_close(data["action"], 2.0 * data["loc"].tanh())
    gaussian = torch.distributions.Normal(data["loc"], data["scale"]).entropy().sum(-1)
    assert (gaussian >= -0.5 - 1e-5).all()
    samples = actor.get_dist(data).rsample((20_000,))
    estimate = -actor.get_dist(data).log_prob(samples).mean(0) - 3 * torch.tensor(2.0).log()
    torch.testing.assert_close(actor.entropy(data), estimate, atol=0.05, rtol=0.0)


def test_param_extractor_is_a_drop_in_for_normal_param_extractor() -> None:
    assert ERAParamExtractor is TruncatedGaussianHead
    raw = torch.randn(5, 6)
    for extractor in (NormalParamExtractor(), ERAParamExtractor(3)):
        loc, scale = extractor(raw)
        assert loc.shape == scale.shape == (5, 3)
        assert (scale > 0).all()


def test_slack_lets_entropy_rise_above_the_floor() -> None:
    spec, options = SPECS["unit"], PolicyOptions(slack=0.2)
    actor = ERAActor(_network(spec, 0.1, options), spec, options)
    assert actor.entropy(_observations(50)).amin() > actor.target_entropy + 0.01


def _nan_bound() -> TensorSpec:
    return Bounded(-1.0, torch.tensor([1.0, torch.inf]), (2,))


@pytest.mark.parametrize(
    ("spec", "kwargs", "message"),
    [
        (Unbounded((2,)), {}, "is Unbounded"),
        (Bounded(0, 3, (2,), dtype=torch.int64), {}, "is Bounded"),
        (MultiCategorical((3, 4)), {}, "is MultiCategorical"),
        (Binary(3), {}, "is Binary"),
        (_nan_bound(), {}, "finite"),
        (Bounded(-1e10, 1e10, (2,)), {}, "finite"),
        (
            Composite(arm=Bounded(-1.0, 1.0, (4, 2)), grip=OneHot(3)),
            {},
            r"one batch shape, not .*'arm': \(4,\), 'grip': \(\)",
        ),
        (Bounded(-torch.tensor([[1.0], [2.0]]), 1.0, (2, 1)), {}, "batch"),
        (SPECS["unit"], {"options": PolicyOptions(distribution="normal")}, "distribution='normal'"),
        (SPECS["unit"], {"options": TANH, "noise_key": "noise"}, "noise_key"),
        (SPECS["unit"], {"options": PolicyOptions(target_entropy=5.0)}, "target_entropy"),
        (SPECS["unit"], {"options": PolicyOptions(deterministic_action="mean")}, "MEAN"),
        (OneHot(4), {"options": TANH}, "distribution='tanh' is for bounded actions"),
        (SPECS["composite"], {"options": {"leg": PolicyOptions()}}, "leg"),
        (SPECS["composite"], {"noise_key": "noise"}, "noise_key"),
        (SPECS["unit"], {"mask_key": "action_mask"}, "mask_key"),
        (SPECS["composite"], {"mask_key": "action_mask"}, "mask_key"),
        (OneHot(4, mask=MASK), {}, "the action spec of 'action' has a mask: give mask_key"),
        (Composite(action=Categorical(4, mask=MASK)), {}, "has a mask: give mask_key"),
    ],
    ids=[
        *(
            "unbounded",
            "integers",
            "multi-categorical",
            "binary",
            "infinite",
            "dm_control-none",
            "leading",
        ),
        "rows-differ",
        *("distribution", "tanh-noise", "infeasible", "mean", "discrete-tanh", "unknown-leaf"),
        *("composite-noise", "bounded-mask", "composite-mask", "one-hot-masked", "leaf-masked"),
    ],
)
def test_bad_input_is_refused(spec: TensorSpec, kwargs: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ERAActor(nn.Linear(3, 4), spec, **kwargs)


def test_wrong_network_width_is_refused() -> None:
    actor = ERAActor(nn.Linear(3, 5), SPECS["unit"])
    with pytest.raises(ValueError, match="raw_dim=6"):
        actor(_observations(2))


def test_composite_floors_are_given_by_leaf() -> None:
    spec = Composite(arm=Bounded(-1.0, 1.0, (2,)), grip=OneHot(3))
    options = {
        leaf: PolicyOptions(target_entropy=h0) for leaf, h0 in (("arm", -2.0), ("grip", 0.5))
    }
    assert ERAActor(_network(spec), spec, options).target_entropy == pytest.approx(-1.5)
    one = {"grip": PolicyOptions(target_entropy=0.5)}
    assert ERAActor(_network(spec), spec, one).target_entropy == pytest.approx(-0.5)


def test_a_composite_of_one_takes_its_arguments_by_leaf_too() -> None:
    spec = SPECS["composite-of-one"]
    options = {"action": PolicyOptions(target_entropy=0.5)}
    assert ERAActor(_network(spec), spec, options).target_entropy == pytest.approx(0.5)
    with pytest.raises(ValueError, match="options has the keys"):
        raw_dim(spec, {"arm": PolicyOptions()})


def test_ppo_gets_its_default_floor_by_one_argument() -> None:
    """H0 = -0.3 nats a dimension, as PPOERA's."""
    spec = SPECS["unit"]
    actor = ERAActor(_network(spec), spec, OnPolicyOptions())
    assert actor.target_entropy == pytest.approx(-0.3 * 3)


def test_expanded_distributions_keep_their_noise() -> None:
    loc, noise = torch.zeros(3), torch.rand(3)
    policy = TruncatedNormal(loc, loc + 0.5, LOW, HIGH, noise=noise)
    expanded = policy.expand([5])
    assert expanded.batch_shape == (5,)
    torch.testing.assert_close(expanded.rsample(), policy.rsample().expand(5, 3))
    torch.testing.assert_close(expanded.entropy(), policy.entropy().expand(5))
    assert torch.equal(expanded.high, HIGH)
    with pytest.raises(ValueError, match=r"sample_shape=\(2,\) must be empty"):
        expanded.rsample((2,))


class _Masked(gymnasium.Env):
    """Of five actions those that the mask, drawn at every step, forbids end in an error."""

    action_space = gymnasium.spaces.Discrete(5)
    observation_space = gymnasium.spaces.Dict(
        observation=gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32),
        action_mask=gymnasium.spaces.Box(0, 1, (5,), np.bool_),
    )

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.mask = self.np_random.random(5) < 0.5
        self.mask[self.np_random.integers(5)] = True
        observation = self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32)
        return {"observation": observation, "action_mask": self.mask}, {}

    def step(self, action: int) -> tuple[dict, float, bool, bool, dict]:
        assert self.mask[action]
        return self.reset()[0], 0.0, False, False, {}


@pytest.mark.parametrize("categorical", [False, True], ids=["one-hot", "categorical"])
def test_masked_actions_are_never_taken_and_the_floor_holds_of_those_left(
    categorical: bool,
) -> None:
    """H >= f ln n of n valid actions, f = H0 / ln 5, in an environment with TorchRL's ActionMask."""
    host = GymWrapper(_Masked(), categorical_action_encoding=categorical)
    env = TransformedEnv(host, ActionMask())
    spec = env.action_spec
    actor = ERAActor(_network(spec, gain=30.0), spec, mask_key="action_mask")
    with set_exploration_type(ExplorationType.RANDOM):
        data = env.rollout(60, actor)
    valid = data["action_mask"].sum(-1)
    fraction = actor.target_entropy / math.log(5)
    assert (actor.entropy(data) >= fraction * valid.log() - 1e-5).all()
    assert valid.unique().numel() > 2


def test_a_mask_may_be_of_numbers() -> None:
    """Environments of PettingZoo and gymnasium's Taxi have masks of int8."""
    actor = ERAActor(_network(Categorical(5)), Categorical(5), mask_key="action_mask")
    mask = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]], dtype=torch.int8)
    data = actor(TensorDict({"observation": torch.zeros(2, 3), "action_mask": mask}, [2]))
    assert torch.equal(data["logits"] > -math.inf, mask.bool())


def test_a_mask_that_the_actor_does_not_read_is_refused() -> None:
    """ActionMask gives its spec a mask at the first reset, when the actor has been made."""
    env = TransformedEnv(GymWrapper(_Masked()), ActionMask())
    actor = ERAActor(_network(env.action_spec), env.action_spec)
    with pytest.raises(ValueError, match="the data has 'action_mask', which this actor does not"):
        env.rollout(3, actor)


def test_a_mask_beside_a_nested_action_is_refused_if_unread() -> None:
    """Environments of several agents have a group's masks beside its actions, three agents here."""
    spec = Composite(agents=Composite(action=Categorical(4, shape=(3,)), shape=(3,)))
    raw = TensorDictModule(_network(spec), [("agents", "observation")], [("agents", "raw")])
    data = TensorDict({"agents": {"observation": torch.randn(3, 3)}})
    data["agents", "action_mask"] = torch.tensor([False, True, False, True]).expand(3, 4)
    with pytest.raises(ValueError, match=r"the data has \('agents', 'action_mask'\), which"):
        ERAActor(raw, spec)(data)
    read = ERAActor(raw, spec, mask_key=("agents", "action_mask"))
    assert (read(data)["agents", "action"] % 2 == 1).all()


def test_a_mask_of_another_name_is_refused_if_unread() -> None:
    """ActionMask writes it to the spec that the actor was made of, whatever the data calls it."""
    rename = RenameTransform(["action_mask"], ["legal"])
    masked = TransformedEnv(GymWrapper(_Masked()), Compose(rename, ActionMask(mask_key="legal")))
    actor = ERAActor(_network(masked.action_spec), masked.action_spec)
    with pytest.raises(ValueError, match="the action spec of 'action' has a mask: give mask_key"):
        masked.rollout(3, actor)


def _gradients(actor: ERAActor, data: TensorDict) -> list[Tensor | None]:
    with set_exploration_type(ExplorationType.RANDOM):
        actor(data)["action"].square().sum().backward()
    return [parameter.grad for parameter in actor.parameters()]


def test_samples_carry_gradients_in_the_bounds_units() -> None:
    spec = SPECS["per-dimension"]
    gradients = _gradients(ERAActor(_network(spec), spec), _observations(50))
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in gradients)
