"""Training under torch.compile, for long runs only, and without a compiler."""

import copy
import shutil
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, DISCRETE, MULTI_DISCRETE, ON_POLICY, REPLAY, small
from sb3_toys import TargetEnv, schedule, small_sacera, states, trained
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import Tensor, nn

from era_rl.core.compiling import compiler, has_compiler
from era_rl.sb3 import SACERA, DeviceReplayBuffer, EntropyMonitor, compiling, payoff
from era_rl.sb3.gradients import Transitions

OPTIONS: list[dict[str, Any]] = [
    {"slack": 0.3, "layer_norm": True},
    {"floor": "gaussian"},
    {"floor": "gaussian", "distribution": "tanh"},
    {"policy_kwargs": {"share_features_extractor": True, "n_critics": 3}},
]
NEEDS_COMPILER = pytest.mark.skipif(not has_compiler(), reason=f"no C++ compiler {compiler()!r}")
GAMMA = torch.tensor(0.9, dtype=torch.float64)
# Dynamo looks at .grad of every input, with the warning hidden but not from an "error" filter
DYNAMO = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def batch(model: SACERA) -> tuple[Transitions, Tensor, Tensor]:
    """Return a batch of 32 transitions of the model's spaces, and the noise of two actions each."""
    generator = torch.Generator().manual_seed(1)
    actions, rewards, dones = (torch.rand(32, n, generator=generator) for n in (2, 1, 1))
    data = Transitions(
        states(model, 32), actions, states(model, 32, 1), rewards, dones.round(), 0.9
    )
    noise, next_noise = torch.rand(2, 32, 2, generator=generator)
    return data, noise, next_noise


def tensors(result: Any) -> list[Tensor]:
    """Return the tensors of nested tuples, in order."""
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result or () for tensor in tensors(part)]


@DYNAMO
@pytest.mark.parametrize(
    "options", [{}, *(pytest.param(each, marks=pytest.mark.slow) for each in OPTIONS)], ids=str
)
def test_gradients_have_no_graph_break_and_equal_eager(options: dict[str, Any]) -> None:
    torch._dynamo.reset()
    model = small_sacera(**options)
    data, noise, next_noise = batch(model)
    eager = model._bound_update()
    for step, args in ((eager.critic, (data, next_noise)), (eager.actor, (data.obs, noise))):
        result = step.by_autograd(*args)
        with torch.no_grad():
            fast = torch.compile(step.by_transform, fullgraph=True, backend="aot_eager")
            other = fast(*args)
        assert len(tensors(result)) == len(tensors(other)) >= 7
        for expected, found in zip(tensors(result), tensors(other), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "calls", "compiles"),
    [
        ({}, [40], False),
        ({"compile": True}, [40], True),
        ({"compile": False}, [200], False),
        ({}, [120], True),
        ({}, [90, 30], False),
        ({}, [90, 120], True),
        ({"gradient_steps": 2}, [60], True),
        ({"gradient_steps": -1, "train_freq": 4}, [120], True),
        ({"train_freq": 4}, [120], False),
        ({"train_freq": (1, "episode")}, [120], False),
    ],
    ids=str,
)
def test_compiles_where_it_pays(
    options: dict[str, Any],
    calls: list[int],
    compiles: bool,
    compiled_as_is: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(payoff, "MIN_UPDATES_TO_COMPILE", 100)
    model = small_sacera(learning_starts=5, **options)
    for part, steps in enumerate(calls):  # counted are the updates of the run, not of those before
        assert not compiled_as_is
        model.learn(steps, reset_num_timesteps=part == 0)
    assert len(compiled_as_is) == (3 if compiles else 0)


def test_equals_the_eager_update(compiled_as_is: list[Any]) -> None:
    eager = trained(small_sacera(compile=False)).policy.state_dict()
    for name, value in trained(small_sacera(compile=True)).policy.state_dict().items():
        torch.testing.assert_close(value, eager[name], rtol=1e-4, atol=1e-6)
    assert compiled_as_is


def test_continues_eagerly_where_compilation_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any) -> None:
        raise RuntimeError("no such target\nand more")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", lambda function, **kwargs: fails)
    with pytest.warns(RuntimeWarning, match="goes on without: RuntimeError: no such target$"):
        model = trained(small_sacera(compile=True))
    eager = trained(small_sacera(compile=False)).policy.state_dict()
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, eager[name])


