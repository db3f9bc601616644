"""The trainer: stacked agents equal single ones, resuming equals going on, and logs."""

import csv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor, nn
from torchrl.data import OneHot
from toy_runs import PPO, SAC

from era_rl.runs.folder import read_state
from era_rl.torchrl import DeltaLoss, ERAActor, raw_dim
from era_rl.torchrl.config import PRESETS, Config, SACConfig
from era_rl.torchrl.learner import ACTOR, Learner
from era_rl.torchrl.ppo import clip_agent_norms
from era_rl.torchrl.trainer import LOG, STATE, Trainer, agents_first

pytestmark = [
    pytest.mark.filterwarnings("ignore:No target network updater"),
    pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules"),
]

LEARNED_DELTA = replace(SAC, floor="gaussian", delta="auto", lr=1e-2)
SIMBA = replace(SAC, network="simba", actor_hidden=(8,), actor_weight_decay=0.1, lr=1e-2)
# gradients that are 0 but for rounding turn XQC's networks: tests/torchrl/test_torchrl_networks.py
XQC = replace(SAC, network="batchnorm", floor="gaussian", delta="auto", lr=1e-2)
ALGORITHMS = pytest.mark.parametrize(
    "config",
    [SAC, PPO, LEARNED_DELTA, SIMBA, replace(PPO, network="simba")],
    ids=["sac", "ppo", "learned-delta", "simba", "ppo-simba"],
)


def _run(config: Config, out: Path) -> tuple[TensorDictBase, Tensor]:
    """Return the trained parameters (agents, ...) and the last returns (agents, episodes)."""
    trainer = Trainer(replace(config, out=out))
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


@pytest.mark.parametrize(
    "config", [SAC, PPO, LEARNED_DELTA, SIMBA, XQC], ids=["sac", "ppo", "delta", "simba", "xqc"]
)
def test_a_resumed_run_equals_the_uninterrupted_one(config: Config, tmp_path: Path) -> None:
    half = config.steps // 2
    config = replace(config, seeds=2, save_freq=half)
    params, returns = _run(config, tmp_path / "whole")
    _run(replace(config, steps=half), tmp_path / "parts")
    resumed, resumed_returns = _run(replace(config, resume=True), tmp_path / "parts")
    assert _difference(params, resumed) == 0.0
    assert torch.equal(returns, resumed_returns)


@pytest.mark.usefixtures("no_evaluation")
def test_resuming_a_finished_run_begins_other_episodes(tmp_path: Path) -> None:
    starts = []
    for steps in (20, 40, 60):
        trainer = Trainer(replace(SAC, steps=steps, resume=True, out=tmp_path))
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
        "era_rl.runs.folder.save_state", lambda _, state: steps.append(state["learner"]["steps"])
    )
    _run(replace(SAC, steps=60, save_freq=20), tmp_path / "due")
    _run(replace(SAC, steps=50, save_freq=20), tmp_path / "not-due")
    assert steps == [20, 40, 60, 20, 40, 50]


def test_evaluations_do_not_change_what_is_learned(tmp_path: Path) -> None:
    params, _ = _run(PPO, tmp_path / "few")
    often, _ = _run(replace(PPO, eval_freq=32, eval_episodes=3), tmp_path / "many")
    assert _difference(params, often) == 0.0


@pytest.mark.slow
def test_environments_in_processes_do_not_change_what_is_learned(tmp_path: Path) -> None:
    config = replace(SAC, env="toy:Toy-v0")  # registered by its module in other processes too
    params, returns = _run(config, tmp_path / "here")
    apart, apart_returns = _run(replace(config, env_processes=True), tmp_path / "apart")
    assert _difference(params, apart) == 0.0
    assert torch.equal(returns, apart_returns)


@pytest.mark.usefixtures("no_evaluation")
def test_a_checkpoint_has_the_transitions_that_there_are(tmp_path: Path) -> None:
    sizes = []
    for capacity in (300, 60_000):
        out = tmp_path / str(capacity)
        _run(replace(SAC, buffer_size=capacity), out)
        sizes.append((out / "checkpoint-40" / STATE).stat().st_size)
    # the unused 59,700 transitions would take 2 MB; torch.save aligns to 64 bytes
    assert abs(sizes[0] - sizes[1]) < 1_000


