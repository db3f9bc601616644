"""The SB3 family in environments that go wrong, on absent devices, and from damaged files."""

import io
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import FAMILY, ChoiceEnv, small
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecCheckNan, VecEnvWrapper

from era_rl.sb3 import SACERA
from era_rl.sb3.finite import refuse_nonfinite

AT = 63
CONTINUOUS = ["SACERA", "TQCERA", "CrossQERA", "XQCERA", "PPOERA", "A2CERA"]


class FaultyEnv(gym.Env):
    """From step ``AT`` on, something goes wrong."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, fault: str = "", value: float = np.nan) -> None:
        self.fault, self.value, self.taken, self.bad_actions = fault, value, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps = 0
        if self.fault == "reset" and self.taken >= AT:
            raise ZeroDivisionError("in reset")
        return self._draw(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.taken, self.steps = self.taken + 1, self.steps + 1
        self.bad_actions += not np.isfinite(action).all()
        begun = self.taken >= AT
        if begun and self.fault == "step":
            raise ZeroDivisionError("in step")
        if begun and self.fault == "exit":
            raise SystemExit  # ends the process that it is in
        obs = self._draw()
        if begun and self.fault in ("observations", "last"):
            obs[1] = self.value
        reward = self.value if begun and self.fault == "rewards" else 0.0
        return obs, reward, begun and self.fault == "last", self.steps >= 10, {}

    def _draw(self) -> np.ndarray:
        return self.np_random.uniform(-1.0, 1.0, 3).astype(np.float32)


def _finite(model: Any) -> bool:
    return all(p.isfinite().all() for p in model.policy.parameters())


# numpy's, in the host's advantages of infinite rewards
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
@pytest.mark.parametrize("fault", ["observations", "rewards"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_what_is_not_finite_is_refused_before_it_is_trained_on(
    name: str, fault: str, value: float
) -> None:
    env = FaultyEnv(fault, value)
    model = small(name, env)
    with pytest.raises(FloatingPointError, match=rf"^{fault} up to step \d+ must be finite"):
        model.learn(400)
    assert _finite(model)
    # of the rollout in which it began, or not even the next step
    assert model.num_timesteps - AT <= (64 if name in ("PPOERA", "A2CERA") else 1)
    if name in ("SACERA", "TQCERA", "CrossQERA"):
        assert env.bad_actions == 0
    model.save(io.BytesIO())


def test_the_last_observation_of_an_episode_is_looked_at_too() -> None:
    """It is the next one of its transition, and not what the step returns."""
    model = small("SACERA", FaultyEnv("last"))
    with pytest.raises(FloatingPointError, match=f"^observations up to step {AT} must be finite"):
        model.learn(400)
    assert _finite(model)


@pytest.mark.parametrize(("name", "policy"), [("SACERA", "SimbaPolicy"), ("PPOERA", "MlpPolicy")])
def test_the_first_observation_is_looked_at_too(name: str, policy: str) -> None:
    """It was stored, and made SimBa's normaliser NaN, while actions were random."""
    env = FaultyEnv()
    env._draw = lambda: np.full(3, np.nan, np.float32)
    model = small(name, env, policy)
    with pytest.raises(FloatingPointError, match=r"^observations up to step 0 must be finite"):
        model.learn(100)
    assert all(x.isfinite().all() for x in model.policy.state_dict().values() if x.shape)


@pytest.mark.parametrize("dtype", [np.float16, np.float32], ids=["float16", "float32"])
def test_large_finite_values_are_not_refused(dtype: Any) -> None:
    """Though the sum of their squares is not finite."""
    largest = np.full(9, np.finfo(dtype).max, dtype)
    refuse_nonfinite(1, observations={"a": largest}, rewards=-largest)
    with pytest.raises(FloatingPointError, match="rewards up to step 1"):
        refuse_nonfinite(1, rewards=np.append(largest, dtype(np.inf)))


