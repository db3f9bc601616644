"""A killed run goes on from its checkpoint: the same steps, each logged once and in order."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from zoo_runs import Killed, episode_lengths, evaluated_at, killed_after, logged_at, train

from era_rl.runs.folder import checkpoints
from era_rl.sb3 import SACERA, run_checkpoint
from era_rl.sb3 import run as runs
from era_rl.sb3.run_callbacks import Evaluation
from era_rl.sb3.run_checkpoint import CheckpointCallback, restore_buffer, save_checkpoint
from era_rl.zoo import cli, commands


def evaluations(run: Path) -> np.ndarray:
    return np.load(run / "evaluations.npz")["results"]


def steps_of(run: Path) -> int:
    data, _, _ = load_from_zip_file(run / "Pendulum-v1.zip")
    assert data is not None
    return data["num_timesteps"]


# An evaluation, every 10 steps, takes two episodes of 20 steps.
@pytest.mark.parametrize(
    ("algo", "total", "steps", "saved_at"),
    [
        ("sac_era", 80, 63 + 6 * 40, 60),
        ("ppo_era", 80, 48 + 4 * 40, 40),
        pytest.param("xqc_era", 80, 63 + 6 * 40, 60, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_if_it_had_not_been(
    algo, total, steps, saved_at, tmp_path, monkeypatch
):
    assert train(tmp_path / "whole", algo, total) == 0
    whole = tmp_path / "whole" / algo / "Pendulum-v1_1"
    run = tmp_path / "killed" / algo / "Pendulum-v1_1"
    with killed_after(steps):
        train(tmp_path / "killed", algo, total)
    (saved,) = checkpoints(run)
    assert saved.name == f"checkpoint-{saved_at}"
    assert not (run / "Pendulum-v1.zip").exists()

    seeds, seed = [], BaseAlgorithm.set_random_seed
    monkeypatch.setattr(
        BaseAlgorithm, "set_random_seed", lambda self, x=None: seeds.append(x) or seed(self, x)
    )
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert seeds[-1] == runs._seed_after(0, saved_at)
    assert steps_of(run) == steps_of(whole) == total
    assert evaluated_at(run) == evaluated_at(whole) == list(range(10, total + 1, 10))
    kept = saved_at // 10
    np.testing.assert_array_equal(evaluations(run)[:kept], evaluations(whole)[:kept])
    assert logged_at(run) == logged_at(whole)
    assert episode_lengths(run) == episode_lengths(whole) == [20] * (total // 20)
    assert not checkpoints(run)
    assert len(list(run.glob("*.monitor.csv"))) == 2


def test_a_resumed_run_knows_its_best_evaluation(tmp_path):
    results = np.array([[1.0, 2.0], [5.0, 9.0], [8.0, 0.0]])
    np.savez(tmp_path / "evaluations.npz", timesteps=[1, 2, 3], results=results, ep_lengths=results)
    callback = Evaluation(make_vec_env("Pendulum-v1"), log_path=str(tmp_path))
    callback.recall()
    assert callback.best_mean_reward == 7.0
    assert callback.evaluations_results == results.tolist()


def test_killed_twice_from_one_checkpoint(tmp_path):
    run = tmp_path / "sac_era" / "Pendulum-v1_1"
    with killed_after(45 + 4 * 40):
        train(tmp_path, "sac_era", 60)
    with killed_after(12):
        cli.main(["train", "--resume", str(run)])
    assert [path.name for path in checkpoints(run)] == ["checkpoint-40"]
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert steps_of(run) == 60
    assert episode_lengths(run) == [20, 20, 20]
    assert evaluated_at(run) == [10, 20, 30, 40, 50, 60]


def test_a_kill_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    def die(buffer, path):
        if (run / "checkpoint-20").exists():
            path.write_bytes(b"half")
            raise Killed
        save_buffer(buffer, path)

    save_buffer = run_checkpoint._save_buffer
    run = tmp_path / "sac_era" / "Pendulum-v1_1"
    monkeypatch.setattr(run_checkpoint, "_save_buffer", die)
    with pytest.raises(Killed):
        train(tmp_path, "sac_era", 60)
    monkeypatch.undo()
    assert [path.name for path in checkpoints(run)] == ["checkpoint-20"]
    assert (run / "checkpoint.tmp").exists()
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert steps_of(run) == 60
    assert not (run / "checkpoint.tmp").exists()


def model_with(env: VecEnv, **kwargs: Any) -> SAC:
    options = {"learning_starts": 10, "batch_size": 8, "policy_kwargs": {"net_arch": [4]}}
    return SACERA("MlpPolicy", env, buffer_size=100, **{**options, **kwargs})


# SB3 warns of the n-step buffer that it chose itself
@pytest.mark.filterwarnings("ignore:`n_steps=3` is ignored")
@pytest.mark.parametrize("steps", [40, 300])
@pytest.mark.parametrize("kwargs", [{}, {"n_steps": 3}], ids=["plain", "n-step"])
def test_the_buffer_comes_back_row_by_row(steps, kwargs, tmp_path):
    """Half full, and after it has gone round; two environments, in the midst of their episodes."""
    model = model_with(make_vec_env("Pendulum-v1", 2, seed=0), **kwargs).learn(steps)
    save_checkpoint(model, tmp_path / "Pendulum-v1")
    (saved,) = checkpoints(tmp_path)
    assert saved.name == f"checkpoint-{steps}"
    loaded = SACERA.load(saved / "model.zip", env=make_vec_env("Pendulum-v1", 2))
    restore_buffer(loaded, saved)
    old, new = model.replay_buffer, loaded.replay_buffer
    assert (new.pos, new.full, new.size()) == (old.pos, old.full, old.size())
    for name in ("observations", "next_observations", "actions", "rewards", "dones"):
        np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
    cut = np.argwhere(new.timeouts != old.timeouts)
    np.testing.assert_array_equal(cut[:, 0], [(old.pos - 1) % 50] * len(cut))
    assert len(cut) == 2
    assert loaded.num_timesteps == steps
    assert loaded._n_updates == model._n_updates
    # unused rows are not written
    assert (saved / "replay_buffer.npz").stat().st_size < 60 * old.size() * 2 + 3000


def test_a_buffer_that_saves_memory_comes_back_with_its_last_next_observation(tmp_path):
    """That is in the row after those used, which the next episode overwrites: so it must end there."""
    kwargs = {"optimize_memory_usage": True}
    kwargs["replay_buffer_kwargs"] = {"handle_timeout_termination": False}
    model = model_with(make_vec_env("Pendulum-v1", seed=0), **kwargs).learn(40)
    save_checkpoint(model, tmp_path / "Pendulum-v1")
    loaded = SACERA.load(tmp_path / "checkpoint-40" / "model.zip", env=make_vec_env("Pendulum-v1"))
    restore_buffer(loaded, tmp_path / "checkpoint-40")
    old, new = model.replay_buffer, loaded.replay_buffer
    assert (new.pos, new.size()) == (40, 40)
    np.testing.assert_array_equal(new.observations[:41], old.observations[:41])
    assert old.observations[40].any()
    assert (old.dones[39], new.dones[39]) == (0.0, 1.0)
    np.testing.assert_array_equal(new.dones[:39], old.dones[:39])


def test_statistics_come_back(tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", seed=0))
    model = model_with(env).learn(60)
    save_checkpoint(model, tmp_path / "Pendulum-v1")
    saved = tmp_path / "checkpoint-60" / "Pendulum-v1" / "vecnormalize.pkl"
    loaded = VecNormalize.load(str(saved), make_vec_env("Pendulum-v1"))
    np.testing.assert_array_equal(loaded.obs_rms.mean, env.obs_rms.mean)
    assert loaded.obs_rms.count == env.obs_rms.count
    assert loaded.training


def test_one_checkpoint_at_a_time(tmp_path):
    model = model_with(make_vec_env("Pendulum-v1", seed=0, env_kwargs={"max_episode_steps": 20}))
    callback = CheckpointCallback(tmp_path / "Pendulum-v1", 10)
    seen = []
    callback._on_step = lambda: seen.append([p.name for p in checkpoints(tmp_path)]) or True
    model.learn(50, callback=callback)
    names = [name for (name,) in seen]
    # it waits for the ends of episodes, of 20 steps
    assert names == sorted(names, key=lambda name: int(name.split("-")[1]))
    assert set(names) == {"checkpoint-0", "checkpoint-20", "checkpoint-40"}


def test_it_waits_no_longer_than_another_save_freq(tmp_path):
    model = model_with(make_vec_env("Pendulum-v1", seed=0))
    model.learn(45, callback=CheckpointCallback(tmp_path / "Pendulum-v1", 20))
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-40"]


def test_a_resumed_run_does_not_repeat_its_beginning(tmp_path):
    """Nor does it depend on anything but the seed and the steps."""
    assert runs._seed_after(0, 1000) == runs._seed_after(0, 1000)
    seeds = {runs._seed_after(seed, steps) for seed in (0, 1) for steps in (0, 200, 400)}
    assert len(seeds) == 6
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_finished_run_has_nothing_to_resume(tmp_path, capsys):
    assert train(tmp_path, "sac_era", 20) == 0
    run = tmp_path / "sac_era" / "Pendulum-v1_1"
    before = sorted(path.name for path in run.rglob("*"))
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert "nothing to resume" in capsys.readouterr().out
    assert sorted(path.name for path in run.rglob("*")) == before


@pytest.mark.parametrize("algo", ["sac_era", "ppo_era"])
def test_a_finished_run_goes_on_for_more_steps(algo, tmp_path, monkeypatch, capsys):
    """Up to them, its logs continued; an off-policy one fills its buffer by the policy first."""
    assert train(tmp_path, algo, 40) == 0
    run = tmp_path / algo / "Pendulum-v1_1"
    began = evaluations(run)
    assert cli.main(["train", "--resume", str(run), "-n", "40"]) == 2
    assert f"steps=40 must be above the 40 that {run} has done" in capsys.readouterr().err
    if algo == "sac_era":  # 8 more are no training: they fill its buffer
        assert cli.main(["train", "--resume", str(run), "-n", "48"]) == 2
        assert "has done, and 8 more, which fill its replay buffer" in capsys.readouterr().err
    sizes, update = [], SACERA.train

    def counting(self, *args, **kwargs):
        sizes.append(self.replay_buffer.size())
        update(self, *args, **kwargs)

    monkeypatch.setattr(SACERA, "train", counting)
    assert cli.main(["train", "--resume", str(run), "-n", "80"]) == 0
    assert sizes[:1] == ([9] if algo == "sac_era" else [])
    assert steps_of(run) == 80
    assert evaluated_at(run) == list(range(10, 81, 10))
    np.testing.assert_array_equal(evaluations(run)[:4], began)
    assert sum(episode_lengths(run)) == 80
    assert cli.main(["train", "--resume", str(run)]) == 0
    assert "nothing to resume" in capsys.readouterr().out


def test_runs_that_start_together_get_folders_of_their_own(tmp_path, monkeypatch):
    numbers = iter([[], [], [1]])
    monkeypatch.setattr(commands, "numbers", lambda *_: next(numbers))
    assert train(tmp_path, "sac_era", 10) == 0
    assert train(tmp_path, "sac_era", 10) == 0
    names = sorted(path.name for path in (tmp_path / "sac_era").iterdir())
    assert names == ["Pendulum-v1_1", "Pendulum-v1_2"]


@pytest.mark.slow
def test_a_process_killed_by_the_system_is_resumed_by_another(tmp_path):
    run = tmp_path / "sac_era" / "Pendulum-v1_1"
    main = [sys.executable, "-c", "import sys; from era_rl.zoo.cli import main; sys.exit(main())"]
    options = "--algo sac_era --env Pendulum-v1 -n 2000 --eval-freq 500 --eval-episodes 1"
    params = ["--save-freq", "400", "--params", "learning_starts=100", "batch_size=16"]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [*main, "train", *options.split(), "--out", str(tmp_path), *params], cwd=root
    )
    while not (run / "checkpoint-800").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*main, "train", "--resume", str(run)], cwd=root, check=True)
    assert steps_of(run) == 2000
    assert episode_lengths(run) == [200] * 10
    assert evaluated_at(run) == [500, 1000, 1500, 2000]
    for steps in logged_at(run).values():
        assert steps == sorted(set(steps))
