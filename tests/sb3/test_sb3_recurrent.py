"""RecurrentPPOERA: its floor with a memory, its actions' units, and what the memory is for."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, DISCRETE, small, some_states
from sb3_toys import TargetEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from era_rl.sb3 import PPOERA, GradientConflict, RecurrentPPOERA


class CueEnv(gym.Env):
    """A cue, -1 or 1, is shown at the first of five steps; reward 1 for the action that it names.

    The action counts at the last step; observations are the cue, then 0, and the step.
    """

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.cue = 0, int(self.np_random.integers(2))
        return np.float32([2 * self.cue - 1, 0.0]), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        last = self.steps == 5
        seen = np.float32([0.0, self.steps / 5])
        return seen, float(last and action == self.cue), last, False, {}


@pytest.mark.slow
def test_it_remembers_a_cue_that_ppoera_cannot() -> None:
    """The return of the mode is 1 with a memory and 1/2 without; the floor holds a tenth of ln 2."""
    options: dict[str, Any] = {
        "target_entropy_fraction": 0.1,
        "n_steps": 50,
        "batch_size": 400,
        "learning_rate": 5e-3,
        "gamma": 0.95,
        "seed": 0,
        "device": "cpu",
    }
    env = make_vec_env(CueEnv, 16, seed=0)
    lstm = {"lstm_hidden_size": 16, "net_arch": []}
    remembering = RecurrentPPOERA("MlpLstmPolicy", env, policy_kwargs=lstm, **options)
    forgetting = PPOERA("MlpPolicy", env, policy_kwargs={"net_arch": [16]}, **options)
    returns = [
        evaluate_policy(model.learn(30_000), make_vec_env(CueEnv, 4, seed=1), 200)[0]
        for model in (remembering, forgetting)
    ]
    assert returns[0] >= 0.95
    assert returns[1] <= 0.65


@pytest.mark.parametrize("distribution", ["truncated", "tanh"])
def test_actions_reach_the_bounds_of_the_environment(distribution: str) -> None:
    """The host clips but does not scale: [-1, 1] would leave most of [-2, 5] out."""
    taken: list[np.ndarray] = []

    class Noting(TargetEnv):
        def step(self, action: np.ndarray) -> Any:
            taken.append(action)
            return super().step(action)

    env = Noting(2, horizon=10, bounds=(-2.0, 5.0))
    options = {"distribution": distribution, "target_entropy": 1.2, "n_steps": 128}
    model: Any = small("RecurrentPPOERA", env, **options)
    model.learn(128)
    actions = np.stack(taken)
    assert actions.min() >= -2.0
    assert actions.max() <= 5.0
    assert actions.min() < -0.5
    assert actions.max() > 3.5
    assert model.rollout_buffer.actions.max() == pytest.approx(actions.max())
    obs = torch.as_tensor(some_states(model, 5))
    loc = model.policy.dist_params(model.policy.raw_params(obs))[0]
    modes, _ = model.predict(obs.numpy(), deterministic=True)
    unit = torch.tanh(loc) if distribution == "tanh" else loc
    assert modes == pytest.approx(-2.0 + 3.5 * (unit.detach().numpy() + 1.0), abs=1e-5)


@pytest.mark.parametrize("distribution", ["truncated", "tanh"])
@pytest.mark.parametrize(
    ("low", "dtype"), [(1e3, np.float16), (1e6, np.float32), (1e6, np.float64)]
)
def test_actions_are_as_coarse_as_their_space(low: float, dtype: Any, distribution: str) -> None:
    """Ratios of a policy to itself are 1, of actions on [low, low + 1] as the buffer keeps them."""

    class Offset(TargetEnv):
        action_space = spaces.Box(dtype(low), dtype(low + 1.0), (2,), dtype)

        def step(self, action: np.ndarray) -> Any:
            assert self.action_space.contains(action)
            return super().step(action - low)

    env = Offset(2, horizon=10)
    env.action_space = Offset.action_space
    options = {"distribution": distribution, "n_steps": 64, "n_epochs": 1, "learning_rate": 0.0}
    model: Any = small("RecurrentPPOERA", env, **options)
    model.learn(64)
    figures = model.logger.name_to_value
    assert figures["train/clip_fraction"] == 0.0
    assert figures["train/approx_kl"] == pytest.approx(0.0, abs=1e-6)


def test_the_floor_holds_at_any_state_of_the_memory() -> None:
    """H[pi(.|s, h)] >= H0 for states of the LSTM that no episode reaches."""
    model: Any = small("RecurrentPPOERA", BOX)
    obs = torch.as_tensor(some_states(model, 50))
    hidden, cell = (10.0 * torch.randn(1, 50, 8) for _ in range(2))
    entropy = model.policy.entropy(obs, (hidden, cell), torch.zeros(50))
    assert entropy.min().item() >= model.target_entropy - 1e-5
    begun = model.policy.entropy(obs, (hidden, cell), torch.ones(50))  # which forgets the states
    torch.testing.assert_close(begun, model.policy.entropy(obs))


def test_learned_delta_leaves_the_padding_out() -> None:
    """Entropies of as many steps as the rollout has, from sequences of unequal length."""
    model: Any = small("RecurrentPPOERA", BOX, floor="gaussian", delta="auto", n_steps=32)
    seen: list[int] = []
    update = model._update_delta
    model._update_delta = lambda entropy: (seen.append(len(entropy)), update(entropy))
    model.learn(32)
    assert sum(seen) == 32
    assert model.delta_learner().item() >= 0.0


def test_refuses_what_needs_a_policy_without_memory() -> None:
    with pytest.raises(TypeError, match="compile"):
        small("RecurrentPPOERA", BOX, compile=True)
    with pytest.raises(ValueError, match="without action masks or memory"):
        small("RecurrentPPOERA", DISCRETE).learn(32, callback=GradientConflict())