@pytest.mark.usefixtures("no_evaluation")
def test_the_device_auto_is_one_of_this_machine(tmp_path: Path) -> None:
    _run(replace(SAC, steps=20, device="auto"), tmp_path)
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    state = read_state(tmp_path / "checkpoint-20" / STATE, {"config"}, "era_rl.torchrl")
    assert state["config"]["device"] == device


@pytest.mark.gpu
@pytest.mark.usefixtures("no_evaluation")
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("config", [SAC, PPO, SIMBA, XQC], ids=["sac", "ppo", "simba", "xqc"])
def test_trains_on_cuda_with_the_learners_own_policy(
    config: Config, compile: bool, tmp_path: Path
) -> None:
    trainer = Trainer(replace(config, out=tmp_path, device="cuda", compile=compile))
    before = trainer.learner.params.data.clone()
    trainer.run()
    trainer.close()
    assert trainer.collector.policy is trainer.learner.policy
    assert not trainer.learner.policy.uniform
    after = trainer.learner.params.data
    assert {value.device.type for value in after.values(True, True)} == {"cuda"}
    assert all(value.isfinite().all() for value in after.values(True, True))
    assert _difference(before, after) > 0.0


@pytest.mark.parametrize("compiled", [False, True])
def test_optimizers_count_on_the_device_for_cuda_graphs_alone(compiled: bool) -> None:
    learner = SimpleNamespace(config=replace(SAC, compile=compiled), device=torch.device("cuda"))
    assert Learner._adam_kwargs(learner)["capturable"] == compiled


def test_optimizers_of_a_checkpoint_take_the_settings_of_now(tmp_path: Path) -> None:
    trainer = Trainer(replace(LEARNED_DELTA, out=tmp_path))
    trainer.close()
    state = trainer.learner.state_dict()
    for optimizer in state["optimizers"]:
        optimizer["param_groups"][0]["capturable"] = True  # as with compile=True on CUDA
    trainer.learner.load_state_dict(state)
    groups = [optimizer.param_groups[0] for optimizer in trainer.learner.optimizers]
    assert not any(group.get("capturable") for group in groups)


def test_ratios_begin_at_one_with_normalized_observations(tmp_path: Path) -> None:
    trainer = Trainer(replace(PPO, seeds=2, steps=32, out=tmp_path))
    trainer.run()
    data = agents_first(next(trainer.batches), 2)
    trainer.close()
    learner = trainer.learner
    batch = learner._with_advantages(data).flatten(1, 2)
    assert not torch.equal(batch["observation"], data["observation"].flatten(1, 2))
    metrics = learner._losses(learner.params, batch)
    torch.testing.assert_close(metrics["kl_approx"], torch.zeros(2), atol=1e-5, rtol=0.0)


def test_learned_delta_is_that_of_delta_loss(tmp_path: Path) -> None:
    trainer = Trainer(replace(LEARNED_DELTA, seeds=2, out=tmp_path))
    trainer.run()
    trainer.close()
    learner = trainer.learner
    delta = learner.params["delta"]
    assert (delta > 0.0).any()
    batch = learner.buffer.storage.get((torch.randint(20, (2, 9)), torch.arange(2)[:, None]))
    batch["noise"], batch["next", "noise"] = torch.rand(2, 2, 9, 1)
    learner.set_gradients(batch)
    for index in range(2):
        with learner.params[ACTOR][index].data.to_module(learner.actor):
            loss = DeltaLoss(learner.actor, initial=delta[index].item())
            assert learner.actor.gaussian_head.delta == delta[index]
            out = loss(batch[index])
        out["loss_delta"].backward()
        missing = out["entropy"] - learner.actor.target_entropy
        torch.testing.assert_close(loss.delta.parameter.grad, missing)
        # exactly that: the actor's loss, which depends on delta, leaves it alone
        torch.testing.assert_close(delta.grad[index], missing)


