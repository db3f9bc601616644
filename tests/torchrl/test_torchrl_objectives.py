"""The losses: hand-written references in float64, compilation, delta, ensembles, and PPO."""

from importlib.metadata import version

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torchrl.data import Bounded
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MLP, ValueOperator
from torchrl.objectives import ClipPPOLoss, SoftUpdate
from torchrl.objectives.value import GAE
from torchrl_helpers import GAMMA, TARGET, clipped_objective, sac_losses, transitions

from era_rl.core import PolicyOptions
from era_rl.torchrl import DeltaLoss, ERAActor, SACERALoss, raw_dim

SPEC = Bounded(-1.0, 1.0, (2,))

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def _actor(**kwargs: object) -> ERAActor:
    options = kwargs.pop("options", PolicyOptions(target_entropy=TARGET))
    network = MLP(in_features=3, out_features=raw_dim(SPEC, options), num_cells=[16])
    return ERAActor(network, SPEC, options, **kwargs)


def _critic() -> ValueOperator:
    network = MLP(in_features=5, out_features=1, num_cells=[16])
    return ValueOperator(network, ["observation", "action"])


def _batch(n: int = 8) -> TensorDict:
    return transitions(n, observations=3, actions=2)


def _copy(network: nn.Module) -> nn.Module:
    clone = MLP(in_features=5, out_features=1, num_cells=[16])
    clone.load_state_dict(network.state_dict())
    return clone


@pytest.mark.usefixtures("float64")
def test_sac_gradients_equal_a_hand_written_reference() -> None:
    actor = _actor(noise_key="noise")
    critics = [_critic(), _critic()]
    loss = SACERALoss(actor, critics)
    loss.make_value_estimator(gamma=GAMMA)
    for target in loss.target_qvalue_network_params.values(True, True):
        target.data.add_(0.1 * torch.randn_like(target))
    batch = _batch()
    out = loss(batch.clone())

    networks = [_copy(critic.module) for critic in critics]
    targets = [_copy(critic.module) for critic in critics]
    for index, network in enumerate(targets):
        stacked = loss.target_qvalue_network_params["module"].flatten_keys(".")
        network.load_state_dict({key: value[index] for key, value in stacked.items()})
    policy = actor[0][0].module
    reference_actor, reference_critic = sac_losses(policy, networks, targets, batch)
    torch.testing.assert_close(out["loss_actor"], reference_actor)
    torch.testing.assert_close(out["loss_qvalue"], reference_critic)

    parameters = list(policy.parameters())
    own = torch.autograd.grad(out["loss_actor"], parameters, retain_graph=True)
    torch.testing.assert_close(own, torch.autograd.grad(reference_actor, parameters))
    out["loss_qvalue"].backward()
    reference_critic.backward()
    gradients = loss.qvalue_network_params["module"].flatten_keys(".")
    for key, value in gradients.items():
        reference = torch.stack([network.get_parameter(key).grad for network in networks])
        torch.testing.assert_close(value.grad, reference)


def test_sac_has_no_temperature() -> None:
    loss = SACERALoss(_actor(), _critic())
    out = loss(_batch())
    assert set(out.keys()) == set(loss.out_keys) == {"loss_actor", "loss_qvalue", "log_prob"}
    assert not any("alpha" in name for name, _ in loss.named_parameters())
    observation = {
        key: value for key, value in _batch().flatten_keys("_").items() if "noise" not in key
    }
    assert len(loss(**observation)) == 3  # the dispatched form


def test_sac_is_finite_at_the_extremes_of_the_head() -> None:
    actor = _actor(noise_key="noise", options=PolicyOptions(target_entropy=-12.0))
    loss = SACERALoss(actor, _critic())
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.mul_(100.0)
    batch = _batch(64)
    batch["noise"][:32], batch["noise"][32:] = 0.0, 1.0 - 2.0**-24
    out = loss(batch)
    (out["loss_actor"] + out["loss_qvalue"]).backward()
    assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)


