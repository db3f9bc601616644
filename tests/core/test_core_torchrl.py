"""Heads and distribution inside TorchRL's own actor."""

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn

from era_rl.core import CategoricalHead, TruncatedGaussianHead, TruncatedNormal

pytest.importorskip("torchrl")

from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import ProbabilisticActor


def _actor() -> ProbabilisticActor:
    head = TruncatedGaussianHead(2)
    body = TensorDictModule(nn.Linear(3, head.raw_dim), ["observation"], ["raw"])
    return ProbabilisticActor(
        TensorDictSequential(body, TensorDictModule(head, ["raw"], ["loc", "scale"])),
        in_keys=["loc", "scale"],
        distribution_class=TruncatedNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0},
        return_log_prob=True,
    )


def test_actor_samples_with_log_probabilities_of_the_head() -> None:
    data = _actor()(TensorDict({"observation": torch.randn(50, 3)}, [50]))
    policy = TruncatedNormal(data["loc"], data["scale"])
    assert data["action"].shape == (50, 2)
    torch.testing.assert_close(data["action_log_prob"], policy.log_prob(data["action"]))
    assert (policy.entropy() >= -1.0).all()


def test_deterministic_exploration_takes_the_mode() -> None:
    observation = TensorDict({"observation": torch.randn(50, 3)}, [50])
    actor = _actor()
    for kind in (ExplorationType.DETERMINISTIC, ExplorationType.MODE):
        with set_exploration_type(kind):
            data = actor(observation.clone())
        assert torch.equal(data["action"], data["loc"])
    with set_exploration_type(ExplorationType.MEAN):
        data = actor(observation.clone())
    torch.testing.assert_close(data["action"], TruncatedNormal(data["loc"], data["scale"]).mean)


def test_random_exploration_carries_gradients_to_the_network() -> None:
    actor = _actor()
    with set_exploration_type(ExplorationType.RANDOM):
        data = actor(TensorDict({"observation": torch.randn(50, 3)}, [50]))
    data["action"].square().sum().backward()
    grads = [p.grad for p in actor.parameters()]
    assert all(g.isfinite().all() and g.abs().sum() > 0 for g in grads)


def test_categorical_head_bounds_a_categorical_actor() -> None:
    head = CategoricalHead(4, target_entropy=0.7)
    network = nn.Linear(3, 4)
    nn.init.constant_(network.weight, 50.0)
    actor = ProbabilisticActor(
        TensorDictSequential(
            TensorDictModule(network, ["observation"], ["logits"]), head.as_tensordict_module()
        ),
        in_keys=["logits"],
        distribution_class=torch.distributions.Categorical,
    )
    data = TensorDict({"observation": torch.randn(50, 3)}, [50])
    assert (actor.get_dist(data).entropy() >= 0.7 - 1e-5).all()
