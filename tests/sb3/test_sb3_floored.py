"""A policy's options and its floor: given, shown, changed, saved, and found again by the hosts."""

import inspect
import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ, MaskablePPO, RecurrentPPO
from sb3_family import BOX, DISCRETE, FAMILY, MULTI_DISCRETE, make_env, small, some_states, space_of
from sb3_toys import TargetEnv
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.save_util import data_to_json
from torch.utils._python_dispatch import TorchDispatchMode

from era_rl.core import OnPolicyOptions, PolicyOptions, TruncatedGaussianHead
from era_rl.sb3 import A2CERA, PPOERA, SACERA, ERAActorCriticPolicy

HOSTS = {"SACERA": SAC, "TQCERA": TQC, "CrossQERA": CrossQ, "PPOERA": PPO, "A2CERA": A2C}
HOSTS |= {"MaskablePPOERA": MaskablePPO, "RecurrentPPOERA": RecurrentPPO}
HOSTS |= {"XQCERA": SAC, "DiscreteSACERA": SAC}


@pytest.mark.parametrize("name", FAMILY)
def test_the_signature_shows_the_hosts_arguments_and_the_options(name: str) -> None:
    parameters = inspect.signature(FAMILY[name]).parameters
    host = inspect.signature(HOSTS[name]).parameters
    assert list(parameters)[:5] == list(host)[:5]
    assert host.keys() <= parameters.keys()
    options = FAMILY[name].options_class()
    for option, default in vars(options).items():
        assert parameters[option].default == default
    assert "kwargs" not in parameters
    assert ("compile" in parameters) == (name not in ("MaskablePPOERA", "RecurrentPPOERA"))


@pytest.mark.parametrize("name", FAMILY)
def test_a_floor_that_is_set_is_in_force_saved_and_logged(name: str, tmp_path: Path) -> None:
    """H >= H0 for the H0 set in mid-run; it is found again by ``load`` and by the host's."""
    model: Any = small(name, space_of(name)).learn(64)
    before = model.target_entropy
    other = 0.5 * before if before < 0.0 else 2.0 * before
    model.target_entropy = other
    assert model.target_entropy == model.policy.target_entropy == other
    model.learn(64)
    obs = torch.as_tensor(some_states(model, 50))
    assert model.policy.entropy(obs).min().item() >= other - 1e-5
    with pytest.raises(ValueError, match=r"target_entropy=99\.0"):
        model.target_entropy = 99.0
    model.save(tmp_path / "model")
    # SAC has no reward_scale and no discrete actions, and says so
    hosts = [] if name in ("XQCERA", "DiscreteSACERA") else [HOSTS[name]]
    for cls in (FAMILY[name], *hosts):
        loaded: Any = cls.load(tmp_path / "model", device="cpu")
        assert loaded.policy.target_entropy == other
        for policy in (model.policy, loaded.policy):
            policy.set_training_mode(False)
        assert torch.equal(loaded.policy.entropy(obs), model.policy.entropy(obs))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_a_floor_that_is_set_is_in_force_in_compiled_policies(name: str, traced: None) -> None:
    """So are the bounds of log_std: -0.30 nats compiled was .68 eager before."""
    model: Any = small(name, BOX, compile=True).learn(32)
    update = model._update
    model.policy.head.log_std_min = -1.0
    model.target_entropy = -0.1
    model.learn(32)
    assert model._update is update  # nothing was compiled anew
    obs = torch.as_tensor(some_states(model, 50))
    model.policy.set_training_mode(False)
    with torch.no_grad():
        samples = [model.policy._predict(obs) for _ in range(200)]
        loc, log_std = model.policy.dist_params(model.policy.raw_params(obs))
    assert log_std.min().item() >= -1.0
    # of a truncated normal whose std is at least e^-1, around the middle
    assert torch.stack(samples).std(0)[loc.abs() < 0.3].min().item() > 0.25