def test_what_is_infinite_in_float32_is_refused() -> None:
    """In which buffers and networks have it: observations of 1e39 were, and lost the networks."""
    refuse_nonfinite(1, observations=np.full(9, float(np.finfo(np.float32).max)))
    for value in (1e39, -1e300, np.nan):
        with pytest.raises(FloatingPointError, match="observations up to step 1"):
            refuse_nonfinite(1, observations=np.array([0.0, value]))


@pytest.mark.parametrize("stock", [SAC, PPO], ids=["SAC", "PPO"])
def test_the_stock_algorithms_fail_later_and_lose_their_networks(
    stock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ours is to be at least as good as: rewards that are NaN reach the networks."""
    kwargs = {"learning_starts": 20, "batch_size": 16} if stock is SAC else {"n_steps": 32}
    if stock is PPO:
        kwargs["batch_size"] = 16
    model = stock("MlpPolicy", FaultyEnv("rewards"), device="cpu", **kwargs)
    # torch's default, which some packages change
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    with pytest.raises(ValueError, match="Expected parameter loc"):
        model.learn(400)
    assert not _finite(model)


@pytest.mark.filterwarnings("ignore:invalid value")  # the host's advantages of them
@pytest.mark.parametrize("name", ["PPOERA", "A2CERA"])
def test_values_that_overflow_are_not_called_rewards(name: str) -> None:
    """The host adds them to rewards at time limits: finite ones of the environment were blamed."""
    model = small(name, FaultyEnv())
    torch.nn.init.constant_(model.policy.value_net.bias, 3e38)
    torch.nn.init.constant_(model.policy.value_net.weight, 3e38)
    with pytest.raises(FloatingPointError, match=r"^the policy's values at step \d+ must be"):
        model.learn(64)
    assert _finite(model)


def test_masked_policies_refuse_them_too() -> None:
    class FaultyChoice(ChoiceEnv):
        def step(self, action: Any) -> Any:
            obs, _, *rest = super().step(action)
            return obs, np.nan, *rest

    model = small("MaskablePPOERA", FaultyChoice(spaces.Discrete(4)))
    with pytest.raises(FloatingPointError, match="rewards up to step 32 must be finite"):
        model.learn(64)


def test_observations_in_dicts_and_of_integers_are_looked_at(monkeypatch: Any) -> None:
    from stable_baselines3.common.envs import SimpleMultiObsEnv

    env = SimpleMultiObsEnv(discrete_actions=False)
    step = env.step

    def broken(action: Any) -> Any:
        obs, *rest = step(action)
        return {**obs, "vec": obs["vec"] * np.nan}, *rest

    extractor = {"features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = small("SACERA", env, "MultiInputPolicy", policy_kwargs=extractor, batch_size=4)
    model.learn(3)
    monkeypatch.setattr(env, "step", broken)
    with pytest.raises(FloatingPointError, match="observations up to step"):
        model.learn(3)


class EndlessEnv(FaultyEnv):
    """Never ends an episode, so that off-policy algorithms never log, and counts its actions."""

    def step(self, action: np.ndarray) -> Any:
        obs, _, *_, info = super().step(action)
        return obs, float(np.square(obs).sum()), False, False, info


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in CONTINUOUS), ("PPOERA", {"distribution": "normal"})],
    ids=[*CONTINUOUS, "PPOERA-unbounded"],
)
def test_a_policy_that_is_lost_sends_no_action_and_is_not_saved(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """The error names the network, before the first action that is NaN; the last good file stays."""
    env = EndlessEnv()
    model = small(name, env, learning_rate=1e20, **options)
    model.save(path := tmp_path / "model.zip")
    before = path.read_bytes()
    with pytest.raises(FloatingPointError, match=r"^the policy's .* must be finite.*learning_rate"):
        model.learn(400)
    assert env.bad_actions == 0
    assert 0 < env.taken < 400
    next(iter(model.policy.parameters())).data.fill_(np.nan)  # or finite weights overflowed
    with pytest.raises(FloatingPointError, match=r"^the policy's \S+ at step \d+ must be finite"):
        model.save(path)
    assert path.read_bytes() == before


def test_a_discrete_policy_that_is_lost_sends_no_action() -> None:
    """Its actions are numbers all the same: its weights are looked at after each rollout."""
    model = small("PPOERA", spaces.Discrete(4), learning_rate=1e30)
    with pytest.raises(FloatingPointError, match=r"the policy's .* must be finite"):
        model.learn(400)


class BlindChoice(ChoiceEnv):
    """Shows nothing but NaN from its 40th state on."""

    drawn = 0

    def _draw(self) -> np.ndarray:
        self.drawn += 1
        return super()._draw() * np.float32(np.nan if self.drawn >= 40 else 1.0)


# the compiled one's, before the eager one that takes its place meets the same
@pytest.mark.filterwarnings("ignore:torch.compile of the policy's forward failed:RuntimeWarning")
@pytest.mark.parametrize("name", ["PPOERA", "PPOERA-compiled", "MaskablePPOERA"])
def test_a_discrete_policy_names_what_is_not_finite(
    name: str, traced: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PPOERA took the first action for the most likely one; else there was torch's error on logits."""
    name, *compiled = name.split("-")
    options = {"compile": True} if compiled else {}
    model = small(name, BlindChoice(spaces.MultiDiscrete([3, 4])), **options)
    obs = np.zeros((1, 2), np.float32)
    with pytest.raises(FloatingPointError, match=r"^observations up to step 3\d must be finite"):
        model.learn(64)
    for deterministic in (True, False):
        with pytest.raises(FloatingPointError, match=r"^observations up to step 3"):
            model.predict(obs * np.nan, deterministic=deterministic)
    # torch's default, which some packages change
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)
    next(iter(model.policy.parameters())).data.fill_(np.nan)
    for deterministic in (True, False):
        with pytest.raises(FloatingPointError, match=r"^the policy's \S+ at step 3\d must be"):
            model.predict(obs, deterministic=deterministic)


