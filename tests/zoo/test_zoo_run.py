"""A run in Python does what the command line does: trains, goes on, and gives its agent."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecFrameStack, VecNormalize
from zoo_runs import evaluated_at

from era_rl.envs.wrappers import ActionRepeat
from era_rl.runs.folder import checkpoints
from era_rl.runs.settings import SettingsError
from era_rl.sb3 import SACERA
from era_rl.sb3.run import Run

SETTINGS: dict[str, Any] = {
    "policy": "MlpPolicy",
    "n_timesteps": 40,
    "learning_starts": 5,
    "batch_size": 8,
    "policy_kwargs": {"net_arch": [4]},
    "env_kwargs": {"max_episode_steps": 10},
}
RUN = Run(
    "sac_era", "Pendulum-v1", SETTINGS, eval_freq=20, eval_episodes=1, save_freq=10, verbose=0
)


class Until(BaseCallback):
    """Notes its steps, and interrupts training at one of them."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last
        self.seen: list[int] = []

    def _on_step(self) -> bool:
        if self.num_timesteps == self.last:
            raise KeyboardInterrupt
        self.seen.append(self.num_timesteps)
        return True


def test_a_run_is_trained_gone_on_with_and_loaded(tmp_path: Path) -> None:
    """train up to a kill, resume from the checkpoint: n_calls and evaluations go on; load plays."""
    with pytest.raises(KeyboardInterrupt):
        RUN.train(tmp_path, [Until(25)])
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-20"]
    assert replace(Run.read(tmp_path)) == RUN
    with pytest.raises(SettingsError, match="holds a run: resume it"):
        RUN.train(tmp_path)
    later = Until(0)
    model = Run.resume(tmp_path, [later])
    assert isinstance(model, SACERA)
    assert later.seen == list(range(21, 41))
    assert later.n_calls == 40
    assert evaluated_at(tmp_path) == [20, 40]
    assert not checkpoints(tmp_path)
    agent, env = Run.load(tmp_path, seed=3)
    observation: Any = env.reset()
    expected, _ = model.predict(observation, deterministic=True)
    np.testing.assert_array_equal(agent.predict(observation, deterministic=True)[0], expected)
    np.testing.assert_array_equal(
        Run.resume(tmp_path).predict(observation, deterministic=True)[0], expected
    )


def test_arguments_take_the_place_of_settings() -> None:
    """steps and n_envs, and without settings the zoo's entry for the environment."""
    run = Run("ppo_era", "Pendulum-v1", steps=7, n_envs=3)
    assert (run.total_steps, run.settings["n_envs"]) == (7, 3)
    assert run.settings["policy"] == "MlpPolicy"
    assert replace(run, steps=9).total_steps == 9
    assert SETTINGS["n_timesteps"] == 40


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algo": "sac_eras"}, "algo 'sac_eras' is unknown; close: sac_era"),
        ({"env": "Pendulum-v9"}, "env 'Pendulum-v9' is unknown; close: Pendulum-v1"),
        ({"seed": -1}, r"seed=-1 must be a whole number in \[0, 4294967295\]"),
        ({"save_freq": 0}, "save_freq=0 must be a whole number of at least 1"),
        ({"vec_env": "ray"}, "vec_env='ray' must be one of dummy, subproc"),
        ({"settings": 3}, "settings=3 must be a mapping or none"),
        ({"settings": {**SETTINGS, "noise_type": "normall", "noise_std": 1}}, "close: normal"),
        ({"gym_packages": ["nopackage"]}, "gym_packages nopackage: No module named"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_run_is_made(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        replace(RUN, **changes)


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    run = replace(RUN, settings={**SETTINGS, "env_kwargs": {"foo": 1}})
    with pytest.raises(SettingsError, match=r"sac_era on Pendulum-v1: .*'foo'"):
        run.train(tmp_path / "new")
    with pytest.raises(
        SettingsError, match="learning_starts=5 must be below steps=5: no step would"
    ):
        replace(RUN, steps=5).train(tmp_path / "new")
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(SettingsError):
        run.train(tmp_path / "mine")
    assert (tmp_path / "mine" / "file").exists()


@pytest.mark.parametrize(
    ("vec_env", "kind"),
    [("dummy", DummyVecEnv), pytest.param("subproc", SubprocVecEnv, marks=pytest.mark.slow)],
)
def test_environments_are_wrapped_as_the_settings_say(vec_env: Any, kind: type) -> None:
    """Wrappers with arguments in their order, statistics, stacked frames, here or in processes."""
    wrappers = [
        {"era_rl.envs.wrappers.ActionRepeat": {"repeats": 2}},
        "gymnasium.wrappers.FlattenObservation",
    ]
    changes = {"env_wrapper": wrappers, "normalize": {"norm_reward": True}, "gamma": 0.5}
    changes |= {"frame_stack": 2}
    run = replace(RUN, settings={**SETTINGS, **changes}, vec_env=vec_env)
    env = run.make_env(2)
    assert isinstance(env, VecFrameStack)
    statistics = env.venv
    assert isinstance(statistics, VecNormalize)
    assert isinstance(statistics.venv, kind)
    assert (statistics.gamma, statistics.training, statistics.norm_reward) == (0.5, False, False)
    assert isinstance(env.observation_space, spaces.Box)
    assert env.observation_space.shape == (6,)
    if isinstance(statistics.venv, DummyVecEnv):
        outer = statistics.venv.envs[0]
        assert isinstance(outer, gymnasium.wrappers.FlattenObservation)
        assert isinstance(outer.env, ActionRepeat)
    env.close()


def test_images_are_given_channels_first() -> None:
    """To evaluations as to the model, by SB3's own wrapper."""
    settings = {
        **{"policy": "MlpPolicy", "n_timesteps": 4, "n_steps": 2, "batch_size": 2},
        "env_wrapper": {"gymnasium.wrappers.AddRenderObservation": {"render_only": True}},
        "env_kwargs": {"render_mode": "rgb_array", "max_episode_steps": 2},
        "policy_kwargs": {"net_arch": [1]},
    }
    run = Run("ppo_era", "Pendulum-v1", settings, eval_freq=2, eval_episodes=1, verbose=0)
    shape = run.make_env().observation_space.shape
    assert shape is not None
    assert shape[0] == 3
