"""What the trainer says: logged entropies and returns, and evaluations."""

import csv
import math
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type
from toy_runs import PPO, SAC

from era_rl.envs.wrappers import RandomStream, derived_seed
from era_rl.torchrl.config import Config
from era_rl.torchrl.learner import ACTOR
from era_rl.torchrl.trainer import EVALUATION, LOG, Trainer, episodes_ended

pytestmark = [
    pytest.mark.filterwarnings("ignore:No target network updater"),
    pytest.mark.filterwarnings("ignore:torch._dynamo.config.inline_inbuilt_nn_modules"),
]


@pytest.mark.parametrize("config", [SAC, PPO], ids=["sac", "ppo"])
def test_the_logged_entropy_is_the_closed_form_in_units_of_the_floor(
    config: Config, tmp_path: Path
) -> None:
    """H = -E[ln p(a|s)] - ln 2 by samples, for bounds of [-2, 2], state by state; never below H0."""
    trainer = Trainer(replace(config, seeds=2, log_freq=32, out=tmp_path))
    trainer.run()
    trainer.close()
    learner, n = trainer.learner, 1_000
    names = ("entropy", "entropy_min", "entropy_floor")
    logged = {name: _last(tmp_path, name, seed=1) for name in names}
    found = {name: values[1].item() for name, values in learner.entropies().items()}
    assert found == pytest.approx(logged, rel=1e-5)
    assert logged["entropy"] >= logged["entropy_min"] >= learner.actor.target_entropy - 1e-5
    states = learner.observation[1]
    noise = (torch.arange(n) + 0.5) / n
    data = TensorDict({"observation": states.repeat_interleave(n, 0)}, [len(states) * n])
    data["noise"] = noise.repeat(len(states))[:, None]
    with (
        learner.params[ACTOR][1].data.to_module(learner.actor),
        set_exploration_type(ExplorationType.RANDOM),
    ):
        action = learner.actor(data.clone())["action"]
        log_prob = learner.actor.get_dist(data).log_prob(action)
    estimates = -log_prob.view(-1, n).mean(1) - math.log(2.0)
    assert estimates.mean().item() == pytest.approx(logged["entropy"], abs=2e-3)
    assert estimates.min().item() == pytest.approx(logged["entropy_min"], abs=2e-3)


def _last(folder: Path, name: str, seed: int) -> float:
    with (folder / LOG).open() as file:
        rows = [r for r in csv.DictReader(file) if (r["name"], r["seed"]) == (name, str(seed))]
    return float(rows[-1]["value"])


def test_evaluation_reads_no_noise_and_leaves_the_normalization_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(replace(PPO, seeds=2, out=tmp_path))
    returns = trainer.run()
    before = {k: v.clone() for k, v in trainer.learner.policy.own_state().items()}
    noise = np.full(1, 0.9, np.float32)
    observe = RandomStream._with_noise
    monkeypatch.setattr(RandomStream, "_with_noise", lambda *a: {**observe(*a), "noise": noise})
    assert torch.equal(trainer.evaluate(), returns)
    trainer.close()
    after = trainer.learner.policy.own_state()
    assert before["normalize.count"] == PPO.steps
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_evaluations_are_whole_episodes_of_deterministic_actions(tmp_path: Path) -> None:
    """R = the rewards' sum from the seed's start to its end, a = the mode, by a loop over gymnasium."""
    trainer = Trainer(replace(SAC, seed=3, seeds=2, eval_episodes=8, out=tmp_path))
    returns, again = trainer.evaluate(), trainer.evaluate()
    assert torch.equal(returns, again)
    learner, lengths = trainer.learner, []
    trainer.close()
    for agent, seed in enumerate((3, 4)):
        for episode in range(8):
            env = gymnasium.make("Toy-v0")
            observation, _ = env.reset(seed=derived_seed(seed, EVALUATION, episode, 0))
            total, ended = 0.0, False
            while not ended:
                raw = torch.as_tensor(observation)
                with learner.params[ACTOR][agent].data.to_module(learner.actor):
                    mode = 2.0 * torch.tanh(learner.actor[0][0].module(raw)[:1])
                observation, reward, terminated, truncated, _ = env.step(mode.numpy())
                total, ended = total + reward, terminated or truncated
            assert returns[agent, episode].item() == pytest.approx(total, rel=1e-4)
            first = env.unwrapped.length
            env.reset()
            lengths.append((first, first + env.unwrapped.length))
    # one ends another episode before the last has ended its first
    assert min(second for _, second in lengths) <= max(first for first, _ in lengths)


def test_the_logged_return_is_the_mean_over_the_episodes_that_ended() -> None:
    ended = torch.tensor([[[0, 1, 0], [0, 0, 1]], [[0, 0, 0], [0, 0, 0]]]).bool().unsqueeze(-1)
    sums = torch.tensor([[[1.0, 3.0, 2.0], [1.0, 4.0, 8.0]]]).expand(2, 2, 3).unsqueeze(-1)
    data = TensorDict({"next": {"done": ended, "episode_reward": sums}}, [2, 2, 3])
    assert episodes_ended(data).tolist() == [[11.0, 0.0], [2.0, 0.0]]


def test_returns_are_those_of_all_episodes_since_the_last_log_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an interrupted run too; at the last step there is a line, whatever log_freq is."""
    values = iter([1.0, 2.0, 3.0, 4.0, math.nan, 5.0, 6.0, 7.0])

    def ended(_: TensorDict) -> torch.Tensor:
        if math.isnan(value := next(values)):
            raise KeyboardInterrupt
        return torch.tensor([[value], [1.0]])

    monkeypatch.setattr("era_rl.torchrl.trainer.episodes_ended", ended)
    config = replace(SAC, steps=14, log_freq=10, save_freq=8, out=tmp_path)  # two an iteration
    with pytest.raises(KeyboardInterrupt), Trainer(config) as trainer:
        trainer.run()
    with Trainer(replace(config, resume=True)) as trainer:
        trainer.run()
    with (tmp_path / LOG).open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "episode_return"]
    found = [(int(row["step"]), float(row["value"])) for row in rows]
    assert found == [(10, 3.0), (14, 6.5)]


def test_checkpoints_that_let_no_episode_end_are_warned_of(tmp_path: Path) -> None:
    """Each begins new episodes, here of 200 steps."""
    config = replace(SAC, env="Pendulum-v1", steps=40, save_freq=20, out=tmp_path)
    with Trainer(config) as trainer, pytest.warns(UserWarning, match="save_freq=20 is shorter"):
        trainer.run()


def test_each_agents_metrics_are_logged_with_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(replace(SAC, seeds=2, eval_freq=20, progress=True, out=tmp_path))
    trainer.run()
    trainer.close()
    with (tmp_path / LOG).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "seed", "name", "value"]
    names = ("loss_actor", "loss_qvalue", "entropy", "eval_return", "steps_per_second")
    for seed in ("0", "1"):
        for name in names:
            own = [row for row in rows if (row["seed"], row["name"]) == (seed, name)]
            assert [int(row["step"]) for row in own] == [20, 40]
            assert all(math.isfinite(float(row["value"])) for row in own)
    assert list(tmp_path.rglob("events.out.tfevents*"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("step 40 of 40: eval_return ")
    assert not any("nan" in line for line in lines)
