"""The trainer's networks: SimBa's and XQC's, stacked, against loops over plain modules."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn
from torchrl.modules import ValueOperator
from torchrl.objectives import SoftUpdate

from era_rl.core import truncated_normal_era, truncated_normal_sample
from era_rl.networks import BatchNormMLP, CategoricalValue, RewardScale, SimbaEncoder
from era_rl.networks.batch_norm import UnitRowAdam
from era_rl.torchrl import ERAActor, XQCERALoss
from era_rl.torchrl.config import PRESETS, PPOConfig, SACConfig
from era_rl.torchrl.envs import make_env
from era_rl.torchrl.learner import ACTOR
from era_rl.torchrl.networks import Joined
from era_rl.torchrl.sac import CRITIC, TARGET, SACLearner
from era_rl.torchrl.trainer import Trainer

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

# its actions are in [-1, 1]
ENV = "MountainCarContinuous-v0"
COMMON = {"env": ENV, "learning_starts": 0, "target_entropy": -1.5, "gamma": 0.9, "lr": 0.01}
COMMON |= {"batch_size": 8, "buffer_size": 100, "tau": 0.1}
XQC = SACConfig(**COMMON, network="batchnorm", hidden=(4, 4), actor_hidden=(6,))
SIMBA = SACConfig(**COMMON, network="simba", hidden=(4, 4), actor_hidden=(6,))
BOTH = pytest.mark.parametrize("config", [SIMBA, XQC], ids=["simba", "batchnorm"])


def learner_of(config: SACConfig, **settings: Any) -> SACLearner:
    return SACLearner(replace(config, **settings), make_env(ENV))


def collected(*shape: int) -> TensorDict:
    """Return what a collector gives of far from standard observations, shape (agents, envs, time)."""
    ended = torch.rand(*shape, 1)
    after = {"observation": 3.0 + torch.randn(*shape, 2), "reward": 5.0 * torch.randn(*shape, 1)}
    after |= {"done": ended < 0.4, "terminated": ended < 0.2}
    now = {"observation": 3.0 + torch.randn(*shape, 2), "action": torch.rand(*shape, 1) * 2 - 1}
    return TensorDict({**now, "next": after}, shape)


def statistics(learner: SACLearner) -> dict[str, Tensor]:
    """Return all running statistics, of networks and normaliser."""
    values = learner.params.data.flatten_keys(".").items()
    of_networks = {name: value for name, value in values if "running_" in name}
    return {**of_networks, **learner.policy.own_state()}


@BOTH
def test_networks_are_the_blocks(config: SACConfig) -> None:
    """An encoder or a batch-normalised body, and an output layer: the actor's of actor_hidden."""
    learner = learner_of(config)
    actor, critic = learner.actor[0][0].module, learner.loss.qvalue_network.module
    block = {"simba": SimbaEncoder, "batchnorm": BatchNormMLP}[config.network]
    assert isinstance(actor[0], block)
    assert isinstance(critic[0], block)
    assert [network[-1].in_features for network in (actor, critic)] == [6, 4]
    assert isinstance(critic[-1], CategoricalValue) == (config.network == "batchnorm")


