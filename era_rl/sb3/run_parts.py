"""What a run of an agent is made of: its settings checked, environments, callbacks and a model."""

import copy
from collections.abc import Sequence
from functools import partial, reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecFrameStack,
    VecNormalize,
)

import era_rl.envs  # noqa: F401 (registers ids)
from era_rl.runs.agent import AgentSettings, algorithm_class
from era_rl.runs.settings import SettingsError, check_names
from era_rl.sb3.base import ERAMixin
from era_rl.sb3.callbacks import EntropyMonitor
from era_rl.sb3.run_callbacks import Evaluation, Lines, SaveStatistics
from era_rl.sb3.run_checkpoint import BEST, ENTROPY
from era_rl.sb3.run_settings import (
    EXPERIMENT_SETTINGS,
    check,
    config_path,
    entry_for,
    named_classes,
    policy_class,
    with_objects,
)


class RunParts(AgentSettings):
    """The settings of a run, filled in and checked, and what they stand for."""

    if TYPE_CHECKING:
        settings: dict[str, Any]  # filled in, never None

    def __post_init__(self) -> None:
        super().__post_init__()
        algorithm = algorithm_class(self.algo)
        import_packages(self.gym_packages)
        check_names("env", [self.env], gymnasium.registry)
        settings = self.settings
        if settings is None:
            settings = entry_for(self.env, config_path(self.algo))
        given = {"n_timesteps": self.steps, "n_envs": self.n_envs}
        given = {name: value for name, value in given.items() if value is not None}
        object.__setattr__(self, "settings", {**copy.deepcopy(dict(settings)), **given})
        check(self.settings, algorithm)
        if self.eval_freq is None:
            object.__setattr__(self, "eval_freq", min(25_000, max(self.total_steps // 10, 1)))

    @property
    def name(self) -> str:
        """The environment's id as a name of files."""
        return file_name(self.env)

    @property
    def total_steps(self) -> int:
        """Environment steps of the whole run."""
        return int(self.settings["n_timesteps"])

    def make_env(
        self,
        n_envs: int = 1,
        *,
        statistics: Path | None = None,
        monitor: Path | None = None,
        **env_kwargs: Any,
    ) -> VecEnv:
        """Return environments with the settings' wrappers.

        Args:
            n_envs: How many.
            statistics: Folder of the statistics to normalise by; None for new ones.
            monitor: Folder to log episodes in, of training: it learns statistics, normalises rewards.
            **env_kwargs: Arguments of the environment, beside the settings'.
        """
        settings = self.settings

        def wrapped(env: Any, setting: str) -> Any:
            classes = named_classes(setting, settings.get(setting))
            env = reduce(lambda inner, named: named[0](inner, **named[1]), classes, env)
            check_observations(env.observation_space)
            return env

        env = make_vec_env(
            gymnasium.spec(self.env).make,
            n_envs,
            self.seed,
            monitor_dir=None if monitor is None else str(monitor),
            wrapper_class=partial(wrapped, setting="env_wrapper"),
            env_kwargs={**settings.get("env_kwargs", {}), **env_kwargs},
            vec_env_cls={"dummy": DummyVecEnv, "subproc": SubprocVecEnv}[self.vec_env],
            monitor_kwargs=settings.get("monitor_kwargs"),
        )
        env = self._normalized(wrapped(env, "vec_env_wrapper"), statistics, monitor is not None)
        if "frame_stack" in settings:
            env = VecFrameStack(env, settings["frame_stack"])
        return BaseAlgorithm._wrap_env(env, monitor_wrapper=False)

    def _normalized(self, env: VecEnv, statistics: Path | None, training: bool) -> VecEnv:
        normalize = self.settings.get("normalize", False)
        if normalize is False:
            return env
        if statistics is None:
            kwargs = {} if normalize is True else normalize
            gamma = {name: self.settings[name] for name in {"gamma"} & self.settings.keys()}
            env = VecNormalize(env, **{**kwargs, **gamma})
        elif (path := statistics / "vecnormalize.pkl").is_file():
            env = VecNormalize.load(str(path), env)
        else:
            raise SettingsError(f"there are no statistics {path}, and the settings normalize")
        if not training:
            env.training = env.norm_reward = False
        return env

    def watchers(self, eval_env: VecEnv | None, folder: Path) -> list[BaseCallback]:
        """Return what evaluates in an environment, watches the entropy, and says how far a run is."""
        evaluation = None if eval_env is None else self._evaluation(eval_env, folder)
        monitor = None
        if self.monitor and issubclass(algorithm_class(self.algo), ERAMixin):
            every = max(self.total_steps // 100, 1)
            monitor = EntropyMonitor(every, folder / ENTROPY, per_dim=True)
        lines = Lines(evaluation, monitor) if self.verbose else None
        return [callback for callback in (evaluation, monitor, lines) if callback is not None]

    def _evaluation(self, env: VecEnv, folder: Path) -> Evaluation:
        assert self.eval_freq is not None  # filled in
        entry_point = str(gymnasium.spec(self.env).entry_point)
        return Evaluation(
            env,
            callback_on_new_best=SaveStatistics(folder / self.name / BEST),
            n_eval_episodes=self.eval_episodes,
            eval_freq=max(self.eval_freq // self.settings.get("n_envs", 1), 1),
            log_path=str(folder),
            best_model_save_path=str(folder),
            verbose=0,
            # games in which a policy that does not sample gets stuck
            deterministic=not any(name in entry_point for name in ("AtariEnv", "minigrid")),
        )

    def model(self, env: VecEnv) -> BaseAlgorithm:
        """Return a new model with the settings' arguments."""
        algorithm = algorithm_class(self.algo)
        settings = with_objects(self.settings)
        arguments = {k: v for k, v in settings.items() if k not in EXPERIMENT_SETTINGS}
        arguments["policy"] = policy_class(settings["policy"], algorithm)
        for name, value in arguments.items():
            if isinstance(value, str) and value.startswith("lin_"):
                arguments[name] = LinearSchedule(float(value.removeprefix("lin_")), 0.0, 1.0)
        if isinstance(settings.get("train_freq"), list):
            arguments["train_freq"] = tuple(settings["train_freq"])
        if "noise_type" in settings:
            zeros = np.zeros(env.action_space.shape or 0)
            noise = settings["noise_type"](zeros, zeros + settings["noise_std"])
            arguments["action_noise"] = noise
        options = {"seed": self.seed, "device": self.device, "verbose": self.verbose}
        return algorithm(env=env, **options, **arguments)


def check_observations(space: spaces.Space) -> None:
    """Raise SettingsError for observations that the algorithms' networks do not take, such as texts."""
    taken = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    for name, part in parts.items():
        if not isinstance(part, taken):
            raise SettingsError(
                f"observation_space{f'[{name!r}]' if name else ''}={part} must be a Box, Discrete, "
                "MultiDiscrete or MultiBinary, or a Dict of these: leave it out or encode it by an "
                "env_wrapper"
            )


def file_name(env: str) -> str:
    """Return an environment's id as a name of files."""
    return env.replace("/", "-").rpartition(":")[2]


def import_packages(names: Sequence[str]) -> None:
    """Import the modules that register environments; SettingsError for one that is not there."""
    for name in names:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            raise SettingsError(f"gym_packages {name}: {error}") from error