@pytest.mark.parametrize(
    ("name", "space", "options"),
    [
        ("SACERA", BOX, {"slack": 0.3, "log_std_min": -3.0, "deterministic_action": "mean"}),
        ("TQCERA", BOX, {"floor": "gaussian", "target_entropy": 0.5, "delta": 0.1}),
        ("CrossQERA", BOX, {"distribution": "tanh", "target_entropy": 0.0}),
        ("PPOERA", BOX, {"target_entropy": 0.5}),
        ("PPOERA", BOX, {"distribution": "normal", "log_std_max": 0.5}),
        ("PPOERA", BOX, {"floor": "gaussian", "delta": "auto", "target_entropy": 0.5}),
        ("SACERA", BOX, {"floor": "gaussian", "delta": "auto", "target_entropy": 0.5}),
        ("TQCERA", BOX, {"floor": "gaussian", "delta": "auto", "target_entropy": 0.5}),
        ("A2CERA", DISCRETE, {"target_entropy_fraction": 0.9}),
        ("MaskablePPOERA", DISCRETE, {"target_entropy": 1.0}),
    ],
)
def test_the_hosts_load_makes_the_same_policy(
    name: str, space: spaces.Space, options: dict[str, Any], tmp_path: Path
) -> None:
    """PPO.load made the default floor of a file of PPOERA, -.3 of .5, and said nothing."""
    model: Any = small(name, space, **options).learn(32)
    model.save(tmp_path / "model")
    host: Any = HOSTS[name].load(tmp_path / "model", env=make_env(space), device="cpu")
    assert host.policy.options == model.options
    obs = some_states(model, 30)
    for deterministic in (True, False):
        actions = []
        for each in (model, host):
            torch.manual_seed(3)
            actions.append(each.predict(obs, deterministic=deterministic)[0])
        assert np.array_equal(*actions)
    host.learn(32)


def test_a_host_refuses_a_file_with_state_that_it_has_no_place_for() -> None:
    """SB3's errors: the scale of rewards would be lost."""
    small("XQCERA", BOX).save(file := io.BytesIO())
    with pytest.raises((KeyError, ValueError)) as error:
        HOSTS["XQCERA"].load(file, device="cpu")
    causes = [error.value, error.value.__context__]
    assert any("is an invalid object name" in str(cause) for cause in causes)