def test_presets_have_the_recipes() -> None:
    """SimBa: AdamW, 1e-4, decay 1e-2, actor 1 x 128, critics 2 x 256; XQC: 4 x 256; 2 updates."""
    simba, xqc = (SACConfig(**PRESETS[name]) for name in ("simba", "xqc"))
    assert (simba.lr, simba.actor_weight_decay, simba.critic_weight_decay) == (1e-4, 1e-2, 1e-2)
    assert (simba.actor_hidden, simba.hidden, simba.normalizes) == ((128,), (256, 256), True)
    assert (xqc.hidden, xqc.lr, xqc.tau, xqc.normalizes) == ((256,) * 4, 3e-4, 0.005, False)
    assert simba.updates == xqc.updates == 2
    optimizers = learner_of(simba, env=ENV).optimizers
    assert [type(each) for each in optimizers] == [torch.optim.AdamW] * 2
    assert [each.param_groups[0]["weight_decay"] for each in optimizers] == [1e-2, 1e-2]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (PPOConfig, {"network": "batchnorm"}, "network='batchnorm' must be one of mlp, simba"),
        (SACConfig, {"network": "simba", "hidden": (8, 16)}, "hidden=.8, 16. must have one width"),
        (SACConfig, {"network": "simba", "hidden": ()}, "hidden=.. must have one width"),
        (SACConfig, {"network": "simba", "activation": "elu"}, "activation='elu' must be left out"),
        (SACConfig, {"network": "batchnorm", "layer_norm": False}, "layer_norm=False must be left"),
        (SACConfig, {"network": "batchnorm", "hidden": ()}, "hidden=.. must have one width or"),
    ],
)
def test_settings_that_a_network_has_no_use_for_are_refused(
    kind: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


class _Agent:
    """XQC's update of one agent, by modules of its own."""

    def __init__(self, learner: SACLearner, index: int) -> None:
        params = learner.params.data[index].clone()
        self.actor = Joined(BatchNormMLP(2, [6]), nn.Linear(6, 2))
        actor = params[ACTOR].flatten_keys(".")
        own = {k: actor[f"module.0.module.0.module.{k}"] for k in self.actor.state_dict()}
        self.actor.load_state_dict(own)
        self.critics, self.targets = (
            [self._critic(p) for p in params[k]] for k in (CRITIC, TARGET)
        )
        self.actor_optimizer = UnitRowAdam(self.actor.parameters(), lr=0.01)
        parameters = [p for critic in self.critics for p in critic.parameters()]
        self.critic_optimizer = UnitRowAdam(parameters, lr=0.01)

    @staticmethod
    def _critic(params: TensorDictBase) -> Joined:
        critic = Joined(BatchNormMLP(3, [4, 4]), CategoricalValue(4))
        critic.load_state_dict(params["module"].flatten_keys(".").to_dict())
        return critic

    def _sample(self, obs: Tensor, noise: Tensor, training: bool) -> Tensor:
        mean, raw = self.actor.train(training)(obs).chunk(2, -1)
        loc = torch.tanh(mean)
        return truncated_normal_sample(
            loc, truncated_normal_era(loc, raw, target_entropy=-1.5), noise
        )

    def update(self, batch: TensorDictBase) -> tuple[Tensor, Tensor]:
        """Take a step on -sum_i t_i ln Z_i and on -min_j E[Z_j]; return the losses."""
        after, n = batch["next"], len(batch)
        with torch.no_grad():
            next_action = self._sample(after["observation"], after["noise"], training=False)
        now = torch.cat([batch["observation"], batch["action"]], -1)
        x = torch.cat([now, torch.cat([after["observation"], next_action], -1)])
        z, error = self.critics[0][1].z, torch.zeros(())
        with torch.no_grad():
            following = [t.train()[1].logits(t[0](x))[n:].softmax(-1) for t in self.targets]
        for critic in self.critics:
            log_q = critic.train()[1].logits(critic[0](x))[:n].log_softmax(-1)
            for i in range(n):
                lesser = min((p[i] for p in following), key=lambda p: float(p @ z))
                value = after["reward"][i] + 0.9 * (1.0 - after["terminated"][i].double()) * z
                near = 1.0 - (value.clamp(-5.0, 5.0)[:, None] - z).abs() * 10.0
                error = error - (lesser @ near.clamp_min(0.0)) @ log_q[i] / n
        action = self._sample(batch["observation"], batch["noise"], training=True)
        values = [critic.eval()(batch["observation"], action) for critic in self.critics]
        loss = -torch.minimum(*values).mean()
        parameters = [p for critic in self.critics for p in critic.parameters()]
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(error, parameters), strict=True
        ):
            parameter.grad = gradient
        self.actor_optimizer.zero_grad()
        own = list(self.actor.parameters())
        for parameter, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
            parameter.grad = gradient
        self.critic_optimizer.step()
        self.actor_optimizer.step()
        for target, critic in zip(self.targets, self.critics, strict=True):
            for old, new in zip(target.parameters(), critic.parameters(), strict=True):
                old.data.lerp_(new.data, 0.1)
        return loss, error


