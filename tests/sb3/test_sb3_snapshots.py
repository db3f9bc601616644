"""Twenty updates of each algorithm end at stored parameters, so that no change of behaviour is silent.

Everything is in float64; initial parameters, batches and noise come from NumPy's frozen RandomState.
After an intended change write the snapshots anew, and say in CHANGELOG.md what changed:
``ERA_WRITE_SNAPSHOTS=1 pytest tests/sb3/test_sb3_snapshots.py``.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.buffers import MaskableRolloutBufferSamples
from sb3_contrib.common.recurrent.type_aliases import RecurrentRolloutBufferSamples, RNNStates
from sb3_family import BOX, DISCRETE, MULTI_DISCRETE, REPLAY, small
from sb3_toys import DoubleExtractor
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples, RolloutBufferSamples
from torch import Tensor

SNAPSHOTS = Path(__file__).parent / "snapshots"
UPDATES = 20
BATCH = 32

CASES: dict[str, tuple[str, spaces.Space, dict[str, Any]]] = {
    "sacera": ("SACERA", BOX, {}),
    "sacera_slack": ("SACERA", BOX, {"slack": 0.3, "layer_norm": True}),
    "sacera_simba": ("SACERA", BOX, {"policy": "SimbaPolicy"}),
    "sacera_gaussian": ("SACERA", BOX, {"floor": "gaussian", "delta": 0.1}),
    "tqcera": ("TQCERA", BOX, {}),
    "crossqera": ("CrossQERA", BOX, {}),
    "xqcera": ("XQCERA", BOX, {}),
    "discretesacera": ("DiscreteSACERA", DISCRETE, {}),
    "ppoera": ("PPOERA", BOX, {"n_epochs": UPDATES}),
    "ppoera_unbounded": ("PPOERA", BOX, {"n_epochs": UPDATES, "distribution": "normal"}),
    "ppoera_discrete": ("PPOERA", DISCRETE, {"n_epochs": UPDATES}),
    "a2cera": ("A2CERA", BOX, {}),
    "a2cera_discrete": ("A2CERA", MULTI_DISCRETE, {}),
    "recurrentppoera": ("RecurrentPPOERA", BOX, {"n_epochs": UPDATES}),
    "maskableppoera": ("MaskablePPOERA", DISCRETE, {"n_epochs": UPDATES}),
}


class _Draws:
    """Draws in float64 from a random stream that no version changes."""

    def __init__(self) -> None:
        self.stream = np.random.RandomState(0)

    def normal(self, *shape: int) -> Tensor:
        return torch.as_tensor(self.stream.standard_normal(shape))

    def uniform(self, *shape: int) -> Tensor:
        return torch.as_tensor(self.stream.uniform(-1.0, 1.0, shape))

    def integers(self, sizes: list[int]) -> Tensor:
        columns = [self.stream.randint(0, size, BATCH) for size in sizes]
        return torch.as_tensor(np.stack(columns, axis=1)).double()

    def masks(self, actions: Tensor, sizes: list[int]) -> Tensor:
        """Return masks under which the actions are valid."""
        parts = [self.stream.uniform(size=(BATCH, size)) < 0.5 for size in sizes]
        for i, part in enumerate(parts):
            part[np.arange(BATCH), actions[:, i].long().numpy()] = True
        return torch.as_tensor(np.concatenate(parts, axis=1)).double()


class _Replay:
    """In the place of a replay buffer: a new batch each time."""

    def __init__(self, draws: _Draws, model: Any) -> None:
        self.draws, self.head = draws, model.policy.head
        self.obs_dim = model.observation_space.shape[0]

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        draws, sizes = self.draws, getattr(self.head, "num_actions", None)
        observations = draws.uniform(BATCH, self.obs_dim)
        return ReplayBufferSamples(
            observations=observations,
            actions=draws.integers(sizes) if sizes else draws.uniform(BATCH, self.head.action_dim),
            next_observations=draws.uniform(BATCH, self.obs_dim),
            dones=(draws.uniform(BATCH, 1) > 0.8).double(),
            rewards=draws.normal(BATCH, 1),
        )


class _Rollout:
    """In the place of a rollout buffer: one batch, the same in every epoch."""

    def __init__(self, draws: _Draws, model: Any) -> None:
        head = model.policy.head
        sizes = getattr(head, "num_actions", None)
        states = draws.uniform(BATCH, model.observation_space.shape[0])
        actions = draws.integers(sizes) if sizes else 0.9 * draws.uniform(BATCH, head.action_dim)
        batch = (states, actions, *(draws.normal(BATCH) for _ in range(4)))
        self.samples: Any = RolloutBufferSamples(*batch)
        if hasattr(model.policy, "get_distribution") and "Maskable" in type(model).__name__:
            self.samples = MaskableRolloutBufferSamples(*batch, draws.masks(actions, sizes))
        if "Recurrent" in type(model).__name__:
            self.samples = _recurrent(batch, model.policy.lstm_actor)
        # near the policy's own, so that not every ratio is clipped
        discrete = isinstance(model.action_space, spaces.Discrete)
        taken = actions.long().flatten() if discrete else actions
        options = (
            {"action_masks": m}
            if (m := getattr(self.samples, "action_masks", None)) is not None
            else {}
        )
        if (memory := getattr(self.samples, "lstm_states", None)) is not None:
            options = {"lstm_states": memory, "episode_starts": self.samples.episode_starts}
        with torch.no_grad():
            log_prob = model.policy.evaluate_actions(states, taken, **options)[1]
        self.samples = self.samples._replace(old_log_prob=log_prob + 0.1 * draws.normal(BATCH))
        self.values = self.returns = self.rewards = np.ones(BATCH)
        self.advantages = self.samples.advantages.numpy()
        self.observations, self.actions = states.numpy(), actions.numpy()

    def get(self, batch_size: int | None = None) -> Any:
        yield self.samples


def _recurrent(batch: tuple[Tensor, ...], lstm: Any) -> Any:
    """Return the batch as eight sequences, of which an episode ends in the middle; two steps pad."""
    zeros = torch.zeros(lstm.num_layers, 8, lstm.hidden_size, dtype=torch.float64)
    starts, mask = torch.zeros(BATCH, dtype=torch.float64), torch.ones(BATCH, dtype=torch.float64)
    starts[2], mask[-2:] = 1.0, 0.0
    memory = RNNStates((zeros, zeros), (zeros, zeros))
    return RecurrentRolloutBufferSamples(*batch, memory, starts, mask)


class _Double(torch.nn.Module):
    def forward(self, observations: Tensor) -> Tensor:
        return observations.double()


def _train(name: str, space: spaces.Space, options: dict[str, Any]) -> dict[str, np.ndarray]:
    draws = _Draws()
    is_simba = "policy" in options  # whose own extractor has another within
    own = {"net_arch": [8, 8]} if is_simba else {"features_extractor_class": DoubleExtractor}
    model: Any = small(name, space, policy_kwargs=own, learning_rate=1e-2, **options)
    if is_simba:
        model.actor.features_extractor.inner = _Double()
        model.actor.features_extractor.norm.update(3.0 + draws.uniform(BATCH, 2))
    model.policy.double()
    for parameter in model.policy.parameters():
        parameter.data.copy_(0.3 * draws.normal(*parameter.shape))
    model.set_logger(Logger(None, []))
    if name in REPLAY:
        model.replay_buffer = _Replay(draws, model)
        model.train(UPDATES, BATCH)
    else:
        model.rollout_buffer = _Rollout(draws, model)
        for _ in range(UPDATES if name == "A2CERA" else 1):
            model.train()
    return _weights({key: value.numpy() for key, value in model.policy.state_dict().items()})


def _weights(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what training moves: the head has settings alone."""
    return {key: value for key, value in state.items() if "head." not in key}


@pytest.mark.parametrize("case", CASES)
def test_twenty_updates_end_where_they_did(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.RandomState(1)
    monkeypatch.setattr(
        torch, "rand_like", lambda tensor: torch.as_tensor(noise.uniform(size=tuple(tensor.shape)))
    )
    final = _train(*CASES[case])
    path = SNAPSHOTS / f"{case}.npz"
    if os.environ.get("ERA_WRITE_SNAPSHOTS"):
        path.parent.mkdir(exist_ok=True)
        np.savez_compressed(path, **final)
    with np.load(path) as file:
        stored = _weights(file)
        assert set(stored) == set(final)
        for key, value in final.items():
            np.testing.assert_allclose(value, stored[key], rtol=1e-6, atol=1e-9, err_msg=key)
