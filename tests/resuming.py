"""What is asked of a saved model of any off-policy algorithm: that it goes on as if it had not been."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch


def loaded_to_go_on(model: Any, folder: Path, steps: int) -> Any:
    """Save a model, train it and the one that is loaded for so many steps, and return the latter.

    Both have the environment, replay buffer and random numbers of then, and end with equal policies.
    """
    model.save(folder / "model")
    model.save_replay_buffer(folder / "buffer")
    env, states = copy.deepcopy(model.get_env()), (np.random.get_state(), torch.get_rng_state())
    model.learn(steps, reset_num_timesteps=False)
    loaded = type(model).load(folder / "model", env=env, force_reset=False, device="cpu")
    loaded.load_replay_buffer(folder / "buffer")
    np.random.set_state(states[0])
    torch.set_rng_state(states[1])
    loaded.learn(steps, reset_num_timesteps=False)
    for name, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[name]), name
    return loaded
