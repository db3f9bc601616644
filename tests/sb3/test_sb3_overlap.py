"""Learning while environments step: the same updates, one round later than the policy that acts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_toys import TargetEnv, small_sacera, trained
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


@pytest.mark.parametrize("overlap", [False, True])
def test_runs_are_reproducible(overlap: bool) -> None:
    states = [trained(small_sacera(overlap=overlap)).policy.state_dict() for _ in range(2)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
