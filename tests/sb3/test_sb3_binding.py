"""SACERA trains what there is: networks, optimizers and floors that change after compilation."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, small
from sb3_toys import schedule, small_sacera, states, trained
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from era_rl.sb3 import SACERA


def test_equals_the_eager_update_as_it_is_captured() -> None:
    # without CUDA nothing is captured, but optimizers and learning rates are as for a capture
    plain = trained(small_sacera(compile=False, learning_rate=schedule))
    captured = small_sacera(compile=False, learning_rate=schedule)
    captured._capture()
    trained(captured)
    for name, value in captured.policy.state_dict().items():
        torch.testing.assert_close(value, plain.policy.state_dict()[name], rtol=1e-5, atol=1e-7)
    rate = captured.actor.optimizer.param_groups[0]["lr"]
    assert isinstance(rate, Tensor)
    assert rate.item() == pytest.approx(plain.actor.optimizer.param_groups[0]["lr"])
    assert rate.item() < 1e-3


def test_a_captured_update_follows_what_is_loaded(tmp_path: Path) -> None:
    """Loading replaces the groups whose rate a graph reads: there must be a new graph."""
    model = small_sacera(compile=False, learning_rate=schedule)
    model._capture()
    trained(model).save(tmp_path / "model")
    model.set_parameters(str(tmp_path / "model"))
    model.set_parameters(model.get_parameters())
    bound: list[bool] = []
    model._compile = lambda: (bound.append(True), model._capture())  # type: ignore[method-assign]
    model._compiled, model._compiled_floor = True, model.policy.entropy_floor
    model.learn(20, reset_num_timesteps=False)
    assert bound == [True]
    group = model.actor.optimizer.param_groups[0]
    assert any(group is captured for captured, _ in model._captured_rates)


def test_what_was_captured_goes_on_on_the_cpu(tmp_path: Path) -> None:
    options = {"policy_kwargs": {"optimizer_kwargs": {"eps": 1e-5}}}  # not fused, so it insists
    model = trained(small_sacera(compile=False, **options))
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        optimizer.param_groups[0].update(capturable=True, lr=torch.tensor(1e-3))
    model.save(tmp_path / "model")
    trained(SACERA.load(tmp_path / "model", env=model.env, device="cpu"))


def test_networks_that_are_replaced_are_trained(compiled_as_is: list[Any]) -> None:
    """SB3's way to reset them in mid-run."""
    model = trained(small_sacera(compile=True))
    assert len(compiled_as_is) == 3
    model.policy._build(model.lr_schedule)
    model._create_aliases()
    assert len(compiled_as_is) == 6
    trained(model, reset_num_timesteps=False)


class PartlyUsedExtractor(BaseFeaturesExtractor):
    """Two layers, of which one is not used."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 4)
        self.used, self.unused = nn.Linear(2, 4), nn.Linear(2, 4)

    def forward(self, observations: Tensor) -> Tensor:
        return self.used(observations)


@pytest.mark.parametrize("compile", [False, True])
def test_frozen_and_unused_parameters_stay(compile: bool, compiled_as_is: list[Any]) -> None:
    """As in the host, where they have no gradient: frozen from the start, or in between."""
    model = small_sacera(
        compile=compile, policy_kwargs={"features_extractor_class": PartlyUsedExtractor}
    )
    frozen, later = model.actor.features_extractor.used, model.critic.qf0[0]
    frozen.requires_grad_(False)
    before = copy.deepcopy(model.policy.state_dict())
    trained(model)
    after = copy.deepcopy(model.policy.state_dict())
    for name in before:
        stays = ".unused." in name or name.startswith("actor.features_extractor.")
        assert torch.equal(before[name], after[name]) == stays, name
    later.requires_grad_(False)
    trained(model, reset_num_timesteps=False)
    assert torch.equal(later.weight, after["critic.qf0.0.weight"])
    assert not torch.equal(model.critic.qf1[0].weight, after["critic.qf1.0.weight"])
    later.requires_grad_(True)
    trained(model, reset_num_timesteps=False)
    assert not torch.equal(later.weight, after["critic.qf0.0.weight"])


@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_a_floor_that_changes_is_refused_once_compiled(
    name: str, compiled_as_is: list[Any]
) -> None:
    model: Any = small(name, BOX, compile=True).learn(64)
    model.policy.head.target_entropy = -0.5
    with pytest.raises(ValueError, match=r"target_entropy=-0.5 of the head must stay -\d.*compile"):
        model.learn(64)
    eager: Any = small(name, BOX, compile=False).learn(64)
    eager.policy.head.target_entropy = -0.5
    assert eager.learn(64).policy.entropy(states(eager, 9)).min() >= -0.5


@pytest.mark.gpu
@pytest.mark.parametrize(
    "options",
    [
        {"layer_norm": True, "slack": 0.3},
        {"floor": "gaussian", "delta": "auto"},
        {"gradient_steps": 3, "target_update_interval": 2},
        {"n_steps": 3},
        {"learning_rate": schedule},
    ],
    ids=["slack", "delta", "intervals", "n-steps", "schedule"],
)
def test_captured_updates_equal_eager_ones(options: dict[str, Any], tmp_path: Any) -> None:
    models = [trained(small_sacera(compile=c, device="cuda", **options)) for c in (False, True)]
    assert models[1]._update_parameters.fast is not None
    plain, captured = (model.policy.state_dict() for model in models)
    for name, value in captured.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-5)
    models[1].compile = False  # what is loaded would be compiled again
    models[1].save(tmp_path / "model")
    on_cpu = trained(SACERA.load(tmp_path / "model", env=models[1].env, device="cpu"))
    assert all(value.isfinite().all() for value in on_cpu.policy.state_dict().values())
