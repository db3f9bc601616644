"""Settings of an algorithm and its environment: data, checked key by key before anything runs.

A YAML file maps patterns of gymnasium ids to settings; the first pattern that matches counts. rl_zoo3
evaluates strings as Python and imports what they name; here Python is refused, and classes are
named by the words of ``OBJECTS`` or by dotted names that ``CLASSES`` allows.
"""

import copy
import fnmatch
import inspect
import math
from collections.abc import Iterator, Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import gymnasium
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer
from torch import nn, optim

from era_rl.runs.settings import SettingsError, check_names, number_words
from era_rl.runs.yaml_files import parse, read_mapping
from era_rl.sb3.buffers import DeviceReplayBuffer

OBJECTS: dict[str, dict[str, type]] = {
    "activation_fn": {
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "leaky_relu": nn.LeakyReLU,
        "relu": nn.ReLU,
        "silu": nn.SiLU,
        "tanh": nn.Tanh,
    },
    "noise_type": {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise},
    "optimizer_class": {"adam": optim.Adam, "adamw": optim.AdamW},
    "replay_buffer_class": {"device": DeviceReplayBuffer, "her": HerReplayBuffer},
}

# setting -> what it may name: subclasses of the first, in one of the modules
CLASSES: dict[str, tuple[type, tuple[str, ...]]] = {
    "policy": (BasePolicy, ("era_rl.sb3", "era_rl.zoo.baselines")),
    "env_wrapper": (
        gymnasium.Wrapper,
        (
            "era_rl.envs.wrappers",
            "gymnasium.wrappers",
            "rl_zoo3.wrappers",
            "sb3_contrib.common.wrappers",
            "stable_baselines3.common.atari_wrappers",
        ),
    ),
    "vec_env_wrapper": (VecEnvWrapper, ("stable_baselines3.common.vec_env",)),
    "callback": (
        BaseCallback,
        ("era_rl.sb3", "rl_zoo3.callbacks", "stable_baselines3.common.callbacks"),
    ),
}