@pytest.mark.usefixtures("float64")
def test_an_xqc_update_of_stacked_agents_is_a_loop_over_plain_modules() -> None:
    """Losses, unit rows, running statistics and targets of three updates, each agent by itself."""
    learner = learner_of(XQC, seeds=2)
    agents = [_Agent(learner, index) for index in range(2)]
    for _ in range(3):
        batch = collected(2, 8)
        batch["noise"], batch["next", "noise"] = torch.rand(2, 2, 8, 1)
        metrics = learner._plain_update(batch.clone())
        for index, agent in enumerate(agents):
            loss, error = agent.update(batch[index])
            torch.testing.assert_close(metrics["loss_actor"][index], loss)
            torch.testing.assert_close(metrics["loss_qvalue"][index], error, rtol=1e-6, atol=0.0)
    for index, agent in enumerate(agents):
        found = _Agent(learner, index)
        torch.testing.assert_close(found.actor.state_dict(), agent.actor.state_dict())
        for ours, plain in zip(found.critics, agent.critics, strict=True):
            torch.testing.assert_close(ours.state_dict(), plain.state_dict())
            torch.testing.assert_close(ours[1].weight.norm(dim=1), torch.ones(101))
        for ours, plain in zip(found.targets, agent.targets, strict=True):
            torch.testing.assert_close(
                dict(ours.named_parameters()), dict(plain.named_parameters())
            )


@BOTH
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "compile", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.timeout(1_800)])]
)
@pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules")
def test_stacked_agents_equal_agents_alone(config: SACConfig, compile: bool) -> None:
    """Parameters and statistics after six rounds of learning, with normalisers, scales and delta."""
    config = replace(config, floor="gaussian", delta="auto", updates=2)
    together = learner_of(config, seed=3, seeds=2, compile=compile)
    alone = [learner_of(config, seed=seed) for seed in (3, 4)]
    for _ in range(6):
        data = collected(2, 1, 5)
        together.learn(data.clone())
        for index, learner in enumerate(alone):
            learner.learn(data[index : index + 1].clone())
    for index, learner in enumerate(alone):
        torch.testing.assert_close(
            together.params.data[index].flatten_keys(".").to_dict(),
            learner.params.data[0].flatten_keys(".").to_dict(),
        )
    assert all(not torch.equal(*value) for value in statistics(together).values() if value.ndim)


def test_rewards_are_divided_by_each_agent_s_scale() -> None:
    """r over the RewardScale of each agent's own discounted returns, from all steps in their order."""
    learner, data = learner_of(XQC, seeds=2, n_envs=2), collected(2, 2, 30)
    metrics = learner.learn(data)
    for agent in range(2):
        scale = RewardScale(0.9, 5.0, 2)
        for step in data["next"][agent].unbind(1):
            scale.update(step["reward"][:, 0], step["done"][:, 0])
        assert learner.reward_scale()[agent].item() == pytest.approx(scale().item(), rel=1e-6)
        assert metrics["reward_scale"][agent].item() == pytest.approx(scale().item(), rel=1e-6)
    batch = collected(2, 8)
    expected = batch["next", "reward"] / learner.reward_scale()[:, None]
    torch.testing.assert_close(learner._scaled(batch.clone())["next", "reward"], expected.float())


