"""Small runs of era-zoo that the tests share, and what their folders say."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.envs.classic_control import PendulumEnv
from stable_baselines3.common.monitor import load_results
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from era_rl.zoo import cli

SMALL = {
    "sac_era": ["learning_starts=5", "batch_size=8", "policy_kwargs.net_arch=[4]"],
    "xqc_era": ["learning_starts=5", "batch_size=8", "policy_kwargs.net_arch=[4]"],
    "ppo_era": ["n_steps=5", "batch_size=5", "policy_kwargs.net_arch=[4]", "normalize=true"],
    "recurrent_ppo_era": ["n_steps=5", "batch_size=5", "policy_kwargs.lstm_hidden_size=4"],
}


def train(folder: Path, algo: str, steps: int) -> int:
    """Train on Pendulum, its episodes cut to 20 steps, evaluating every 10 and saving every 20."""
    names = ["--algo", algo, "--env", "Pendulum-v1", "--out", str(folder), "-n", str(steps)]
    every = ["--eval-freq", "10", "--eval-episodes", "2", "--save-freq", "20", "--verbose", "0"]
    env = ["--env-kwargs", "max_episode_steps=20"]
    return cli.main(["train", *names, *every, *env, "--params", *SMALL[algo]])


class Killed(BaseException):
    """Ends a run at once, as a signal would."""


@contextmanager
def killed_after(steps: int, error: BaseException | None = None) -> Iterator[None]:
    """Have Pendulum raise an error after so many steps, which ends what is run in the block."""
    error, left, step = error or Killed(), iter(range(steps)), PendulumEnv.step

    def counting(self: Any, action: Any) -> Any:
        if next(left, None) is None:
            raise error
        return step(self, action)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PendulumEnv, "step", counting)
        with pytest.raises(type(error)) as caught:
            yield
    assert caught.value is error


def episode_lengths(run: Path) -> list[int]:
    """Episode lengths in the order in which the episodes ended."""
    return load_results(str(run))["l"].tolist()


def evaluated_at(run: Path) -> list[int]:
    return np.load(run / "evaluations.npz")["timesteps"].tolist()


def logged_at(run: Path) -> dict[str, list[int]]:
    """Steps of every scalar in TensorBoard's files, in the order of the files."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def names(logs: Path, algo: str) -> list[str]:
    """Return the arguments that name an agent on Pendulum among runs."""
    return ["--algo", algo, "--env", "Pendulum-v1", "-f", str(logs)]
