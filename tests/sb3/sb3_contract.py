"""What each algorithm composes with: a check a feature, and the words of those that refuse it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_exported import check_deterministic
from sb3_family import (
    BOX,
    CASES,
    DISCRETE,
    FAMILY,
    MULTI_BINARY,
    MULTI_DISCRETE,
    REPLAY,
    ChoiceEnv,
    make_env,
    same_parameters,
    small,
    some_states,
    space_of,
)
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv, FakeImageEnv, SimpleMultiObsEnv
from stable_baselines3.common.vec_env import VecNormalize

from era_rl.sb3 import DeviceReplayBuffer, EntropyMonitor

STEPS = 48
BOUNDED = ("SACERA", "TQCERA", "CrossQERA", "XQCERA")
ROLLOUT = ("PPOERA", "A2CERA", "MaskablePPOERA", "RecurrentPPOERA")


def learn(model: Any, **kwargs: Any) -> Any:
    """Train, check that the policy moved and stayed finite, and return the model."""
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(STEPS * model.n_envs, **kwargs)
    after = model.policy.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in after)
    assert all(p.isfinite().all() for p in model.policy.parameters())  # a floor may be -inf
    return model


def keeps_its_floor(model: Any) -> None:
    """Train; the entropy of every visited state is at least the floor, up to rounding."""
    monitor = EntropyMonitor(check_freq=10)
    learn(model, callback=monitor)
    # float32: a discrete floor is met by a solve that ends within rounding of it
    assert monitor.margin >= (0.0 if isinstance(model.action_space, spaces.Box) else -1e-6)


def _space(space: spaces.Space) -> Callable[[str, Path], None]:
    return lambda name, _: keeps_its_floor(small(name, space))


def _is_discrete(name: str) -> bool:
    return not isinstance(space_of(name), spaces.Box)


def _dict(name: str, _: Path) -> None:
    env = SimpleMultiObsEnv(discrete_actions=_is_discrete(name))
    if name == "MaskablePPOERA":
        env.action_masks = lambda: np.ones(4, dtype=bool)  # type: ignore[attr-defined]
    extractor = {"features_extractor_kwargs": {"cnn_output_dim": 8}}
    keeps_its_floor(small(name, env, "MultiInputPolicy", policy_kwargs=extractor))


def _image(name: str, _: Path) -> None:
    size = {"screen_height": 36, "screen_width": 36, "n_channels": 1}
    env = FakeImageEnv(**size, discrete=_is_discrete(name))
    if name == "MaskablePPOERA":
        env.action_masks = lambda: np.ones(6, dtype=bool)  # type: ignore[attr-defined]
    extractor = {"features_extractor_kwargs": {"features_dim": 8}}
    keeps_its_floor(small(name, env, "CnnPolicy", policy_kwargs=extractor))


def _mask(name: str, _: Path) -> None:
    model: Any = small(name, ChoiceEnv(DISCRETE) if _is_discrete(name) else None)
    obs = some_states(model, 50)
    actions, _ = model.predict(obs, action_masks=np.tile([True, False, True, False], (50, 1)))
    assert set(actions) <= {0, 2}
    keeps_its_floor(model)


def _hindsight(name: str, _: Path) -> None:
    env = BitFlippingEnv(n_bits=3, continuous=not _is_discrete(name), max_steps=5)
    options = {"replay_buffer_class": HerReplayBuffer, "learning_starts": 30}
    learn(small(name, env, "MultiInputPolicy", **options))


def _n_steps(name: str, _: Path) -> None:
    learn(small(name, n_steps=3 if name in REPLAY else 16))


def _vec_normalize(name: str, _: Path) -> None:
    envs = make_vec_env(lambda: make_env(space_of(name)), 3, seed=0)
    env = VecNormalize(envs, norm_reward=name != "XQCERA")  # which scales rewards itself
    keeps_its_floor(small(name, env))


def _compile(name: str, _: Path) -> None:
    """The traced training is the eager one, up to rounding."""
    options = {"learning_starts": 5, "batch_size": 8} if name in REPLAY else {"n_steps": 16}
    found = []
    for compile_ in (False, True):
        torch._dynamo.reset()
        # a fall back to eager would warn, which is an error in tests
        model: Any = small(name, compile=compile_, **options)
        found.append(model.learn(24).policy.state_dict())
        assert bool(model._compiled) == compile_
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value, rtol=1e-5, atol=1e-7)


def _device_buffer(name: str, _: Path) -> None:
    model: Any = small(name, replay_buffer_class=DeviceReplayBuffer)
    keeps_its_floor(model)
    assert isinstance(model.replay_buffer, DeviceReplayBuffer)


def _export(name: str, path: Path) -> None:
    for space in _spaces(name):
        check_deterministic(small(name, space), path / "policy.pt2")


def _resume(name: str, path: Path) -> None:
    for space in _spaces(name):
        _resume_on(name, space, path)


def _resume_on(name: str, space: spaces.Space, path: Path) -> None:
    """A loaded model predicts and goes on as the saved one does."""
    model = learn(small(name, space))
    model.save(path / "model")
    env, noise = copy.deepcopy(model.get_env()), (np.random.get_state(), torch.get_rng_state())
    kwargs = {} if name in REPLAY else {"force_reset": False}
    loaded = FAMILY[name].load(path / "model", env=env, device="cpu", **kwargs)
    assert same_parameters(model.policy, loaded.policy)
    assert loaded.policy.target_entropy == model.policy.target_entropy
    for deterministic in (True, False):
        actions = []
        for each in (model, loaded):
            torch.manual_seed(1)
            actions.append(each.predict(some_states(model), deterministic=deterministic)[0])
        assert np.array_equal(*actions)
    if name in REPLAY:
        model.save_replay_buffer(path / "buffer")
        loaded.load_replay_buffer(path / "buffer")
        loaded._last_obs = copy.deepcopy(model._last_obs)
    if name == "RecurrentPPOERA":  # the host saves none, and begins with zeros
        loaded._last_lstm_states = model._last_lstm_states
    for each in (model, loaded):
        np.random.set_state(noise[0])
        torch.set_rng_state(noise[1])
        if each is model:
            each.env = copy.deepcopy(env)
        each.learn(STEPS, reset_num_timesteps=False)
    assert same_parameters(model.policy, loaded.policy)


def _spaces(name: str) -> list[spaces.Space]:
    return [space for other, space in CASES if other == name]


FEATURES: dict[str, Callable[[str, Path], None]] = {
    "Box": _space(BOX),
    "Discrete": _space(DISCRETE),
    "MultiDiscrete": _space(MULTI_DISCRETE),
    "MultiBinary": _space(MULTI_BINARY),
    "Dict": _dict,
    "image": _image,
    "mask": _mask,
    "HER": _hindsight,
    "n_steps": _n_steps,
    "VecNormalize": _vec_normalize,
    "compile": _compile,
    "DeviceReplayBuffer": _device_buffer,
    "export": _export,
    "resume": _resume,
}

REFUSED: dict[tuple[str, str], str] = {
    **dict.fromkeys(
        [("DiscreteSACERA", "Box"), ("MaskablePPOERA", "Box")],
        "as action spaces but Box(-1.0, 1.0, (2,), float32) was provided",
    ),
    **dict.fromkeys(
        [(name, "Discrete") for name in BOUNDED], "as action spaces but Discrete(4) was provided"
    ),
    **dict.fromkeys(
        [(name, "MultiDiscrete") for name in (*BOUNDED, "DiscreteSACERA")],
        "as action spaces but MultiDiscrete([3 1 4]) was provided",
    ),
    **dict.fromkeys(
        [(name, "MultiBinary") for name in (*BOUNDED, "DiscreteSACERA")],
        "as action spaces but MultiBinary(3) was provided",
    ),
    **dict.fromkeys(
        [("CrossQERA", feature) for feature in ("Dict", "HER")],
        "policy='MultiInputPolicy' must be one of 'MlpPolicy'",
    ),
    ("CrossQERA", "image"): "policy='CnnPolicy' must be one of 'MlpPolicy'",
    **dict.fromkeys(
        [(name, "mask") for name in FAMILY if name != "MaskablePPOERA"],
        "unexpected keyword argument 'action_masks'",
    ),
    **dict.fromkeys(
        [(name, feature) for name in ROLLOUT for feature in ("HER", "DeviceReplayBuffer")],
        "unexpected keyword argument 'replay_buffer_class'",
    ),
    **dict.fromkeys(
        [("MaskablePPOERA", "compile"), ("RecurrentPPOERA", "compile")],
        "unexpected keyword argument 'compile'",
    ),
    ("MaskablePPOERA", "export"): "cannot be exported: its policy takes action masks",
    ("RecurrentPPOERA", "export"): (
        "cannot be exported: its policy carries a state from step to step"
    ),
}
"""The words of each error, by algorithm and feature; what is not here works."""


def matrix() -> str:
    """Return the table of the documentation: an algorithm a row, and the errors' words below."""
    words = list(dict.fromkeys(REFUSED.values()))
    lines = [
        f"| | {' | '.join(f'`{f}`' if f[0].islower() and '_' in f else f for f in FEATURES)} |",
        f"|---|{'---|' * len(FEATURES)}",
    ]
    for name in FAMILY:
        refused = [REFUSED.get((name, feature)) for feature in FEATURES]
        cells = ["yes" if each is None else f"no ({words.index(each) + 1})" for each in refused]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{i}. `{each}`" for i, each in enumerate(words, start=1))])