@pytest.mark.usefixtures("no_evaluation")
@pytest.mark.parametrize("config", [SAC, PPO, LEARNED_DELTA], ids=["sac", "ppo", "learned-delta"])
def test_follows_a_schedule_and_goes_on_with_it(config: Config, tmp_path: Path) -> None:
    """H0 = start + (end - start) min(t / (T end_fraction), 1), for a resumed run as for a whole one."""
    half = config.steps // 2
    config = replace(config, nats_per_dim=(0.0, -2.0, 0.75), log_freq=2, save_freq=half)
    params, _ = _run(config, tmp_path / "whole")
    rows = csv.DictReader((tmp_path / "whole" / LOG).read_text().splitlines())
    logged = {
        int(row["step"]): float(row["value"]) for row in rows if row["name"].endswith("floor")
    }
    expected = {t: -2.0 * min(t / config.steps / 0.75, 1.0) for t in logged}
    assert logged == pytest.approx(expected)
    assert len(set(logged.values())) > 1
    killed = Trainer(replace(config, out=tmp_path / "parts"))
    learn = killed.learner.learn

    def learn_half(data: TensorDictBase) -> dict[str, Tensor]:
        if killed.learner.steps >= half:
            raise KeyboardInterrupt
        return learn(data)

    killed.learner.learn = learn_half
    with killed, pytest.raises(KeyboardInterrupt):
        killed.run()
    resumed, _ = _run(replace(config, resume=True), tmp_path / "parts")
    assert _difference(params, resumed) == 0.0


@pytest.mark.usefixtures("no_evaluation")
def test_resuming_refuses_other_settings(tmp_path: Path) -> None:
    _run(replace(SAC, steps=20), tmp_path)
    for config, message in [
        (replace(SAC, gamma=0.9), r"gamma: 0\.99, now 0\.9"),
        (replace(SAC, seeds=2), "seeds: 1, now 2"),
        (PPO, "algorithm: 'SACConfig', now 'PPOConfig'"),
    ]:
        with pytest.raises(ValueError, match=message):
            Trainer(replace(config, resume=True, out=tmp_path))


def test_a_run_of_an_earlier_version_is_not_gone_on_from(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").touch()
    with pytest.raises(ValueError, match="no whole checkpoint of this version"):
        Trainer(replace(SAC, resume=True, out=tmp_path))


def test_actions_are_uniform_until_learning_starts(tmp_path: Path) -> None:
    trainer = Trainer(replace(SAC, out=tmp_path))
    data = next(trainer.batches)
    torch.testing.assert_close(data["action"], -2.0 + 4.0 * data["noise"])
    trainer.learner.policy.uniform.zero_()
    data = next(trainer.batches)
    assert (data["action"] - (-2.0 + 4.0 * data["noise"])).abs().amax() > 1e-2
    trainer.close()


def test_discrete_actions_train_with_ppo_and_not_with_sac(tmp_path: Path) -> None:
    discrete = {"env_kwargs": ("discrete=True",), "seeds": 2}
    _, returns = _run(replace(PPO, **discrete), tmp_path)
    assert returns.isfinite().all()
    with pytest.raises(ValueError, match="discrete"):
        Trainer(replace(SAC, **discrete, out=tmp_path / "sac"))


def test_settings_of_bounded_actions_are_refused_for_discrete_ones() -> None:
    given = {"floor": "gaussian", "slack": 0.1, "log_std_min": -8.0, "nats_per_dim": -0.5}
    for name, value in given.items():
        options = replace(PPO, **{name: value}).policy_options()
        with pytest.raises(ValueError, match=f"{name}={value!r} is for bounded actions"):
            raw_dim(OneHot(2), options)
    options = replace(PPO, target_entropy=0.2).policy_options()
    actor = ERAActor(nn.Linear(3, 2), OneHot(2), options)
    assert actor.target_entropy == pytest.approx(0.2)


def test_many_environments_and_few_updates_are_settings(tmp_path: Path) -> None:
    fast = {**PRESETS["fastsac"], "n_envs": 8, "env_processes": False, "batch_size": 64}
    config = SACConfig(**{**fast, "hidden": (16,), "learning_starts": 16, "steps": 40})
    trainer = Trainer(replace(config, env="Toy-v0", eval_episodes=1, out=tmp_path))
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
