"""What an exported policy is compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from era_rl.sb3.export import export_policy


def observations(model: Any, n: int) -> Any:
    """Return observations, floats as float32, that differ from those of the check."""
    parts = model.observation_space
    parts = parts.spaces if isinstance(parts, spaces.Dict) else {"obs": parts}
    for space in parts.values():
        space.seed(7)
    found = {name: np.stack([s.sample() for _ in range(n)]) for name, s in parts.items()}
    found = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in found.items()}
    return found


def predicted(model: Any, obs: dict[str, np.ndarray], **kwargs: Any) -> np.ndarray:
    given: Any = obs if isinstance(model.observation_space, spaces.Dict) else obs["obs"]
    normalize = model.get_vec_normalize_env()
    given = given if normalize is None else normalize.normalize_obs(given)
    return model.predict(given, **kwargs)[0]


def check_deterministic(model: Any, path: Path) -> None:
    """Export as .pt2, read it back, and compare at batches of 1 and 5."""
    assert export_policy(model, path) <= 1e-6
    program = torch.export.load(path).module()
    obs = observations(model, 5)
    for n in (1, 5):
        part = {name: value[:n] for name, value in obs.items()}
        found = program(*map(torch.as_tensor, part.values())).numpy()
        expected = predicted(model, part, deterministic=True)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-6)
