"""PPOERA and A2CERA train as the loops of their hosts would, and log the same."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib.common.torch_layers import BatchRenorm
from sb3_family import BOX, DISCRETE, ON_POLICY, small
from sb3_toys import DoubleExtractor
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger

from era_rl.sb3.floored import reads_mode

HOSTS: dict[str, Any] = {"PPOERA": PPO, "A2CERA": A2C}
CASES: list[tuple[str, spaces.Space, dict[str, Any]]] = [
    ("PPOERA", BOX, {}),
    ("PPOERA", DISCRETE, {"ent_coef": 0.3}),
    ("PPOERA", BOX, {"clip_range_vf": 0.01, "vf_coef": 2.0, "max_grad_norm": 0.05}),
    ("PPOERA", BOX, {"normalize_advantage": False, "n_epochs": 3, "target_kl": 1e-4}),
    ("PPOERA", BOX, {"floor": "gaussian", "ent_coef": 0.1, "batch_size": 8}),
    ("A2CERA", BOX, {}),
    ("A2CERA", DISCRETE, {"ent_coef": 0.3, "normalize_advantage": True}),
]
OPTIMIZER: dict[str, Any] = {"optimizer_kwargs": {"foreach": False}}


def rollout(name: str, space: spaces.Space, options: dict[str, Any]) -> Any:
    """Return a model in float64 that has collected a rollout, with a learning rate that moves it."""
    kwargs: dict[str, Any] = {"features_extractor_class": DoubleExtractor}
    kwargs |= OPTIMIZER if name == "PPOERA" else {}
    model: Any = small(name, space, learning_rate=1e-2, policy_kwargs=kwargs, **options)
    model._setup_learn(64)
    buffer = model.rollout_buffer
    model.policy.double()
    model.collect_rollouts(model.env, model._init_callback(None), buffer, model.n_steps)
    buffer.to_torch = lambda array, copy=True: torch.as_tensor(array).double()
    model.set_logger(Logger(None, []))
    return model


@pytest.mark.parametrize(("name", "space", "options"), CASES, ids=str)
def test_a_training_is_that_of_the_hosts_loop(
    name: str, space: spaces.Space, options: dict[str, Any]
) -> None:
    """Parameters and logs, by the host's ``train`` on the same policy, rollout and permutations."""
    found = []
    for train in (ON_POLICY[name]._train_policy, HOSTS[name].train):
        model = rollout(name, space, options)
        np.random.seed(0)
        train(model)
        found.append((model.policy.state_dict(), dict(model.logger.name_to_value)))
        assert model._n_updates == found[0][1]["train/n_updates"]
    (own, own_logs), (host, host_logs) = found
    for key, value in host.items():
        torch.testing.assert_close(own[key], value, rtol=1e-6, atol=1e-9)
    assert own_logs.keys() == host_logs.keys()
    assert own_logs == pytest.approx(host_logs, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ON_POLICY)
def test_the_fastest_optimizer_is_taken_unless_another_is_asked_for(name: str) -> None:
    asked: Any = small(name, BOX, policy_kwargs=OPTIMIZER if name == "PPOERA" else {})
    (group,) = asked.policy.optimizer.param_groups
    if name == "A2CERA":
        group["foreach"] = False
    asked.learn(32)
    assert group["foreach"] is False
    assert not group.get("fused")
    (group,) = small(name, BOX).learn(32).policy.optimizer.param_groups
    assert group["fused" if name == "PPOERA" else "foreach"] is True


def test_settings_may_change_between_trainings(compiled_as_is: list[Any]) -> None:
    """What a compiled loss takes for constant binds it anew, what it reads as a tensor does not."""
    model: Any = small("PPOERA", BOX, compile=True).learn(32)
    update = model._update
    model.clip_range, model.vf_coef, model.max_grad_norm = (lambda _: 0.3), 0.1, 1.0
    assert model._bound_update() is update
    assert model._weights(update).clip_range.item() == pytest.approx(0.3)
    model.ent_coef = 0.1
    assert model._bound_update() is not update


class Frozen(torch.nn.BatchNorm1d):
    """Batch statistics that stay in eval mode."""

    def train(self, mode: bool = True) -> Any:
        return super().train(False)


@pytest.mark.parametrize("name", ["SACERA", "CrossQERA", "PPOERA"])
@pytest.mark.parametrize("layer", [torch.nn.Dropout, torch.nn.Tanh, Frozen])
def test_modes_are_set_where_passes_read_them(name: str, layer: Any) -> None:
    """Of the layers that do all are as the host's walk leaves them, and afterwards of all layers."""
    policy: Any = small(name, BOX).policy
    part = policy.actor.latent_pi if name != "PPOERA" else policy.mlp_extractor.policy_net
    part.append(layer(16) if layer is Frozen else layer())

    def modes(reading: bool) -> list[bool]:
        modules = (m for m in policy.modules() if not reading or reads_mode(type(m)))
        return [module.training for module in modules]

    expected = {}
    for mode in (True, False):
        policy.set_training_mode(mode)
        expected[mode] = modes(True), modes(False)
    with policy.watched():
        assert (policy._watched is None) == (layer is Frozen)
        for mode in (True, False, True):
            policy.set_training_mode(mode)
            assert modes(True) == expected[mode][0]
    assert modes(False) == expected[True][1]


def test_which_layers_read_their_mode() -> None:
    assert all(map(reads_mode, (torch.nn.Dropout, torch.nn.BatchNorm1d, BatchRenorm, torch.nn.GRU)))
    assert not any(map(reads_mode, (torch.nn.Linear, torch.nn.ReLU, torch.nn.LayerNorm)))