# settings of the environments and of the run; the rest are the algorithm's arguments
EXPERIMENT_SETTINGS = frozenset(
    [
        *("n_timesteps", "n_envs", "normalize", "frame_stack", "env_wrapper", "vec_env_wrapper"),
        *("callback", "env_kwargs", "monitor_kwargs", "noise_type", "noise_std"),
    ]
)
# settings that are numbers, and the range they must lie in; schedules may be "lin_<number>" too
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("gamma", "tau", "gae_lambda"), (0.0, 1.0)),
    **dict.fromkeys(("learning_rate", "clip_range", "noise_std"), (0.0, math.inf)),
    **dict.fromkeys(("n_envs", "n_steps", "n_epochs", "n_timesteps"), (1.0, math.inf)),
    **dict.fromkeys(
        ("batch_size", "buffer_size", "frame_stack", "target_update_interval"), (1.0, math.inf)
    ),
    "learning_starts": (0.0, math.inf),
    "gradient_steps": (-1.0, math.inf),
}
SCHEDULES = frozenset(["learning_rate", "clip_range"])
REAL = frozenset(["gamma", "tau", "gae_lambda", "noise_std"]) | SCHEDULES
# arguments of algorithms and policies that are not settings: the command line or SB3 gives them
GIVEN = frozenset(
    [
        *("self", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"),
        *("observation_space", "action_space", "lr_schedule"),
    ]
)


def config_path(algo: str) -> Path:
    """Return the file of settings of an algorithm."""
    return Path(str(resources.files("zoo_configs").joinpath(f"{algo}.yml")))


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """Return the settings of a file by pattern of gymnasium ids, in its order."""
    if path.suffix not in (".yml", ".yaml"):
        raise SettingsError(f"{path} must be a .yml or .yaml file: a configuration is data")
    entries = read_mapping(path)
    if not all(isinstance(e, dict) for e in entries.values()):
        raise SettingsError(f"{path} must map gymnasium ids to settings")
    return entries


def entry_for(env_id: str, path: Path) -> dict[str, Any]:
    """Return the settings of the first pattern of a file that matches an environment's id."""
    return matching_entry(env_id, path)[1]


def matching_entry(env_id: str, path: Path) -> tuple[str, dict[str, Any]]:
    """Return the first pattern of a file that matches an environment's id, and its settings."""
    entries = read_config(path)
    for pattern, settings in entries.items():
        if fnmatch.fnmatchcase(env_id, pattern):
            return pattern, settings
    raise SettingsError(f"no entry of {path} matches {env_id!r}; there are: {', '.join(entries)}")


def check(settings: Mapping[str, Any], algorithm: type[BaseAlgorithm]) -> None:
    """Refuse settings that the algorithm does not know, and values that are not data.

    Raises:
        SettingsError: Naming the setting, its value, and what comes close or is allowed.
    """
    if not (isinstance(algorithm, type) and issubclass(algorithm, BaseAlgorithm)):
        raise SettingsError(f"algo: {algorithm!r} must be an algorithm of Stable-Baselines3's kind")
    check_names("setting", settings, EXPERIMENT_SETTINGS | _arguments(algorithm))
    for name in ("policy", "n_timesteps"):
        if name not in settings:
            raise SettingsError(f"the setting {name!r} is missing")
    for name in ("policy_kwargs", "replay_buffer_kwargs", "env_kwargs", "monitor_kwargs"):
        if not isinstance(settings.get(name, {}), dict):
            raise SettingsError(f"{name}={settings[name]!r} must be a mapping: a config is data")
    if not isinstance(settings.get("normalize", False), bool | dict):
        raise SettingsError(f"normalize={settings['normalize']!r} must be true, false or a mapping")
    if isinstance(settings.get("normalize"), dict):
        check_names("normalize", settings["normalize"], _arguments(VecNormalize))
    for name in RANGES.keys() & settings.keys():
        _check_number(name, settings[name])
    if ("noise_type" in settings) != ("noise_std" in settings):
        raise SettingsError("noise_type and noise_std must be given together")
    _check_train_freq(settings.get("train_freq", 1))
    for name in ("env_wrapper", "vec_env_wrapper", "callback"):
        list(named_classes(name, settings.get(name)))
    policy = policy_class(settings["policy"], algorithm)
    policy_kwargs = settings.get("policy_kwargs", {})
    check_names("policy_kwargs", policy_kwargs, _arguments(policy))
    _check_net_arch(policy_kwargs.get("net_arch"))
    with_objects(settings)


def with_objects(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the settings with the words of ``OBJECTS`` replaced by what they name."""
    result = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            result[name] = with_objects(value)
        elif name in OBJECTS:
            check_names(name, [value], OBJECTS[name])
            result[name] = OBJECTS[name][value]
        else:
            result[name] = copy.deepcopy(value)
    return result


def in_words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the settings as data: the inverse of :func:`with_objects`."""
    words = {value: word for named in OBJECTS.values() for word, value in named.items()}
    return {
        name: in_words(value)
        if isinstance(value, dict)
        else words.get(value, value)
        if isinstance(value, type)
        else copy.deepcopy(value)
        for name, value in settings.items()
    }


def _check_number(name: str, value: Any) -> None:
    """Raise SettingsError unless a setting is a number in its range, whole where it must be."""
    low, high = RANGES[name]
    number = value
    if name in SCHEDULES and isinstance(value, str) and value.startswith("lin_"):
        number = parse(value.removeprefix("lin_"))
    real = isinstance(number, int | float) and not isinstance(number, bool)
    real = real and math.isfinite(number)
    whole = name in REAL or (real and number == number // 1)
    if not (real and whole and low <= number <= high):
        allowed = number_words(name not in REAL, low, high)
        or_lin = ', or "lin_" and one' if name in SCHEDULES else ""
        raise SettingsError(f"{name}={value!r} must be {allowed}{or_lin}")


def _check_train_freq(value: Any) -> None:
    """Raise SettingsError unless steps, or [number, "step" or "episode"]."""
    number, unit = value if isinstance(value, list) and len(value) == 2 else (value, "step")
    if type(number) is not int or number < 1 or unit not in ("step", "episode"):
        raise SettingsError(
            f'train_freq={value!r} must be a whole number of at least 1, or [number, "step" or '
            '"episode"]'
        )


def _check_net_arch(value: Any) -> None:
    """Raise SettingsError unless widths, or widths for each network."""
    networks = value.values() if isinstance(value, dict) else [value] if value is not None else []
    for widths in networks:
        if not isinstance(widths, list) or not all(type(w) is int and w >= 1 for w in widths):
            raise SettingsError(
                f"net_arch={value!r} must be a list of widths of at least 1, or map networks to lists"
            )


def named_classes(setting: str, value: Any) -> Iterator[tuple[type, dict[str, Any]]]:
    """Yield the classes that a setting names, one or a list, with the arguments of each.

    A name is dotted, or maps to its arguments: ``gymnasium.wrappers.TimeLimit: {...}``.
    """
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        name, kwargs = next(iter(item.items())) if isinstance(item, dict) else (item, {})
        yield named_class(setting, name), kwargs or {}


def named_class(setting: str, name: str) -> type:
    """Return the class that a dotted name stands for; SettingsError unless the setting allows it."""
    base, modules = CLASSES[setting]
    module, _, attribute = str(name).rpartition(".")
    if module not in modules:
        raise SettingsError(f"{setting}={name!r} must be a class of {' or '.join(modules)}")
    members = vars(import_module(module))
    classes = {k for k, v in members.items() if isinstance(v, type) and issubclass(v, base)}
    check_names(setting, [attribute], classes)
    return members[attribute]


def policy_class(name: str, algorithm: type[BaseAlgorithm]) -> type[BasePolicy]:
    """Return the policy that an alias of the algorithm or a dotted name stands for."""
    if "." in str(name):
        return named_class("policy", name)
    check_names("policy", [name], algorithm.policy_aliases)
    return algorithm.policy_aliases[name]


def _arguments(cls: type) -> frozenset[str]:
    """Return the named arguments of a class, those included that it hands on to its bases."""
    names = set(inspect.signature(cls).parameters)
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base.__init__).parameters.values()
            names.update(
                p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
            )
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return frozenset(names) - GIVEN
