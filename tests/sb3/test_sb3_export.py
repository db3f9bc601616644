"""Exported policies act as the models do, without torch or SB3 where the file is ONNX."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ, RecurrentPPO
from sb3_exported import check_deterministic, observations, predicted
from sb3_family import BOX, CASES, DISCRETE, MULTI_BINARY, MULTI_DISCRETE, make_env, small
from sb3_toys import TargetEnv
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from era_rl.sb3 import export
from era_rl.sb3.export import export_policy

OURS = [case for case in CASES if case[0] not in ("MaskablePPOERA", "RecurrentPPOERA")]
HOSTS = [
    *((host, BOX) for host in (SAC, TQC, CrossQ, PPO, A2C)),
    *((PPO, space) for space in (DISCRETE, MULTI_DISCRETE, MULTI_BINARY)),
]


def normalised(seed: int = 0) -> Any:
    """Return an environment with bounds of its own and statistics of its observations."""
    env = VecNormalize(
        make_vec_env(lambda: TargetEnv(2, horizon=5, bounds=(-2.0, 3.0)), 1, seed=seed)
    )
    env.obs_rms.mean, env.obs_rms.var = np.array([0.3, -20.0]), np.array([0.2, 50.0])
    env.training = False
    return env


def host_model(host: Any, space: spaces.Space, **kwargs: Any) -> Any:
    return host(
        "MlpPolicy",
        make_env(space),
        policy_kwargs={"net_arch": [8]},
        seed=0,
        device="cpu",
        **kwargs,
    )


@pytest.mark.parametrize(("host", "space"), HOSTS)
def test_acts_as_a_hosts_model(host: Any, space: spaces.Space, tmp_path: Path) -> None:
    check_deterministic(host_model(host, space), tmp_path / "policy.pt2")
    assert json.loads((tmp_path / "policy.pt2.json").read_text())["target_entropy"] is None


@pytest.mark.parametrize("model", [PPO, "SACERA"], ids=str)
@pytest.mark.parametrize("shape", [(), (2, 3)], ids=str)
def test_sampled_actions_may_have_any_shape(model: Any, shape: Any, tmp_path: Path) -> None:
    """The noise is a vector for each action, of one number or several, whatever its shape."""
    env = TargetEnv()
    env.action_space = spaces.Box(-2.0, 1.0, shape, np.float32)
    made = small(model, env) if isinstance(model, str) else model("MlpPolicy", env, device="cpu")
    assert export_policy(made, tmp_path / "policy.pt2", stochastic=True) <= 1e-4
    *_, noise = json.loads((tmp_path / "policy.pt2.json").read_text())["inputs"]
    assert noise["shape"] == ["batch", int(np.prod(shape))]


IMAGE = FakeImageEnv(screen_height=36, screen_width=40, n_channels=3, discrete=True)


@pytest.mark.parametrize(
    ("name", "policy", "env", "kwargs"),
    [
        ("SACERA", "MlpPolicy", normalised(), {"distribution": "tanh"}),
        ("SACERA", "MlpPolicy", normalised(), {"deterministic_action": "mean", "slack": 0.2}),
        ("PPOERA", "MlpPolicy", normalised(), {"distribution": "normal"}),
        ("PPOERA", "CnnPolicy", IMAGE, {}),
        (
            "PPOERA",
            "MultiInputPolicy",
            VecNormalize(make_vec_env(SimpleMultiObsEnv), norm_obs_keys=["vec"]),
            {},
        ),
    ],
    ids=["tanh", "mean", "normal", "image", "dict"],
)
def test_every_distribution_and_observation(
    name: str, policy: str, env: Any, kwargs: Any, tmp_path: Path
) -> None:
    check_deterministic(small(name, env, policy, **kwargs), tmp_path / "policy.pt2")


def test_the_policys_own_normaliser_is_inside(tmp_path: Path) -> None:
    model: Any = small("SACERA", BOX, "SimbaPolicy", policy_kwargs={"net_arch": [8]})
    model.policy.observe(np.array([[3.0, 0.0], [5.0, 1.0]], np.float32))
    check_deterministic(model, tmp_path / "policy.pt2")


# a process of its own, in which neither library can be imported
ALONE = """
import json, sys
for name in ("torch", "stable_baselines3"):
    sys.modules[name] = None
import numpy as np, onnxruntime
for folder in sys.argv[1:]:
    session = onnxruntime.InferenceSession(folder + "/policy.onnx", providers=["CPUExecutionProvider"])
    given = dict(np.load(folder + "/case.npz"))
    expected = given.pop("expected")
    described = json.load(open(folder + "/policy.onnx.json"))
    assert [i.name for i in session.get_inputs()] == [i["name"] for i in described["inputs"]]
    for n in (1, len(expected)):
        (found,) = session.run(["action"], {k: v[:n] for k, v in given.items()})
        assert (str(found.dtype), list(found.shape[1:])) == (
            described["outputs"][0]["dtype"], described["outputs"][0]["shape"][1:])
        np.testing.assert_allclose(found, expected[:n], atol=2e-5)