def _as_before(path: Path, to: Path, data: dict[str, Any], drop: tuple[str, ...]) -> None:
    """Write a model's file as it was before there were options, and before floors were saved."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data":
                state = json.loads(content)
                for key in drop:
                    state.pop(key, None)
                content = json.dumps({**state, **json.loads(data_to_json(data))}).encode()
            elif name == "policy.pth":
                with old.open(name) as file:
                    weights = torch.load(file, weights_only=True)
                floors = ("._target_entropy", "._log_std_min", "._log_std_max")
                weights = {k: v for k, v in weights.items() if not f".{k}".endswith(floors)}
                with new.open(name, "w") as file:
                    torch.save(weights, file)
                continue
            new.writestr(name, content)


@pytest.mark.parametrize(
    ("name", "options", "before"),
    [
        (
            "SACERA",
            {"distribution": "tanh", "target_entropy": 0.5, "delta": 0.1, "layer_norm": True},
            {
                "era_kwargs": {
                    "head_kwargs": {"target_entropy": 0.5, "floor": "gaussian", "delta": 0.1},
                    "distribution": "tanh",
                    "layer_norm": True,
                },
                "learn_delta": False,
                "deterministic_action": "mode",
            },
        ),
        (
            "PPOERA",
            {"floor": "gaussian", "target_entropy": 0.5, "delta": "auto"},
            {
                "era_kwargs": {
                    "head_kwargs": {"target_entropy": 0.5, "floor": "gaussian", "delta": 0.0}
                },
                "learn_delta": True,
                "deterministic_action": "mean",
            },
        ),
        (
            "A2CERA",
            {"distribution": "normal", "target_entropy": 0.5},
            {"era_kwargs": {"head_kwargs": {"target_entropy": 0.5, "squash": False}}},
        ),
    ],
    ids=["SACERA", "PPOERA", "A2CERA"],
)
def test_files_of_before_are_loaded(
    name: str, options: dict[str, Any], before: dict[str, Any], tmp_path: Path
) -> None:
    model: Any = small(name, BOX, **options).learn(32)
    model.save(tmp_path / "model")
    kept = {k: v for k, v in model.policy_kwargs.items() if k not in ("options", "layer_norm")}
    data = {**before, "policy_kwargs": kept}
    _as_before(tmp_path / "model.zip", tmp_path / "before.zip", data, ("policy_kwargs",))
    loaded = FAMILY[name].load(tmp_path / "before", device="cpu")
    action = before.get("deterministic_action", "mode")
    floor = loaded.options.floor_kind if model.options.floor is None else model.options.floor
    expected = replace(model.options, deterministic_action=action, floor=loaded.options.floor)
    assert loaded.options == expected
    assert loaded.options.floor_kind == floor
    obs = torch.as_tensor(some_states(model, 20))
    assert torch.equal(loaded.policy.entropy(obs), model.policy.entropy(obs))
    loaded.save(tmp_path / "again")
    again = FAMILY[name].load(tmp_path / "again", device="cpu")
    assert again.options == loaded.options
    assert again.policy_kwargs == loaded.policy_kwargs


def test_policies_saved_alone_before_are_loaded() -> None:
    space, obs_space = spaces.Box(-1.0, 1.0, (2,)), spaces.Box(-1.0, 1.0, (3,))
    head_kwargs = {"target_entropy": 0.5, "squash": False}
    policy = ERAActorCriticPolicy(obs_space, space, lambda _: 0.1, head_kwargs=head_kwargs)
    assert policy.options == OnPolicyOptions(target_entropy=0.5, distribution="normal")


def test_policy_kwargs_may_be_shared_between_classes() -> None:
    """A2C writes its optimizer into them: SACERA then trained with RMSprop."""
    shared: dict[str, Any] = {"net_arch": [8], "optimizer_kwargs": {"eps": 1e-5}}
    A2CERA("MlpPolicy", TargetEnv(), policy_kwargs=shared, device="cpu")
    SACERA("MlpPolicy", TargetEnv(), policy_kwargs=shared, device="cpu", buffer_size=9)
    assert shared == {"net_arch": [8], "optimizer_kwargs": {"eps": 1e-5}}


@pytest.mark.parametrize("name", ["SACERA", "TQCERA", "CrossQERA", "PPOERA", "A2CERA"])
@pytest.mark.parametrize(
    ("low", "high", "dtype", "message"),
    [
        (
            -np.finfo(np.float32).max,
            np.finfo(np.float32).max,
            np.float32,
            "dimension 0 are low=-3.4",
        ),
        (-100, 100, np.int8, "must have floating-point actions, not torch.int8"),
        (
            np.array([-1.0, 0.5]),
            np.array([1.0, 0.5]),
            np.float32,
            "dimension 1 are low=0.5 and high=0.5",
        ),
        (0.0, np.inf, np.float32, "dimension 0 are low=0.0 and high=inf"),
        (-6e4, 6e4, np.float16, "low=-60000.0 and high=60000.0; .* in torch.float16"),
    ],
    ids=["widest", "int8", "fixed", "infinite", "float16"],
)
def test_bounds_without_a_range_are_refused_at_construction(
    name: str, low: Any, high: Any, dtype: Any, message: str
) -> None:
    """Actions were inf, -139 in [-100, 100], and NaN."""
    env = TargetEnv()
    bounds = (np.broadcast_to(np.array(x, dtype), 2) for x in (low, high))
    env.action_space = spaces.Box(*bounds, dtype=dtype)
    with pytest.raises(ValueError, match=message):
        FAMILY[name]("MlpPolicy", env, device="cpu")


def test_a_mask_that_forbids_every_action_is_taken_as_by_the_host() -> None:
    """MaskablePPO draws from all of them then."""
    model: Any = small("MaskablePPOERA", MULTI_DISCRETE)
    obs = some_states(model, 300)
    mask = np.ones((300, 8), dtype=bool)
    mask[:, :3] = False
    actions, _ = model.predict(obs, action_masks=mask)
    assert set(actions[:, 0]) == {0, 1, 2}
    probs = model.policy.get_distribution(torch.as_tensor(obs), mask).distributions[0].probs
    torch.testing.assert_close(probs, torch.full((300, 3), 1.0 / 3.0))


class _Count(TorchDispatchMode):
    """Counts the operations that reach a device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operations += 1
        return function(*args, **(kwargs or {}))


