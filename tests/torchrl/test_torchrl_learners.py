"""The learners' updates of stacked agents, against the algorithms written out for each agent."""

import copy
import math

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl_helpers import (
    GAMMA,
    TARGET,
    advantages,
    after_adam,
    clipped_objective,
    sac_losses,
    transitions,
)

from era_rl.torchrl.config import PPOConfig, SACConfig
from era_rl.torchrl.envs import make_env
from era_rl.torchrl.learner import ACTOR, Learner
from era_rl.torchrl.ppo import CRITIC as VALUE
from era_rl.torchrl.ppo import PPOLearner
from era_rl.torchrl.sac import CRITIC, SACLearner
from era_rl.torchrl.sac import TARGET as TARGET_CRITIC

pytestmark = [
    pytest.mark.filterwarnings("ignore:No target network updater"),
    pytest.mark.usefixtures("float64"),
]

AGENTS = 2
# its actions are in [-1, 1]
ENV = "MountainCarContinuous-v0"
SIZES = {"observations": 2, "actions": 1}
COMMON = {
    "env": ENV,
    "seeds": AGENTS,
    "hidden": (16,),
    "activation": "tanh",
    "layer_norm": False,
    "target_entropy": TARGET,
    "gamma": GAMMA,
    "lr": 0.01,
}


def _actors(learner: Learner) -> list[nn.Module]:
    """Return a copy of each agent's network."""
    return _copies(learner.actor[0][0].module, learner.params[ACTOR])


def _copies(network: nn.Module, params: TensorDictBase) -> list[nn.Module]:
    """Return copies of a network with each of the stacked parameters, shape (n,)."""
    copies = [copy.deepcopy(network).requires_grad_() for _ in range(len(params))]
    for clone, values in zip(copies, params.data.clone(), strict=True):
        clone.load_state_dict({name: _value(values, name) for name in clone.state_dict()})
    return copies


def _assert_after_adam(
    params: TensorDictBase, networks: list[nn.Module], **settings: float
) -> None:
    """Assert that parameters, shape (n,), are those of the networks after Adam's first step."""
    for values, network in zip(params.data, networks, strict=True):
        for name, parameter in network.named_parameters():
            expected = after_adam(parameter.data, parameter.grad, **settings)
            torch.testing.assert_close(_value(values, name), expected)


def _value(params: TensorDictBase, name: str) -> Tensor:
    """Return the value in a learner of the parameter of a network that has this name."""
    (value,) = (v for k, v in params.flatten_keys(".").items() if k.endswith(f"module.{name}"))
    return value


def test_a_sac_update_is_adam_on_both_losses_and_moves_the_targets_by_tau() -> None:
    tau, decay = 0.1, 0.3
    config = SACConfig(**COMMON, tau=tau, critic_weight_decay=decay)
    learner = SACLearner(config, make_env(ENV))
    for value in learner.params[TARGET_CRITIC].values(True, True):
        value.add_(0.1 * torch.randn_like(value))
    before = learner.params[TARGET_CRITIC].clone()
    critic, batch = learner.loss.qvalue_network.module, transitions(AGENTS, 8, **SIZES)
    actors = _actors(learner)
    critics = [_copies(critic, params) for params in learner.params[CRITIC]]
    targets = [_copies(critic, params) for params in before]

    metrics = learner._plain_update(batch.clone())
    for index, actor in enumerate(actors):
        losses = sac_losses(actor, critics[index], targets[index], batch[index])
        torch.testing.assert_close(metrics["loss_actor"][index], losses[0])
        torch.testing.assert_close(metrics["loss_qvalue"][index], losses[1])
        sum(losses).backward()
        _assert_after_adam(learner.params[CRITIC][index], critics[index], lr=0.01, decay=decay)
    _assert_after_adam(learner.params[ACTOR], actors, lr=0.01)
    moved = (1.0 - tau) * before + tau * learner.params[CRITIC].data
    for value, expected in zip(
        learner.params[TARGET_CRITIC].values(True, True), moved.values(True, True), strict=True
    ):
        torch.testing.assert_close(value, expected)


def _ppo(**settings: float) -> tuple[PPOLearner, TensorDictBase, Tensor, Tensor]:
    """Return a learner, normalising observations, 5 steps of data, and the values before and after."""
    config = PPOConfig(**COMMON, **settings)
    learner = PPOLearner(config, make_env(ENV))
    learner.policy.normalize.update(3.0 + 2.0 * torch.randn(AGENTS, 100, 2))
    data = transitions(AGENTS, 2, 5, **SIZES)
    data["action_log_prob"] = torch.randn(AGENTS, 2, 5)
    for time in (data, data["next"]):
        time["normalised"] = learner.policy.normalize(time["observation"].flatten(1, 2)).view(
            AGENTS, 2, 5, 2
        )
    critics = _copies(learner.loss.critic_network.module, learner.params[VALUE])
    value, next_value = (
        torch.stack([v(o) for v, o in zip(critics, time["normalised"], strict=True)]).detach()
        for time in (data, data["next"])
    )
    return learner, data, value, next_value


def test_ppos_advantages_are_a_plain_loop_over_each_environments_steps() -> None:
    learner, data, value, next_value = _ppo(lmbda=0.7)
    ended = data["next"]
    assert (ended["done"] & ~ended["terminated"]).any()
    batch = learner._with_advantages(data)
    assert torch.equal(batch["observation"], data["normalised"])
    torch.testing.assert_close(batch["value_target"], batch["advantage"] + value)
    for agent in range(AGENTS):
        for env in range(2):
            place = agent, env
            expected = advantages(
                data[place], value[place], next_value[place], gamma=GAMMA, lmbda=0.7
            )
            torch.testing.assert_close(batch["advantage"][place], expected)


@pytest.mark.parametrize("max_norm", [0.02, 0.0], ids=["clipped", "not clipped"])
def test_a_ppo_update_is_adam_on_the_clipped_objective_with_gradients_of_bounded_norm(
    max_norm: float,
) -> None:
    clip = 0.15
    learner, data, *_ = _ppo(clip=clip, max_grad_norm=max_norm)
    batch = learner._with_advantages(data).flatten(1, 2)
    actors = _actors(learner)
    critics = _copies(learner.loss.critic_network.module, learner.params[VALUE])
    metrics = learner._plain_update(batch.clone())
    for index, (actor, critic) in enumerate(zip(actors, critics, strict=True)):
        own = batch[index]
        normalised = (own["advantage"] - own["advantage"].mean()) / own["advantage"].std()
        objective = clipped_objective(actor, own, normalised, clip)
        error = (critic(own["observation"]) - own["value_target"]).square().mean()
        torch.testing.assert_close(metrics["loss_objective"][index], objective)
        torch.testing.assert_close(metrics["loss_critic"][index], error)
        (objective + error).backward()
        parameters = [*actor.parameters(), *critic.parameters()]
        norm = nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)
        assert norm > 2.0 * max_norm
    _assert_after_adam(learner.params[ACTOR], actors, lr=0.01, eps=1e-5)
    _assert_after_adam(learner.params[VALUE], critics, lr=0.01, eps=1e-5)
