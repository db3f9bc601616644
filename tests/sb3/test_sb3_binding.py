"""SACERA trains what there is: networks, optimizers and floors that change after compilation."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, small
from sb3_toys import DoubleExtractor, schedule, small_sacera, states, trained
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from era_rl.sb3 import SACERA

# Dynamo looks at .grad of every input, with the warning hidden but not from an "error" filter
DYNAMO = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def test_equals_the_eager_update_as_it_is_captured() -> None:
    # without CUDA nothing is captured, but optimizers and learning rates are as for a capture
    plain = trained(small_sacera(compile=False, learning_rate=schedule))
    captured = small_sacera(compile=False, learning_rate=schedule)
    captured._bound_update().capture(captured.device)
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
    captured = model._bound_update()
    captured.capture(model.device)
    trained(model).save(tmp_path / "model")
    assert model._bound_update() is captured
    model.set_parameters(str(tmp_path / "model"))
    model.set_parameters(model.get_parameters())
    model.learn(20, reset_num_timesteps=False)
    assert model._bound_update() is not captured
    assert not model.actor.optimizer.param_groups[0].get("capturable")


def test_what_was_captured_goes_on_on_the_cpu(tmp_path: Path) -> None:
    options = {"policy_kwargs": {"optimizer_kwargs": {"fused": False}}}  # so it insists
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
    trained(model, reset_num_timesteps=False)
    assert len(compiled_as_is) == 6


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
        stays = any(part in name for part in (".unused.", ".head.", "actor.features_extractor."))
        assert torch.equal(before[name], after[name]) == stays, name
    later.requires_grad_(False)
    trained(model, reset_num_timesteps=False)
    assert torch.equal(later.weight, after["critic.qf0.0.weight"])
    assert not torch.equal(model.critic.qf1[0].weight, after["critic.qf1.0.weight"])
    later.requires_grad_(True)
    trained(model, reset_num_timesteps=False)
    assert not torch.equal(later.weight, after["critic.qf0.0.weight"])


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("frozen", ["actor", "critic"])
def test_a_network_may_be_frozen_whole(
    frozen: str, compile: bool, compiled_as_is: list[Any]
) -> None:
    """The others train on, as in SAC."""
    model = small_sacera(compile=compile)
    getattr(model, frozen).requires_grad_(False)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(40)
    for name, value in model.policy.state_dict().items():
        stays = name.startswith((frozen, "actor.head."))  # with the critics their targets
        assert torch.equal(value, before[name]) == stays, name


@DYNAMO
@pytest.mark.parametrize(
    "name", ["SACERA", "PPOERA", pytest.param("A2CERA", marks=pytest.mark.slow)]
)
def test_what_changes_once_compiled_is_followed(name: str, traced: None) -> None:
    """A frozen layer that is released trains; acting is the eager policy's at another H0 and bounds.

    Under the real guards, which do not look at parameters.
    """
    model: Any = small(name, BOX, compile=True, floor="gaussian")
    policy = model.actor if name == "SACERA" else model.policy
    layer = (policy.latent_pi if name == "SACERA" else policy.mlp_extractor.policy_net)[0]
    layer.requires_grad_(False)
    start = layer.weight.clone()
    model.learn(32)
    assert torch.equal(layer.weight, start)
    layer.requires_grad_(True)
    before = model.policy.entropy(states(model, 9))
    for attribute, value in (("target_entropy", -2.0), ("log_std_min", -3.0), ("log_std_max", 0.5)):
        setattr(model.policy.head, attribute, value)
    model.learn(32)
    assert not torch.equal(layer.weight, start)
    assert (model.policy.entropy(states(model, 9)) - before).abs().min() > 0.1
    policy.set_training_mode(False)
    obs, samples = states(model, 9), []
    with torch.no_grad():
        for compiled in (policy._compiled, None):
            assert policy._compiled is not None or compiled is None
            policy._compiled = compiled
            torch.manual_seed(0)
            samples.append(policy(obs))
    torch.testing.assert_close(*samples)


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
    assert models[1]._update._steps[True].fast is not None
    plain, captured = (model.policy.state_dict() for model in models)
    for name, value in captured.items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-5)
    models[1].compile = False  # what is loaded would be compiled again
    models[1].save(tmp_path / "model")
    on_cpu = trained(SACERA.load(tmp_path / "model", env=models[1].env, device="cpu"))
    assert all(value.isfinite().all() for value in on_cpu.policy.state_dict().values())


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *(("TQCERA", "MlpPolicy"), ("CrossQERA", "MlpPolicy")),
        *(("SACERA", "SimbaPolicy"), ("TQCERA", "SimbaPolicy")),
    ],
)
def test_captured_updates_of_the_siblings_equal_eager_ones(name: str, policy: str) -> None:
    """CrossQ's critics have a graph of their own, for the steps without the actor.

    SimBa's normaliser moves between the replays, in the memory that they read.
    """
    models = [small(name, policy=policy, compile=c, device="cuda").learn(40) for c in (False, True)]
    assert all(step.fast is not None for step in models[1]._update._steps.values())
    plain, captured = (model.policy.state_dict() for model in models)
    for key, value in captured.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
def test_captured_updates_of_xqcera_equal_eager_ones() -> None:
    """Running statistics, unit rows, the falling rate and the reward's scale included.

    In float64: the gradient of the first bias is 0 but for rounding, of which Adam makes whole steps.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        kwargs = {"policy_kwargs": {"features_extractor_class": DoubleExtractor}, "device": "cuda"}
        models = [small("XQCERA", compile=c, **kwargs).learn(60) for c in (False, True)]
    finally:
        torch.set_default_dtype(default)
    assert all(step.fast is not None for step in models[1]._update._steps.values())
    plain, captured = (model.policy.state_dict() for model in models)
    assert any("running_mean" in key for key in captured)
    for key, value in captured.items():
        torch.testing.assert_close(value, plain[key], rtol=1e-3, atol=1e-5)