def test_the_log_probability_is_of_the_sampled_actions_in_their_own_units() -> None:
    """log_prob = E[ln pi(a|s)], of the actions that the noise gives."""
    actor = _actor(noise_key="noise")
    batch = _batch()
    with set_exploration_type(ExplorationType.RANDOM):
        policy = actor.get_dist(batch.clone())
        expected = policy.log_prob(actor(batch.clone())["action"]).mean()
    torch.testing.assert_close(SACERALoss(actor, _critic())(batch)["log_prob"], expected)


def test_a_temperature_would_change_nothing() -> None:
    """L_Q and L_pi of an ensemble are the same whatever the host's alpha, which nothing reads."""
    loss = SACERALoss(_actor(noise_key="noise"), _critic(), num_qvalue_nets=5)
    assert loss.qvalue_network_params["module", "0", "weight"].shape[0] == 5
    batch = _batch()
    out = loss(batch.clone())
    with torch.no_grad():
        loss.log_alpha.fill_(3.0)
    again = loss(batch.clone())
    torch.testing.assert_close(again["loss_qvalue"], out["loss_qvalue"])
    torch.testing.assert_close(again["loss_actor"], out["loss_actor"])


BACKENDS = pytest.mark.parametrize(
    "backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)]
)


@pytest.mark.slow
@BACKENDS
@pytest.mark.skipif(
    version("torchrl") < "0.13",
    reason="torchrl 0.12's SACLoss itself does not compile to one graph",
)
@pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules")
def test_the_loss_compiles_to_one_graph(backend: str) -> None:
    loss = SACERALoss(_actor(noise_key="noise"), _critic())
    loss.make_value_estimator(gamma=GAMMA)
    batch = _batch()

    def losses(data: TensorDict) -> tuple[Tensor, ...]:
        return tuple(loss(data).select("loss_actor", "loss_qvalue").values())

    compiled = torch.compile(losses, fullgraph=True, backend=backend)(batch.clone())
    torch.testing.assert_close(compiled, losses(batch.clone()))


@BACKENDS
def test_the_heads_compile_to_one_graph(backend: str) -> None:
    heads = _actor()[0][1].module
    raw = torch.randn(5, 4)
    compiled = torch.compile(heads, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(raw), heads(raw))


@pytest.mark.parametrize("distribution", ["truncated", "tanh"])
def test_delta_loss_is_the_dual_of_the_floor(distribution: str) -> None:
    actor = _actor(
        options=PolicyOptions(target_entropy=TARGET, floor="gaussian", distribution=distribution)
    )
    delta_loss = DeltaLoss(actor, initial=0.25)
    assert [name for name, _ in delta_loss.named_parameters()] == ["delta.parameter"]
    batch = _batch()
    out = delta_loss(batch)
    gap = actor.entropy(batch).mean() - TARGET
    torch.testing.assert_close(out["loss_delta"], 0.25 * gap.detach())
    (gradient,) = torch.autograd.grad(out["loss_delta"], list(delta_loss.parameters()))
    torch.testing.assert_close(gradient, gap.detach())


def test_delta_reaches_the_actor_inside_a_loss_and_meets_the_floor_on_average() -> None:
    actor = _actor(options=PolicyOptions(target_entropy=TARGET, floor="gaussian"))
    SACERALoss(actor, _critic())  # moves the actor's parameters and buffers into the loss
    delta_loss = DeltaLoss(actor)
    optimizer = torch.optim.Adam(delta_loss.parameters(), lr=0.05)
    batch = _batch(64)
    before = actor.entropy(batch).mean()
    for _ in range(200):
        optimizer.zero_grad()
        delta_loss(batch)["loss_delta"].backward()
        optimizer.step()
        delta_loss.update_head()
    assert before < TARGET
    assert abs(actor.entropy(batch).mean() - TARGET) < 0.01


