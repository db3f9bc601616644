"""rsl_rl's own runner with the floor's distribution: densities, learning, the floor, files, exports."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from rsl_rl.env import VecEnv
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict
from torch import Tensor

from era_rl.core import TruncatedNormal
from era_rl.rsl_rl import ERADistribution

ACTIONS = 2


class Reaching(VecEnv):
    """Points that see where they should go; the reward is minus the squared distance to it."""

    def __init__(self, num_envs: int) -> None:
        self.num_envs, self.num_actions, self.max_episode_length = num_envs, ACTIONS, 8
        self.device, self.cfg = "cpu", {}
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.generator = torch.Generator().manual_seed(0)
        self.goals = self._draw()
        self.seen: list[Tensor] = []

    def _draw(self) -> Tensor:
        return 3.0 * torch.rand(self.num_envs, ACTIONS, generator=self.generator) - 1.5

    def get_observations(self) -> TensorDict:
        return TensorDict({"policy": self.goals}, batch_size=[self.num_envs])

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        assert (actions.abs() <= 2.0).all()
        self.seen.append(self.goals)
        rewards = -(actions - self.goals).square().sum(-1)
        self.episode_length_buf += 1
        over = self.episode_length_buf >= self.max_episode_length
        self.episode_length_buf[over] = 0
        self.goals = torch.where(over.unsqueeze(-1), self._draw(), self.goals)
        return self.get_observations(), rewards, over, {"time_outs": over}


def settings(**distribution: Any) -> dict[str, Any]:
    network = {"class_name": "MLPModel", "hidden_dims": [32], "activation": "elu"}
    own = {"class_name": "era_rl.rsl_rl:ERADistribution", "action_range": (-2.0, 2.0)}
    return {
        "num_steps_per_env": 8,
        "save_interval": 1000,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": {**network, "distribution_cfg": {**own, **distribution}},
        "critic": dict(network),
        "algorithm": {"class_name": "PPO", "entropy_coef": 0.0, "learning_rate": 3e-3},
    }


def runner(**distribution: Any) -> OnPolicyRunner:
    torch.manual_seed(0)
    return OnPolicyRunner(Reaching(64), settings(**distribution), log_dir=None)


@pytest.fixture(scope="module")
def trained() -> OnPolicyRunner:
    run = runner()
    run.learn(60)
    return run


def actor(run: OnPolicyRunner) -> Any:
    return run.get_inference_policy("cpu")


@torch.no_grad()
def test_the_runner_learns_and_every_state_keeps_its_floor(trained: OnPolicyRunner) -> None:
    """The mode comes to lie at the goal; sum_i h_i >= H0 = -0.3 D at every state of the training."""
    policy = actor(trained)
    goals = trained.env.goals  # type: ignore[attr-defined]
    distance = (policy(TensorDict({"policy": goals}, batch_size=[len(goals)])) - goals).abs()
    assert distance.mean() < 0.15
    seen = torch.cat(trained.env.seen)  # type: ignore[attr-defined]
    policy(TensorDict({"policy": seen}, batch_size=[len(seen)]), stochastic_output=True)
    assert (policy.output_entropy >= -0.3 * ACTIONS).all()


def test_a_saved_run_acts_alike_and_keeps_a_floor_that_was_changed(
    trained: OnPolicyRunner, tmp_path: Path
) -> None:
    """What the runner saves holds the floor in force, and loads into a new runner."""
    actor(trained).distribution.head.target_entropy = -1.25
    trained.save(str(tmp_path / "model.pt"))
    actor(trained).distribution.head.target_entropy = -0.3 * ACTIONS
    other = runner()
    other.load(str(tmp_path / "model.pt"))
    assert actor(other).distribution.head.target_entropy == -1.25
    obs = TensorDict({"policy": torch.rand(5, ACTIONS)}, batch_size=[5])
    assert torch.equal(actor(other)(obs), actor(trained)(obs))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")  # rsl_rl's exporter
def test_exports_give_the_mode(trained: OnPolicyRunner, tmp_path: Path) -> None:
    """TorchScript and ONNX files of rsl_rl's own exporters return middle + half_range tanh(raw)."""
    trained.export_policy_to_jit(str(tmp_path))
    trained.export_policy_to_onnx(str(tmp_path))
    obs = torch.rand(1, ACTIONS)
    expected = actor(trained)(TensorDict({"policy": obs}, batch_size=[1]))
    assert torch.equal(torch.jit.load(str(tmp_path / "policy.pt"))(obs), expected)
    session = onnxruntime.InferenceSession(str(tmp_path / "policy.onnx"))
    (actions,) = session.run(None, {"obs": obs.numpy()})
    torch.testing.assert_close(torch.as_tensor(actions), expected.detach())


def test_densities_are_those_of_the_truncated_normal_in_the_units_of_the_actions() -> None:
    """ln p, entropy and KL against core's TruncatedNormal on [low, high]."""
    distribution = ERADistribution(3, (-1.0, 5.0), target_entropy=-2.0, slack=0.2)
    raw = torch.randn(40, distribution.input_dim)
    distribution.update(raw)
    loc, log_std = distribution.params
    reference = TruncatedNormal(3.0 * loc + 2.0, 3.0 * log_std.exp(), -1.0, 5.0)
    actions = distribution.sample()
    assert ((actions >= -1.0) & (actions <= 5.0)).all()
    torch.testing.assert_close(
        distribution.log_prob(actions), reference.log_prob(actions), rtol=1e-4, atol=1e-4
    )
    in_units = reference.entropy() - 3.0 * torch.tensor(3.0).log()
    torch.testing.assert_close(distribution.entropy, in_units, rtol=1e-4, atol=1e-4)
    assert (distribution.entropy >= -2.0 - 1e-5).all()
    old = distribution.params
    distribution.update(raw + 0.1)
    other = TruncatedNormal(*(distribution.params[0], distribution.params[1].exp()))
    kl = torch.distributions.kl_divergence(TruncatedNormal(old[0], old[1].exp()), other)
    torch.testing.assert_close(
        distribution.kl_divergence(old, distribution.params), kl, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"action_range": (1.0, 1.0)}, r"action_range=\(1.0, 1.0\).*0 < high - low"),
        ({"action_range": 1.0}, r"action_range=1\.0 must be two numbers, low and high"),
        ({"action_range": (-1.0, 0.0, 1.0)}, "must be two numbers, low and high"),
        ({"action_range": ([-1.0, -2.0], [1.0, 2.0])}, r"\[1\.0, 2\.0\]\) must be two numbers"),
        ({"action_range": torch.ones(2, 2)}, r"(?s)action_range=tensor.* must be two numbers"),
        ({"target_entropy": 5.0}, r"target_entropy=5.0 must be below 1.38"),
        ({"distribution": "tanh"}, r"distribution='tanh'.* must be 'truncated'"),
        ({"deterministic_action": "mean"}, r"deterministic_action='mean' must be 'mode'"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    """ValueError naming argument, value and range, at construction."""
    with pytest.raises(ValueError, match=message):
        ERADistribution(2, **arguments)
