"""Learning while environments step: the same updates, one round later than the policy that acts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_toys import TargetEnv, small_sacera, trained
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from era_rl.sb3 import SACERA


class Log(DummyVecEnv):
    """Notes when environments start and end a step, and when the model acts and learns."""

    def __init__(self, n_envs: int = 2) -> None:
        super().__init__([lambda: TargetEnv(horizon=7)] * n_envs)
        self.events: list[Any] = []

    def watch(self, model: SACERA) -> None:
        predict, update = model.policy.predict, model._update

        def acting(*args: Any, **kwargs: Any) -> Any:
            self.events.append("act")
            return predict(*args, **kwargs)

        def updating(data: Any) -> None:
            assert model.replay_buffer is not None
            self.events.append(("update", model.replay_buffer.size()))
            update(data)

        model.policy.predict, model._update = acting, updating  # type: ignore[method-assign]

    def step_async(self, actions: Any) -> None:
        self.events.append("start")
        super().step_async(actions)

    def step_wait(self) -> Any:
        self.events.append("end")
        return super().step_wait()


def events(**options: Any) -> tuple[SACERA, list[Any]]:
    env = Log()
    model = small_sacera(env=env, learning_starts=0, gradient_steps=2, **options)
    env.watch(model)
    trained(model, 8)
    return model, env.events


def test_updates_are_the_same_and_taken_within_the_next_step() -> None:
    plain, at_once = events()
    model, within = events(overlap=True)
    assert [e for e in within if isinstance(e, tuple)] == [
        e for e in at_once if isinstance(e, tuple)
    ]
    assert model._n_updates == plain._n_updates == 8
    one = [("update", 1)] * 2
    assert at_once[:10] == [
        "act",
        "start",
        "end",
        *one,
        "act",
        "start",
        "end",
        *[("update", 2)] * 2,
    ]
    assert within[:8] == ["act", "start", "end", "act", "start", *one, "end"]
    assert within[-3:] == ["end", *[("update", 4)] * 2]


def test_trains_goes_on_and_loads(tmp_path: Path) -> None:
    env = VecNormalize(DummyVecEnv([lambda: TargetEnv(horizon=7)] * 2))
    model = trained(small_sacera(env=env, overlap=True))
    assert model.get_vec_normalize_env() is env
    assert env.obs_rms.count > 40
    trained(model, 10, reset_num_timesteps=False)
    model.save(tmp_path / "model")
    loaded = SACERA.load(tmp_path / "model", env=env, device="cpu")
    assert loaded.overlap is True
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[name])
    trained(loaded)


def test_the_wrappers_of_training_and_evaluation_agree(tmp_path: Path) -> None:
    """As EvalCallback needs them, and CheckpointCallback pickles the statistics in the meantime."""
    train_env, eval_env = (
        VecNormalize(DummyVecEnv([lambda: Monitor(TargetEnv())])) for _ in range(2)
    )
    evaluation = EvalCallback(eval_env, eval_freq=10, n_eval_episodes=2, verbose=0)
    checkpoints = CheckpointCallback(10, str(tmp_path), save_vecnormalize=True)
    model = small_sacera(env=train_env, overlap=True)
    trained(model, callback=CallbackList([evaluation, checkpoints]))
    assert model.env is train_env
    assert np.isfinite(evaluation.last_mean_reward)
    assert len(list(tmp_path.glob("*vecnormalize*.pkl"))) == 4
    assert "step_wait" not in vars(train_env.venv)


def test_trains_at_once_outside_of_learn_and_drops_nothing() -> None:
    model = trained(small_sacera(overlap=True))
    done = model._n_updates
    model.train(5)
    assert model._n_updates == done + 5

    def trains_too(locals_: Any, _: Any) -> bool:
        model.train(2)
        return True

    model.learn(10, callback=trains_too, reset_num_timesteps=False)
    assert model._n_updates == done + 5 + 10 * 3


def test_what_was_deferred_is_done_after_an_error() -> None:
    model = small_sacera(overlap=True, learning_starts=0)
    assert model.env is not None

    def fails_at_five(locals_: Any, _: Any) -> bool:
        if model.num_timesteps == 5:
            raise ZeroDivisionError
        return True

    with pytest.raises(ZeroDivisionError):
        model.learn(10, callback=fails_at_five)
    assert model._n_updates == 4
    assert "step_wait" not in vars(model.env.unwrapped)


def test_refuses_hindsight() -> None:
    env = BitFlippingEnv(n_bits=3, continuous=True, max_steps=3)
    with pytest.raises(ValueError, match="overlap=True must be False with a HerReplayBuffer"):
        small_sacera(env, "MultiInputPolicy", replay_buffer_class=HerReplayBuffer, overlap=True)


@pytest.mark.parametrize("overlap", [False, True])
def test_runs_are_reproducible(overlap: bool) -> None:
    states = [trained(small_sacera(overlap=overlap)).policy.state_dict() for _ in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