def test_warns_and_trains_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.warns(UserWarning, match=r"compile=True needs a C\+\+ compiler"):
        without = trained(small_sacera(compile=True))
    without.learn(5)  # warns once
    eager = trained(small_sacera(compile=False))
    eager.learn(5)
    for name, value in without.policy.state_dict().items():
        assert torch.equal(value, eager.policy.state_dict()[name])


def test_copies_of_a_compiled_policy_sample_on_their_own(compiled_as_is: list[Any]) -> None:
    policy = trained(small_sacera(compile=True)).policy
    for other in (copy.deepcopy(policy), cloudpickle.loads(cloudpickle.dumps(policy))):
        assert other.actor._compiled is None
        assert other.predict(np.zeros((3, 2), np.float32))[0].shape == (3, 2)


@pytest.mark.parametrize("name", ON_POLICY)
@pytest.mark.parametrize("space", [BOX, DISCRETE], ids=str)
def test_on_policy_passes_compile_too(
    name: str, space: spaces.Space, compiled_as_is: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy's forward and the gradient of its loss; RMSprop's steps besides."""
    models, each = {}, 3 if name == "A2CERA" else 2
    model: Any = small(name, space, n_envs=2)
    rollout = 2 * model.n_steps
    monkeypatch.setattr(payoff, "MIN_CALLS_TO_COMPILE", model._planned_calls(rollout) + 1)
    for value, number in ((False, 0), ("auto", 0), (True, each)):
        models[value] = small(name, space, n_envs=2, compile=value).learn(16)
        assert len(compiled_as_is) == number
    models["auto"].learn(16, reset_num_timesteps=False)
    assert len(compiled_as_is) == each
    models["auto"].learn(rollout + 1, reset_num_timesteps=False)  # two rollouts
    assert len(compiled_as_is) == 2 * each
    eager = models[False].policy.state_dict()
    policy: Any = models[True].policy
    for key, value in policy.state_dict().items():
        torch.testing.assert_close(value, eager[key], rtol=1e-4, atol=1e-6)
    assert policy._compiled is not None
    assert copy.deepcopy(policy)._compiled is None


def test_the_compiled_pass_is_for_the_modes_of_rollouts(compiled_as_is: list[Any]) -> None:
    """Not for deterministic actions, nor where gradients are wanted."""
    policy: Any = small("PPOERA", BOX, compile=True).learn(16).policy
    called: list[str] = []
    policy._compiled = lambda *args: called.append("forward")
    obs = torch.zeros(3, 2)
    policy.set_training_mode(False)
    with torch.no_grad():
        policy(obs)
        policy(obs, True)
    assert called == ["forward"]
    assert policy(obs)[2].requires_grad
    policy.set_training_mode(True)
    with torch.no_grad():
        policy(obs)
    assert called == ["forward"]


@DYNAMO
@pytest.mark.slow
@NEEDS_COMPILER
@pytest.mark.parametrize(
    ("name", "space", "options"),
    [
        ("PPOERA", BOX, {}),
        ("PPOERA", BOX, {"distribution": "normal"}),
        ("PPOERA", BOX, {"floor": "gaussian", "delta": "auto"}),
        ("PPOERA", MULTI_DISCRETE, {}),
        ("A2CERA", DISCRETE, {"n_envs": 3}),
    ],
    ids=str,
)
def test_compiled_on_policy_training_equals_eager(
    name: str, space: spaces.Space, options: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    torch._dynamo.reset()
    policies = []
    for compile_ in (False, True):
        model = small(name, space, compile=compile_, **options)
        model.learn(64)
        policies.append(model.policy.state_dict())
    for key, value in policies[0].items():
        torch.testing.assert_close(value, policies[1][key], rtol=1e-3, atol=1e-5)
    assert not [each for each in recwarn if "goes on without" in str(each.message)]


class Seen(gym.Env):
    """An environment of a given observation space, whose observations are random."""

    action_space = BOX

    def __init__(self, observation_space: spaces.Space) -> None:
        self.observation_space = observation_space

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        over = bool(self.np_random.random() < 0.2)
        return self.observation_space.sample(), float(action.sum()), over, False, {}


class Extractor(BaseFeaturesExtractor):
    """A linear layer and another module."""

    def __init__(
        self, observation_space: spaces.Box, module: type[nn.Module], argument: Any
    ) -> None:
        super().__init__(observation_space, 8)
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], 8), module(argument))

    def forward(self, observations: Tensor) -> Tensor:
        return self.net(observations)


VECTOR = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
BATCH_NORM = {"module": nn.BatchNorm1d, "argument": 8}
DROPOUT = {"module": nn.Dropout, "argument": 0.5}


@DYNAMO
@pytest.mark.parametrize(
    ("name", "policy", "space", "extractor"),
    [
        ("PPOERA", "MultiInputPolicy", spaces.Dict({"a": VECTOR, "b": IMAGE}), None),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("PPOERA", "CnnPolicy", IMAGE, None),
                ("PPOERA", "MlpPolicy", VECTOR, BATCH_NORM),
                ("PPOERA", "MlpPolicy", VECTOR, DROPOUT),
                ("SACERA", "MultiInputPolicy", spaces.Dict({"a": VECTOR, "b": IMAGE}), None),
                ("SACERA", "CnnPolicy", IMAGE, None),
                ("SACERA", "MlpPolicy", VECTOR, BATCH_NORM),
                ("TQCERA", "MultiInputPolicy", spaces.Dict({"a": VECTOR, "b": IMAGE}), None),
                ("TQCERA", "MlpPolicy", VECTOR, BATCH_NORM),
                ("SACERA", "MlpPolicy", VECTOR, DROPOUT),
                ("SACERA", "SimbaPolicy", VECTOR, None),
            )
        ),
    ],
    ids=[
        "ppo-dict",
        "ppo-cnn",
        "ppo-bn",
        "ppo-dropout",
        *("dict", "cnn", "bn", "tqc-dict", "tqc-bn", "dropout", "simba"),
    ],
)
def test_every_policy_is_traced_and_equals_eager(
    name: str, policy: str, space: spaces.Space, extractor: dict[str, Any] | None, traced: None
) -> None:
    if not compiling.TRACES_IMAGES and policy != "MlpPolicy":
        pytest.skip(f"torch {torch.__version__} does not trace policies on images")
    kwargs: dict[str, Any] = {"net_arch": [8, 8]}
    if extractor is not None:
        kwargs |= {"features_extractor_class": Extractor, "features_extractor_kwargs": extractor}
    options = {"learning_starts": 5} if name in REPLAY else {"n_steps": 16}
    states = []
    for compile_ in (False, True):
        torch._dynamo.reset()
        env = DummyVecEnv([lambda: Seen(space)])
        # a fall back to eager would warn, which is an error here
        model = small(
            name, env, policy, batch_size=8, policy_kwargs=kwargs, compile=compile_, **options
        )
        states.append(model.learn(24).policy.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-5, atol=1e-7)


@DYNAMO
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"n_steps": 3},
        {"gradient_steps": 3, "target_update_interval": 2},
        {"learning_rate": schedule},
        {"replay_buffer_class": DeviceReplayBuffer},
    ],
    ids=["n-steps", "intervals", "schedule", "device-replay"],
)
@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "normalized"])
def test_a_traced_run_keeps_every_option(
    options: dict[str, Any], normalized: bool, traced: None
) -> None:
    states = []
    for compile_ in (False, True):
        torch._dynamo.reset()
        env: Any = DummyVecEnv([lambda: TargetEnv(horizon=7)])
        env = VecNormalize(env) if normalized else env
        # a fall back to eager would warn, which is an error here
        model = trained(small_sacera(env=env, compile=compile_, **options))
        states.append(model.policy.state_dict())
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@NEEDS_COMPILER
@DYNAMO
def test_trains_compiled_and_saves(tmp_path: Any) -> None:
    monitor = EntropyMonitor(check_freq=5)
    compiled = trained(small_sacera(compile=True, slack=0.3), callback=monitor)
    assert monitor.minimum >= compiled.policy.target_entropy
    eager = trained(small_sacera(compile=False, slack=0.3)).policy.state_dict()
    for name, value in compiled.policy.state_dict().items():
        torch.testing.assert_close(value, eager[name], rtol=1e-3, atol=1e-5)
    compiled.save(tmp_path / "model")
    obs = states(compiled, 10).numpy()
    loaded = SACERA.load(tmp_path / "model", device="cpu")
    assert loaded.compile is True
    assert np.array_equal(
        loaded.predict(obs, deterministic=True)[0], compiled.predict(obs, deterministic=True)[0]
    )
