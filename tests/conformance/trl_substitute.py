"""A pytest plugin that puts the ERA trainers in the place of TRL's, before tests import them.

Load it with ``-p trl_substitute``, in a folder of ``trl_hub``.
"""

import os

import trl
import trl.import_utils as import_utils
from deselected import TRL

from era_llm.trl import GRPOERAConfig, GRPOERATrainer, RLOOERAConfig, RLOOERATrainer

if os.environ.get("ERA_STOCK") is None:  # else the host's own, to compare with
    trl.GRPOConfig, trl.GRPOTrainer = GRPOERAConfig, GRPOERATrainer
    trl.RLOOConfig, trl.RLOOTrainer = RLOOERAConfig, RLOOERATrainer

# The tests of TRL 1.10 ask whether there is joblib, which later TRL does not.
vars(import_utils).setdefault("is_joblib_available", lambda: False)


def pytest_collection_modifyitems(config, items) -> None:
    """Deselect what is listed."""
    dropped = [item for item in items if any(part in item.nodeid for part in TRL)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if item not in dropped]
