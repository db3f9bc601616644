"""Environments of the trainer: random streams of their own, dm_control's own order."""

import numpy as np
import pytest
import torch
from dm_control import suite
from torchrl.envs import SerialEnv

from era_rl.torchrl.config import SACConfig
from era_rl.torchrl.envs import derived_seed, make_env, make_envs


def _start(env_id: str, stream: tuple[int, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    env = make_env(env_id, stream)
    assert env.set_seed(seed) == seed
    data = env.rollout(5)
    return data["observation"][0], data["noise"]


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "dm_control/walker-walk-v0"], ids=["gym", "dm"])
def test_a_stream_and_a_seed_fix_the_start_and_the_noise(env_id: str) -> None:
    first, again = _start(env_id, (1, 2), 3), _start(env_id, (1, 2), 3)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for stream, seed in [((1, 3), 3), ((2, 2), 3), ((1, 2), 4)]:
        other = _start(env_id, stream, seed)
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])


def test_an_environment_starts_alike_in_any_batch() -> None:
    one, many = (make_envs(SACConfig(seed=s, seeds=n), 2, 7) for s, n in ((5, 1), (4, 3)))
    for envs in (one, many):
        assert isinstance(envs, SerialEnv)
        envs.set_seed(11, static_seed=True)
    assert torch.equal(one.reset()["observation"], many.reset()["observation"][2:4])


def test_dm_control_observations_are_in_its_own_order_and_single_precision() -> None:
    env = make_env("dm_control/walker-walk-v0", (1, 2))
    env.set_seed(3)
    data = env.rollout(3)
    assert data["next", "reward"].dtype == torch.float32
    raw = suite.load("walker", "walk", {"random": derived_seed(1, 2, 3)})
    raw.reset()  # TorchRL begins an episode when it is seeded, and another
    parts = [np.ravel(part) for part in raw.reset().observation.values()]
    expected = torch.from_numpy(np.concatenate(parts)).float()
    torch.testing.assert_close(data["observation"][0], expected, atol=0.0, rtol=0.0)


def test_dm_control_time_limit_is_a_truncation() -> None:
    last = make_env("dm_control/cartpole-balance-v0").rollout(1_001)[-1]["next"]
    assert last["truncated"].all()
    assert not last["terminated"].any()


def test_a_missing_dm_control_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchrl.envs.libs.dm_control._has_dmc", False)
    with pytest.raises(
        ValueError, match=r"env=.dm_control/walker-walk-v0. needs dm_control, of the extra bench"
    ):
        make_env("dm_control/walker-walk-v0")