def test_new_episodes_begin_with_no_return() -> None:
    learner = learner_of(XQC)
    learner.learn(collected(1, 1, 3).apply(lambda x: x if x.dtype != torch.bool else ~x & x))
    assert learner.reward_scale.returns.any()
    learner.begin_episodes()
    assert not learner.reward_scale.returns.any()


def test_observations_are_standardised_by_what_was_acted_on() -> None:
    """(x - mean_a) / std_a of each agent's observations so far, in updates, entropies and acting."""
    learner, data = learner_of(SIMBA, seeds=2), collected(2, 1, 50)
    learner.learn(data)
    var, mean = torch.var_mean(data["observation"][:, 0], 1, correction=0)
    torch.testing.assert_close(learner.policy.normalize.mean.float(), mean)
    torch.testing.assert_close(learner.policy.normalize.var.float(), var, rtol=1e-5, atol=1e-6)
    assert learner.observation.abs().mean() < 1.5
    obs = data["observation"][:, 0]
    act = learner.policy(
        TensorDict({"observation": obs.flatten(0, 1), "noise": torch.rand(100, 1)}, [100])
    )
    normal = (obs - mean[:, None]) / var[:, None].sqrt()
    with learner.params[ACTOR][1].data.to_module(learner.actor):
        loc = torch.tanh(learner.actor[0][0].module(normal[1])[:, :1])
    torch.testing.assert_close(act["loc"][50:], loc, rtol=1e-4, atol=1e-5)


@BOTH
def test_acting_and_evaluating_leave_all_statistics_as_they_are(
    config: SACConfig, tmp_path: Path
) -> None:
    settings = {"env": "Toy-v0", "steps": 20, "eval_episodes": 2, "progress": False}
    with Trainer(replace(config, out=tmp_path, seeds=2, **settings)) as trainer:
        trainer.run()
        before = {name: value.clone() for name, value in statistics(trainer.learner).items()}
        assert len(before) > 1
        first, second = trainer.evaluate(), trainer.evaluate()
        trainer.learner.entropies()
        next(trainer.batches)
    assert torch.equal(first, second)
    assert all(torch.equal(before[k], v) for k, v in statistics(trainer.learner).items())


@BOTH
def test_floors_hold_in_the_states_of_the_last_update(config: SACConfig) -> None:
    """H >= H0 as actions are taken, by running statistics."""
    learner = learner_of(config, seeds=2, lr=0.1)
    for _ in range(5):
        learner.learn(collected(2, 1, 5))
    assert (learner.entropies()["entropy_min"] >= -1.5 - 1e-5).all()


def test_the_loss_is_a_part_for_torchrl_s_own_loops() -> None:
    """With SoftUpdate and an optimizer it lowers L_Q on a batch; in eval mode statistics stay."""
    env = make_env(ENV)
    actor = ERAActor(
        Joined(BatchNormMLP(2, [8]), nn.Linear(8, 2)), env.action_spec, noise_key="noise"
    )
    critic = Joined(BatchNormMLP(3, [8]), CategoricalValue(8))
    loss = XQCERALoss(actor, ValueOperator(critic, ["observation", "action"]), gamma=0.9)
    target, batch = SoftUpdate(loss, tau=0.1), collected(64)
    batch["noise"], batch["next", "noise"] = torch.rand(2, 64, 1)
    optimizer, history = torch.optim.Adam(loss.parameters(), lr=1e-2), []
    for _ in range(20):
        out = loss(batch.clone())
        history.append(out["loss_qvalue"].item())
        optimizer.zero_grad()
        (out["loss_actor"] + out["loss_qvalue"]).backward()
        optimizer.step()
        target.step()
    assert history[-1] < 0.9 * history[0]
    norm = actor[0][0].module[0][0]
    assert norm.num_batches_tracked == 20
    before = norm.running_mean.clone()
    loss.eval()(batch.clone())
    assert torch.equal(before, norm.running_mean)
    assert set(out.keys()) == {"loss_actor", "loss_qvalue", "log_prob"}