@pytest.mark.parametrize(
    ("name", "buffer"), [("XQCERA", "actor.latent_pi.0.running_var"), ("PPOERA", "head.delta")]
)
def test_networks_with_lost_statistics_are_not_saved(name: str, buffer: str) -> None:
    """Huge observations overflow a running variance; all states look the same from then on."""
    options = {"floor": "gaussian", "target_entropy": 0.0} if name == "PPOERA" else {}
    model = small(name, **options)
    model.policy.get_buffer(buffer).fill_(np.inf)
    with pytest.raises(
        FloatingPointError, match=f"^the policy's {buffer} at step 0 must be finite"
    ):
        model.save(io.BytesIO())


# numpy's, in the host's explained variance
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_a_loss_that_is_not_finite_ends_training(name: str) -> None:
    """Where finite data are too large: at the next logs, without a look at the device in between."""
    model = small(name, FaultyEnv("rewards", 1e25))
    with pytest.raises(
        FloatingPointError, match=r"train/\w*loss=(nan|inf) at step .*learning_rate"
    ):
        model.learn(400, log_interval=1)


def test_check_nan_finds_the_first() -> None:
    """What the messages point to."""
    env = VecCheckNan(make_vec_env(lambda: FaultyEnv("observations")), raise_exception=True)
    with pytest.raises(ValueError, match="found nan in observations"):
        small("SACERA", env).learn(400)


@pytest.mark.parametrize("fault", ["step", "reset"])
@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_an_environment_that_raises_is_passed_on_and_leaves_a_whole_model(
    name: str, fault: str, tmp_path: Path
) -> None:
    model = small(name, FaultyEnv(fault))
    with pytest.raises(ZeroDivisionError, match=f"in {fault}"):
        model.learn(400)
    model.save(tmp_path / "model")
    loaded = FAMILY[name].load(tmp_path / "model", env=FaultyEnv())
    assert loaded.num_timesteps == model.num_timesteps >= AT - 1
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps >= AT + 63