def _operations(call: Any) -> int:
    with _Count() as count:
        call()
    return count.operations


@pytest.mark.parametrize("name", ["SACERA", "TQCERA", "CrossQERA", "PPOERA", "A2CERA"])
def test_a_deterministic_action_takes_no_more_operations_than_the_hosts(name: str) -> None:
    """It was 161 against 21 of SAC: entropies were inverted and thrown away."""
    model: Any = small(name, BOX)
    host: Any = HOSTS[name]("MlpPolicy", make_env(BOX), policy_kwargs={"net_arch": [16, 16]})
    obs = torch.zeros(1, 2)
    counts = []
    for policy in (model.policy, host.policy):
        policy.set_training_mode(False)
        with torch.no_grad():
            counts.append(_operations(lambda p=policy: p._predict(obs, deterministic=True)))
    assert counts[0] <= counts[1] + (2 if name in ("PPOERA", "A2CERA") else 0), counts


def test_density_and_entropy_share_what_they_can() -> None:
    """303 operations forward in PPOERA's evaluate_actions became a third less."""
    model: Any = small("PPOERA", BOX)
    obs, actions = torch.zeros(4, 2), torch.zeros(4, 2)
    with torch.no_grad():
        assert _operations(lambda: model.policy.evaluate_actions(obs, actions)) < 230


@dataclass(frozen=True)
class CoolerOptions(OnPolicyOptions):
    """An option of a user's own: how much of the raw mean is used."""

    share: float = 1.0

    def bounded_head(self, action_dim: int, half_range: Any = None) -> Any:
        head = super().bounded_head(action_dim, half_range)
        assert isinstance(head, TruncatedGaussianHead)
        split = head._split
        head._split = lambda raw: (self.share * split(raw)[0], *split(raw)[1:])  # type: ignore[method-assign]
        return head


class CoolerPPO(PPOERA):
    """With which nothing else has to be written."""

    options_class = CoolerOptions


def test_a_new_option_is_a_field_and_what_reads_it(tmp_path: Path) -> None:
    """Two places: the dataclass and the head; argument, signature, policy, file and load follow."""
    assert inspect.signature(CoolerPPO).parameters["share"].default == 1.0
    model = CoolerPPO("MlpPolicy", TargetEnv(), share=0.0, device="cpu", n_steps=8, batch_size=8)
    model.learn(8)
    obs = some_states(model, 9)
    assert np.all(model.predict(obs, deterministic=True)[0] == 0.0)
    model.save(tmp_path / "model")
    for cls in (CoolerPPO, PPO):
        loaded = cls.load(tmp_path / "model", device="cpu")
        assert np.all(loaded.predict(obs, deterministic=True)[0] == 0.0)
    with pytest.raises(ValueError, match=r"share=0\.5 must be 0\.0, or left out"):
        CoolerPPO.load(tmp_path / "model", device="cpu", share=0.5)


def test_nats_per_dim_serves_environments_of_any_size() -> None:
    """H0 = nats_per_dim D."""
    for name, cls in (("SACERA", SACERA), ("PPOERA", PPOERA)):
        for dim in (1, 5):
            model: Any = cls("MlpPolicy", TargetEnv(dim), nats_per_dim=-1.0, device="cpu")
            assert model.target_entropy == -dim, name
    with pytest.raises(ValueError, match=r"target_entropy=-1\.0 and nats_per_dim=-2\.0 exclude"):
        PolicyOptions(target_entropy=-1.0, nats_per_dim=-2.0)
    with pytest.raises(ValueError, match=r"nats_per_dim=-1\.0 is for bounded actions"):
        small("PPOERA", DISCRETE, nats_per_dim=-1.0)