"""


def sampled(model: Any, obs: dict[str, np.ndarray], noise: np.ndarray) -> np.ndarray:
    """Return what predict samples where its head draws the given noise."""
    head = model.policy.head
    head.draw_noise = lambda like: torch.as_tensor(noise)
    try:
        return predicted(model, obs, deterministic=False)
    finally:
        del head.draw_noise


def test_runs_in_onnxruntime_alone(tmp_path: Path) -> None:
    """Sampled from normalised observations within bounds; and from images and vectors, a mode."""
    folders = []
    sampling = small("SACERA", normalised())
    dictionary = small("PPOERA", SimpleMultiObsEnv(discrete_actions=True), "MultiInputPolicy")
    for model, stochastic in ((sampling, True), (dictionary, False)):
        folder = tmp_path / type(model).__name__
        assert export_policy(model, folder / "policy.onnx", stochastic=stochastic) <= 1e-5
        obs, given = observations(model, 64), {}
        if stochastic:
            given = {"noise": np.random.default_rng(0).random((64, 2)).astype(np.float32)}
            given["noise"][:2] = 0.0, 1.0 - 2.0**-24
            expected = sampled(model, obs, given["noise"])
        else:
            expected = predicted(model, obs, deterministic=True)
        np.savez(folder / "case.npz", **obs, **given, expected=expected)
        folders.append(str(folder))
    result = subprocess.run([sys.executable, "-c", ALONE, *folders], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    described = json.loads((tmp_path / "SACERA" / "policy.onnx.json").read_text())
    assert described["target_entropy"] == -1.0
    assert described["outputs"][0]["high"] == [3.0, 3.0]
    assert described["inputs"][1]["units"] == "uniform on [0, 1)"
    assert {"torch", "era-rl", "onnx"} <= described["versions"].keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [*(lambda c=c: small(*c) for c in OURS), *(lambda c=c: host_model(*c) for c in HOSTS)]
)
@pytest.mark.parametrize("stochastic", [False, True])
def test_onnx_of_every_model(model: Any, stochastic: bool, tmp_path: Path) -> None:
    assert export_policy(model(), tmp_path / "policy.onnx", stochastic=stochastic) <= 1e-5


@pytest.mark.parametrize(
    ("model", "probability"),
    [
        (lambda: small("PPOERA", DISCRETE), lambda dist: dist.probs[0, 1]),
        (lambda: host_model(PPO, DISCRETE), lambda dist: dist.probs[0, 1]),
        (lambda: host_model(PPO, MULTI_BINARY), lambda dist: dist.probs[0]),
    ],
    ids=["PPOERA", "PPO", "PPO-MultiBinary"],
)
def test_discrete_actions_come_as_often_as_they_are_likely(
    model: Any, probability: Any, tmp_path: Path
) -> None:
    """Of noise on a grid the share of action 1 is P(a = 1), to the grid's width."""
    model = model()
    for parameter in model.policy.action_net.parameters():
        parameter.data.mul_(50.0)
    export_policy(model, tmp_path / "policy.pt2", stochastic=True)
    program = torch.export.load(tmp_path / "policy.pt2").module()
    obs = torch.as_tensor(observations(model, 1)["obs"])
    n = 1_000
    columns = len(np.atleast_1d(model.action_space.sample()))
    noise = ((torch.arange(n) + 0.5) / n).unsqueeze(-1).expand(n, columns).contiguous()
    actions = program(obs.expand(n, -1).contiguous(), noise).reshape(n, columns)
    share = (actions == 1).double().mean(0)
    expected = probability(model.policy.get_distribution(obs).distribution)
    assert (share - expected.detach().double()).abs().max() <= 1.0 / n


@pytest.mark.parametrize("host", [SAC, PPO])
def test_a_hosts_noise_is_standard_normal(host: Any, tmp_path: Path) -> None:
    model = host_model(host, BOX)
    export_policy(model, tmp_path / "policy.pt2", stochastic=True)
    program = torch.export.load(tmp_path / "policy.pt2").module()
    obs = observations(model, 5)
    torch.manual_seed(3)
    expected = predicted(model, obs)
    torch.manual_seed(3)
    found = program(torch.as_tensor(obs["obs"]), torch.randn(5, 2))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_nothing_is_written_where_it_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the normalisation is left out of what is exported."""
    model = small("SACERA", normalised())
    monkeypatch.setattr(export._Norm, "forward", lambda self, x: x)
    with pytest.raises(ArithmeticError, match=r"differ from predict's by .* is not written"):
        export_policy(model, tmp_path / "policy.pt2")
    monkeypatch.setattr(export._Norm, "forward", lambda self, x: x * torch.nan)
    with pytest.raises(ArithmeticError, match="differ from predict's by nan"):
        export_policy(model, tmp_path / "policy.pt2")
    assert list(tmp_path.iterdir()) == []


def _stacked() -> Any:
    return VecFrameStack(VecNormalize(make_vec_env(lambda: make_env(BOX))), 2)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: RecurrentPPO("MlpLstmPolicy", make_env(BOX), device="cpu"), "carries a state"),
        (lambda: small("RecurrentPPOERA", BOX), "model=RecurrentPPOERA cannot be exported"),
        (lambda: small("MaskablePPOERA", DISCRETE), "model=MaskablePPOERA .* takes action masks"),
        (lambda: host_model(SAC, BOX, use_sde=True), "use_sde=True cannot be exported"),
        (lambda: small("PPOERA", _stacked()), r"statistics of shape \(2,\), .* of \(4,\)"),
    ],
    ids=["recurrent", "ours", "masks", "gSDE", "stacked"],
)
def test_refuses_what_is_no_function_of_one_observation(
    model: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        export_policy(model(), tmp_path / "policy.pt2")


def test_refuses_another_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in .pt2 \(torch.export\) or .onnx"):
        export_policy(small("PPOERA"), tmp_path / "policy.pb")