def test_an_environment_process_that_dies_ends_training_at_once(tmp_path: Path) -> None:
    """With the pipe's error, as with the stock algorithms, and not in a wait without end."""
    env = SubprocVecEnv([lambda: FaultyEnv("exit"), FaultyEnv], start_method="fork")
    model = small("SACERA", env)
    with pytest.raises((EOFError, ConnectionError)):
        model.learn(400)
    assert model.num_timesteps >= AT
    model.save(tmp_path / "model")
    SACERA.load(tmp_path / "model")
    env.processes[1].terminate()


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", FAMILY)
def test_the_cpu_in_the_place_of_cuda_is_said(name: str, without_cuda: None) -> None:
    with pytest.warns(UserWarning, match=r"device='cuda:1' is absent .*: the CPU is taken"):
        model = small(name, device="cuda:1")
    assert model.device.type == "cpu"


def test_the_cpu_in_the_place_of_cuda_is_said_when_loading(
    tmp_path: Path, without_cuda: None
) -> None:
    small("SACERA").save(tmp_path / "model")
    with pytest.warns(UserWarning, match="device='cuda' is absent"):
        assert SACERA.load(tmp_path / "model", device="cuda").device.type == "cpu"
    assert SACERA.load(tmp_path / "model").device.type == "cpu"


def test_a_truncated_model_is_an_error(tmp_path: Path) -> None:
    """SB3's own, of which it has several."""
    path = tmp_path / "model.zip"
    small("SACERA").save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises((ValueError, AssertionError), match=r"[Zz]ip|No data found"):
        SACERA.load(path)


class WithoutTruncation(VecEnvWrapper):
    """Ends episodes without saying that a time limit did, as PettingZoo through supersuit does."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        for info in infos:
            info.pop("TimeLimit.truncated", None)
        return obs, rewards, dones, infos


@pytest.mark.parametrize("cls", [SAC, SACERA])
@pytest.mark.parametrize("told", [True, False])
def test_a_time_limit_is_what_infos_say_it_is(cls: Any, told: bool) -> None:
    """Without ``TimeLimit.truncated`` SB3 stores the end of an episode as terminal, and so do we."""
    env = DummyVecEnv([FaultyEnv])
    model = cls("MlpPolicy", env if told else WithoutTruncation(env), learning_starts=100)
    model.learn(10)
    assert model.replay_buffer.dones[9] == 1.0
    assert model.replay_buffer.timeouts[9] == told


class WithLists(VecEnvWrapper):
    """Returns rewards and ends as lists, as environments of one's own may."""

    def reset(self) -> Any:
        return self.venv.reset()

    def step_wait(self) -> Any:
        obs, rewards, dones, infos = self.venv.step_wait()
        return obs, list(rewards), list(dones), infos


@pytest.mark.parametrize("cls", [SAC, SACERA, FAMILY["XQCERA"]])
def test_ends_of_episodes_may_be_a_list(cls: Any) -> None:
    cls("MlpPolicy", WithLists(DummyVecEnv([FaultyEnv])), learning_starts=100).learn(20)


@pytest.mark.parametrize("name", ["PPOERA", "MaskablePPOERA", "DiscreteSACERA"])
def test_a_lost_discrete_policy_does_not_act_where_torch_validates_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``python -O`` and some imports switch validation off; the mode of NaN logits is action 0."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    model = small(name, spaces.Discrete(3))
    obs = model.observation_space.sample()
    model.predict(obs, deterministic=True)
    last = "actor.mu" if name == "DiscreteSACERA" else "action_net"
    model.policy.get_submodule(last).weight.data.fill_(np.nan)
    with pytest.raises(FloatingPointError, match=rf"{last}.weight .*must be finite"):
        model.predict(obs, deterministic=True)
