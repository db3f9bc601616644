"""Every hook of TorchRL and tensordict that we override or call is there, as we rely on it."""

from typing import Any

import pytest
from tensordict.nn import CudaGraphModule, ProbabilisticTensorDictModule
from torchrl.collectors import Collector, MultiSyncCollector
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.envs import EnvBase, RewardSum
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import SACLoss

from tests.seams import check_attribute, check_hook

HOOKS: list[tuple[str, Any, str, str]] = [
    ("torchrl", SACLoss, "qvalue_v2_loss", "self tensordict"),
    ("torchrl", SACLoss, "actor_loss", "self tensordict"),
    ("torchrl", SACLoss, "forward", "self tensordict"),
    ("torchrl", EnvBase, "set_seed", "self seed static_seed"),
    ("torchrl", EnvBase, "step_and_maybe_reset", "self tensordict"),
    ("torchrl", Collector, "set_seed", "self seed static_seed"),
    ("torchrl", MultiSyncCollector, "set_seed", "self seed static_seed"),
    ("torchrl", ProbabilisticActor, "__init__", "self module in_keys out_keys"),
]


@pytest.mark.parametrize(
    ("package", "owner", "name", "parameters"),
    [pytest.param(*hook, id=f"{hook[1].__name__}-{hook[2]}") for hook in HOOKS],
)
def test_the_hook_is_there(package: str, owner: Any, name: str, parameters: str) -> None:
    check_hook(package, owner, name, parameters)


ATTRIBUTES: list[tuple[str, Any, tuple[str, ...]]] = [
    ("torchrl", SACLoss, ("_alpha", "_cached_detached_qvalue_params", "out_keys")),
    ("torchrl", Collector, ("shutdown", "reset", "update_policy_weights_")),
    ("torchrl", MultiSyncCollector, ("shutdown", "reset", "update_policy_weights_")),
    ("torchrl", TensorDictReplayBuffer, ("extend", "sample", "writer")),
    ("torchrl", LazyTensorStorage, ("get", "set")),
    ("torchrl", RewardSum, ("forward",)),
    ("tensordict", CudaGraphModule, ("__call__",)),
    ("tensordict", ProbabilisticTensorDictModule, ("get_dist",)),
]


@pytest.mark.parametrize(
    ("package", "owner", "names"), [pytest.param(*case, id=case[1].__name__) for case in ATTRIBUTES]
)
def test_the_attributes_are_there(package: str, owner: Any, names: tuple[str, ...]) -> None:
    for name in names:
        check_attribute(package, owner, name)


def test_losses_annotate_their_parameter_sets() -> None:
    """In torchrl 0.12 the class's own annotations name them, which ours copy."""
    assert "qvalue_network_params" in SACLoss.__annotations__
