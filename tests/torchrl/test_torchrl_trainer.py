"""The trainer: stacked agents equal single ones, resuming equals going on, and logs."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import OneHot
from torchrl.envs.utils import ExplorationType, set_exploration_type

from era_rl.torchrl import DeltaLoss
from era_rl.torchrl import trainer as trainer_module
from era_rl.torchrl.checkpoint import load_checkpoint
from era_rl.torchrl.config import PRESETS, Config, PPOConfig, SACConfig
from era_rl.torchrl.envs import ActionNoise
from era_rl.torchrl.learner import ACTOR, Learner
from era_rl.torchrl.networks import head_kwargs
from era_rl.torchrl.ppo import clip_agent_norms
from era_rl.torchrl.trainer import Trainer, agents_first, episode_returns

pytestmark = [
    pytest.mark.filterwarnings("ignore:No target network updater"),
    pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules"),
]

SAC = SACConfig(
    total_steps=40,
    num_envs=2,
    hidden=(16, 16),
    learning_starts=10,
    batch_size=16,
    buffer_size=30,  # the ring is overwritten
    eval_episodes=1,
    log_interval=20,
)
PPO = PPOConfig(
    total_steps=64, num_envs=2, steps_per_batch=16, minibatches=4, epochs=2, eval_episodes=1
)
LEARNED_DELTA = replace(SAC, floor="gaussian", delta="auto", lr=1e-2)
ALGORITHMS = pytest.mark.parametrize(
    "config", [SAC, PPO, LEARNED_DELTA], ids=["sac", "ppo", "learned-delta"]
)


def _run(config: Config, out: Path) -> tuple[TensorDictBase, Tensor]:
    """Return the trained parameters (agents, ...) and the last returns (agents, episodes)."""
    trainer = Trainer(replace(config, out=str(out)))
    returns = trainer.run()
    trainer.close()
    return trainer.learner.params.data.clone(), returns


def _difference(a: TensorDictBase, b: TensorDictBase) -> float:
    return max(
        (x - y).abs().amax().item()
        for x, y in zip(a.values(True, True), b.values(True, True), strict=True)
    )


@ALGORITHMS
def test_stacked_agents_equal_agents_trained_alone(config: Config, tmp_path: Path) -> None:
    params, returns = _run(replace(config, seed=3, seeds=2), tmp_path / "together")
    for index, seed in enumerate((3, 4)):
        alone, own_returns = _run(replace(config, seed=seed), tmp_path / str(seed))
        assert _difference(params[index], alone[0]) < 1e-6
        torch.testing.assert_close(returns[index], own_returns[0], atol=1e-3, rtol=1e-5)
    assert _difference(params[0], params[1]) > 1e-2


@ALGORITHMS
def test_a_resumed_run_equals_the_uninterrupted_one(config: Config, tmp_path: Path) -> None:
    half = config.total_steps // 2
    config = replace(config, seeds=2, checkpoint_interval=half)
    params, returns = _run(config, tmp_path / "whole")
    _run(replace(config, total_steps=half), tmp_path / "parts")
    resumed, resumed_returns = _run(replace(config, resume=True), tmp_path / "parts")
    assert _difference(params, resumed) == 0.0
    assert torch.equal(returns, resumed_returns)


@pytest.mark.usefixtures("no_evaluation")
def test_resuming_a_finished_run_begins_other_episodes(tmp_path: Path) -> None:
    starts = []
    for total_steps in (20, 40, 60):
        trainer = Trainer(replace(SAC, total_steps=total_steps, resume=True, out=str(tmp_path)))
        starts.append(next(trainer.batches)["observation"])
        trainer.run()
        trainer.close()
    assert not torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[1], starts[2])


@pytest.mark.usefixtures("no_evaluation")
def test_a_checkpoint_at_the_last_step_is_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr(
        trainer_module, "save_checkpoint", lambda *a: steps.append(a[2]["learner"]["steps"])
    )
    _run(replace(SAC, total_steps=60, checkpoint_interval=20), tmp_path / "due")
    _run(replace(SAC, total_steps=50, checkpoint_interval=20), tmp_path / "not-due")
    assert steps == [20, 40, 60, 20, 40, 50]


def test_evaluations_do_not_change_what_is_learned(tmp_path: Path) -> None:
    config = replace(PPO, env="CartPole-v1")
    params, _ = _run(config, tmp_path / "few")
    often, _ = _run(replace(config, eval_interval=32, eval_episodes=2), tmp_path / "many")
    assert _difference(params, often) == 0.0


@pytest.mark.slow
def test_environments_in_processes_do_not_change_what_is_learned(tmp_path: Path) -> None:
    params, returns = _run(SAC, tmp_path / "here")
    apart, apart_returns = _run(replace(SAC, env_processes=True), tmp_path / "apart")
    assert _difference(params, apart) == 0.0
    assert torch.equal(returns, apart_returns)


@pytest.mark.usefixtures("no_evaluation")
def test_a_checkpoint_has_the_transitions_that_there_are(tmp_path: Path) -> None:
    sizes = []
    for capacity in (300, 60_000):
        out = tmp_path / str(capacity)
        _run(replace(SAC, buffer_size=capacity), out)
        sizes.append((out / "checkpoint.pt").stat().st_size)
    # the unused 59,700 transitions would take 2 MB; torch.save aligns to 64 bytes
    assert abs(sizes[0] - sizes[1]) < 1_000


@pytest.mark.usefixtures("no_evaluation")
def test_the_device_auto_is_one_of_this_machine(tmp_path: Path) -> None:
    _run(replace(SAC, total_steps=20, device="auto"), tmp_path)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    state = load_checkpoint(tmp_path / "checkpoint.pt", replace(SAC, device=device))
    assert state["config"]["device"] == device


@pytest.mark.gpu
@pytest.mark.usefixtures("no_evaluation")
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("config", [SAC, PPO], ids=["sac", "ppo"])
def test_trains_on_cuda_with_the_learners_own_policy(
    config: Config, compile: bool, tmp_path: Path
) -> None:
    trainer = Trainer(replace(config, out=str(tmp_path), device="cuda", compile=compile))
    before = trainer.learner.params.data.clone()
    trainer.run()
    trainer.close()
    assert trainer.collector.policy is trainer.learner.policy
    assert not trainer.learner.policy.uniform
    after = trainer.learner.params.data
    assert {value.device.type for value in after.values(True, True)} == {"cuda"}
    assert all(value.isfinite().all() for value in after.values(True, True))
    assert _difference(before, after) > 0.0


@pytest.mark.parametrize("config", [SAC, PPO], ids=["sac", "ppo"])
def test_the_logged_entropy_is_that_of_normalised_actions(config: Config, tmp_path: Path) -> None:
    trainer = Trainer(replace(config, out=str(tmp_path)))
    trainer.close()
    learner, n = trainer.learner, 1_000
    batch = TensorDict({"observation": torch.randn(3).expand(1, n, 3)}, [1, n])
    batch["noise"] = ((torch.arange(n) + 0.5) / n).view(1, n, 1)
    with (
        learner.params[ACTOR][0].data.to_module(learner.actor),
        set_exploration_type(ExplorationType.RANDOM),
    ):
        batch = learner.actor(batch)
        entropy = learner.actor.entropy(batch).mean()
    zeros = torch.zeros(1, n, 1)
    batch.update({"advantage": zeros, "value_target": zeros, "reward": zeros})
    batch["next"] = batch.clone().update({"done": zeros.bool(), "terminated": zeros.bool()})
    _, metrics = learner._plain_losses(batch)
    torch.testing.assert_close(metrics["entropy"], entropy[None], atol=2e-3, rtol=0.0)


@pytest.mark.parametrize("compiled", [False, True])
def test_optimizers_count_on_the_device_for_cuda_graphs_alone(compiled: bool) -> None:
    learner = SimpleNamespace(config=replace(SAC, compile=compiled), device=torch.device("cuda"))
    assert Learner._adam_kwargs(learner)["capturable"] == compiled


def test_optimizers_of_a_checkpoint_take_the_settings_of_now(tmp_path: Path) -> None:
    trainer = Trainer(replace(LEARNED_DELTA, out=str(tmp_path)))
    trainer.close()
    state = trainer.learner.state_dict()
    for optimizer in state["optimizers"]:
        optimizer["param_groups"][0]["capturable"] = True  # as with compile=True on CUDA
    trainer.learner.load_state_dict(state)
    groups = [optimizer.param_groups[0] for optimizer in trainer.learner.optimizers]
    assert not any(group.get("capturable") for group in groups)


def test_evaluation_reads_no_noise_and_leaves_the_normalization_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(replace(PPO, seeds=2, out=str(tmp_path)))
    returns = trainer.run()
    before = {k: v.clone() for k, v in trainer.learner.policy.own_state().items()}
    noise = torch.full((1,), 0.9)
    monkeypatch.setattr(ActionNoise, "_call", lambda _, data: data.set("noise", noise))
    assert torch.equal(trainer.evaluate(), returns)
    trainer.close()
    after = trainer.learner.policy.own_state()
    assert before["normalize.count"] == PPO.total_steps
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_ratios_begin_at_one_with_normalized_observations(tmp_path: Path) -> None:
    trainer = Trainer(replace(PPO, seeds=2, total_steps=32, out=str(tmp_path)))
    trainer.run()
    data = agents_first(next(trainer.batches), 2)
    trainer.close()
    learner = trainer.learner
    batch = learner._with_advantages(data).flatten(1, 2)
    assert not torch.equal(batch["observation"], data["observation"].flatten(1, 2))
    _, metrics = learner._plain_losses(batch)
    torch.testing.assert_close(metrics["kl_approx"], torch.zeros(2), atol=1e-5, rtol=0.0)


def test_learned_delta_is_that_of_delta_loss(tmp_path: Path) -> None:
    trainer = Trainer(replace(LEARNED_DELTA, seeds=2, out=str(tmp_path)))
    trainer.run()
    trainer.close()
    learner = trainer.learner
    delta = learner.params["delta"]
    assert (delta > 0.0).any()
    batch = TensorDict({"observation": torch.randn(2, 9, 3)}, [2, 9])
    batch["noise"] = torch.rand(2, 9, 1)
    for index in range(2):
        with learner.params[ACTOR][index].data.to_module(learner.actor):
            loss = DeltaLoss(learner.actor, initial=delta[index].item())
            assert learner.actor.gaussian_head.delta == delta[index]
            out = loss(batch[index])
        out["loss_delta"].backward()
        missing = out["entropy"] - learner.actor.target_entropy
        torch.testing.assert_close(loss.delta.parameter.grad, missing)
        ours = _delta_gradient(learner, batch)[index]
        torch.testing.assert_close(ours, missing)


def _delta_gradient(learner: Learner, batch: TensorDict) -> Tensor:
    learner._agent_losses = lambda _: {}
    total, _ = learner._plain_losses(batch)
    return torch.autograd.grad(total, learner.params["delta"])[0]


def test_resuming_refuses_other_settings_and_broken_files(tmp_path: Path) -> None:
    _run(replace(SAC, total_steps=20), tmp_path)
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(ValueError, match=r"gamma: 0\.99, now 0\.9"):
        load_checkpoint(path, replace(SAC, gamma=0.9))
    with pytest.raises(ValueError, match="device: 'cpu', now 'cuda'"):
        load_checkpoint(path, replace(SAC, device="cuda"))
    with pytest.raises(ValueError, match="algorithm: 'SACConfig', now 'PPOConfig'"):
        load_checkpoint(path, PPO)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="truncated"):
        load_checkpoint(path, SAC)


def test_the_logged_return_is_the_mean_over_the_episodes_that_ended() -> None:
    ended = torch.tensor([[[0, 1, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]]).bool().unsqueeze(-1)
    sums = torch.tensor([[[1.0, 3.0, 2.0], [1.0, 4.0, 8.0]]]).expand(2, 2, 3).unsqueeze(-1)
    data = TensorDict({"next": {"done": ended, "episode_reward": sums}}, [2, 2, 3])
    expected = torch.tensor([5.5, math.nan])
    found = episode_returns(data)["episode_return"]
    torch.testing.assert_close(found, expected, equal_nan=True, atol=0.0, rtol=0.0)


def test_each_agents_metrics_are_logged(tmp_path: Path) -> None:
    _run(replace(SAC, seeds=2, eval_interval=20), tmp_path)
    for seed in (0, 1):
        for name in ("loss_actor", "loss_qvalue", "entropy", "eval_return", "steps_per_second"):
            (path,) = tmp_path.rglob(f"seed{seed}/{name}.csv")
            rows = [line.split(",") for line in path.read_text().splitlines()]
            assert [int(float(step)) for step, _ in rows] == [20, 40]
            assert all(math.isfinite(float(value)) for _, value in rows)
    assert list(tmp_path.rglob("events.out.tfevents*"))


def test_actions_are_uniform_until_learning_starts(tmp_path: Path) -> None:
    trainer = Trainer(replace(SAC, out=str(tmp_path)))
    data = next(trainer.batches)
    torch.testing.assert_close(data["action"], -2.0 + 4.0 * data["noise"])
    trainer.learner.policy.uniform.zero_()
    data = next(trainer.batches)
    assert (data["action"] - (-2.0 + 4.0 * data["noise"])).abs().amax() > 1e-2
    trainer.close()


def test_discrete_actions_train_with_ppo_and_not_with_sac(tmp_path: Path) -> None:
    _, returns = _run(replace(PPO, env="CartPole-v1", seeds=2), tmp_path)
    assert (returns >= 1).all()
    with pytest.raises(ValueError, match="discrete"):
        Trainer(replace(SAC, env="CartPole-v1", out=str(tmp_path / "sac")))


def test_settings_of_bounded_actions_are_refused_for_discrete_ones() -> None:
    given = {"floor": "gaussian", "slack": 0.1, "delta": 0.2, "log_std_min": -8.0}
    for name, value in {**given, "nats_per_dim": -0.5}.items():
        config = replace(PPO, env="CartPole-v1", **{name: value})
        with pytest.raises(ValueError, match=f"{name}={value!r} is for bounded actions, not for"):
            head_kwargs(config, OneHot(2))
    assert head_kwargs(replace(PPO, target_entropy=0.2), OneHot(2)) == {"target_entropy": 0.2}


def test_many_environments_and_few_updates_are_settings(tmp_path: Path) -> None:
    fast = {**PRESETS["fastsac"], "num_envs": 8, "env_processes": False, "batch_size": 64}
    config = SACConfig(**{**fast, "hidden": (16,), "learning_starts": 16, "total_steps": 40})
    trainer = Trainer(replace(config, eval_episodes=1, out=str(tmp_path)))
    updates = []
    update = trainer.learner._update
    trainer.learner._update = lambda batch: updates.append(batch.shape) or update(batch)
    trainer.run()
    trainer.close()
    assert updates == [torch.Size([1, 64])] * 8 * 4  # 8 updates for 8 steps, from step 16 on


def test_gradients_are_clipped_for_each_agent() -> None:
    params = [torch.randn(3, 4, 5), torch.randn(3, 7)]
    for param in params:
        param.grad = torch.randn_like(param) * torch.tensor([0.01, 1.0, 100.0]).view(
            3, *[1] * (param.dim() - 1)
        )
    before = [param.grad.clone() for param in params]
    clip_agent_norms(params, 0.5)
    norms = torch.cat([param.grad.flatten(1) for param in params], 1).norm(dim=1)
    torch.testing.assert_close(norms[1:], torch.tensor([0.5, 0.5]))
    assert all(torch.equal(p.grad[0], b[0]) for p, b in zip(params, before, strict=True))


def test_the_compile_switch_falls_back_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", _refuse)
    plain, _ = _run(SAC, tmp_path / "plain")
    with pytest.warns(RuntimeWarning, match="torch.compile of the SAC losses failed"):
        fallen, _ = _run(replace(SAC, compile=True), tmp_path / "fallen")
    assert _difference(plain, fallen) == 0.0


def _refuse(function: object, **kwargs: object) -> object:
    def fail(*args: object) -> None:
        raise RuntimeError("no compiler here")

    return fail


@pytest.mark.slow
@ALGORITHMS
def test_compiled_agents_equal_eager_ones(config: Config, tmp_path: Path) -> None:
    eager, _ = _run(replace(config, seeds=2), tmp_path / "eager")
    compiled, _ = _run(replace(config, seeds=2, compile=True), tmp_path / "compiled")
    assert _difference(eager, compiled) < 1e-4