def test_delta_needs_no_noise() -> None:
    actor = _actor(options=PolicyOptions(floor="gaussian"), noise_key="noise")
    delta_loss = DeltaLoss(actor, initial=0.25)
    assert delta_loss.in_keys == ["observation"]
    batch = _batch()
    gap = actor.entropy(batch.clone()).mean() - actor.target_entropy
    torch.testing.assert_close(delta_loss(batch)["loss_delta"], 0.25 * gap.detach())


def test_delta_needs_eq_11() -> None:
    with pytest.raises(ValueError, match="floor='gaussian'"):
        DeltaLoss(_actor())
    with pytest.raises(ValueError, match="initial=-1"):
        DeltaLoss(_actor(options=PolicyOptions(floor="gaussian")), initial=-1.0)


def _rollout(actor: ERAActor, n: int = 64) -> TensorDict:
    """Return one-step episodes whose reward is the negative distance from a target action."""
    data = TensorDict({"observation": torch.randn(n, 1, 3)}, [n, 1])
    with torch.no_grad():
        data = actor(data)
    reward = -(data["action"] - 0.5).square().sum(-1, keepdim=True)
    ones = torch.ones(n, 1, 1, dtype=torch.bool)
    data["next"] = TensorDict(
        {"observation": torch.randn(n, 1, 3), "reward": reward, "done": ones, "terminated": ones},
        [n, 1],
    )
    return data


def test_stock_ppo_learns_and_keeps_the_floor() -> None:
    actor = _actor(return_log_prob=True, default_interaction_type="random")
    value = ValueOperator(MLP(in_features=3, out_features=1, num_cells=[16]), ["observation"])
    loss = ClipPPOLoss(actor, value, entropy_bonus=False)
    gae = GAE(gamma=GAMMA, lmbda=0.95, value_network=value)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    rewards = []
    for _ in range(40):
        data = _rollout(actor)
        rewards.append(data["next", "reward"].mean())
        gae(data)
        for _ in range(4):
            out = loss(data.reshape(-1))
            assert "loss_entropy" not in out.keys()  # noqa: SIM118 (a TensorDict)
            optimizer.zero_grad()
            (out["loss_objective"] + out["loss_critic"]).backward()
            optimizer.step()
    assert torch.stack(rewards[-5:]).mean() > torch.stack(rewards[:5]).mean() + 0.3
    assert (actor.entropy(_batch(500)) >= TARGET - 1e-5).all()


@pytest.mark.usefixtures("float64")
def test_ppo_gradient_equals_the_clipped_objective() -> None:
    actor = _actor(return_log_prob=True, default_interaction_type="random")
    value = ValueOperator(MLP(in_features=3, out_features=1, num_cells=[16]), ["observation"])
    loss = ClipPPOLoss(actor, value, clip_epsilon=0.2, entropy_bonus=False)
    data = _rollout(actor).reshape(-1)
    data["advantage"], data["value_target"] = torch.randn(64, 1), torch.randn(64, 1)
    data["action_log_prob"] += 0.3 * torch.randn(64)
    network = actor[0][0].module
    own = torch.autograd.grad(loss(data)["loss_objective"], list(network.parameters()))

    objective = clipped_objective(network, data, data["advantage"], 0.2)
    reference = torch.autograd.grad(objective, list(network.parameters()))
    torch.testing.assert_close(own, reference)


def test_soft_update_moves_the_targets() -> None:
    loss = SACERALoss(_actor(), _critic())
    target = SoftUpdate(loss, tau=0.5)
    for parameter in loss.qvalue_network_params.values(True, True):
        parameter.data.add_(1.0)
    before = loss.target_qvalue_network_params.clone()
    target.step()
    moved = loss.target_qvalue_network_params - before
    assert all((value - 0.5).abs().max() < 1e-6 for value in moved.values(True, True))
