"""What a trained agent is used for: played, evaluated, filmed and drawn."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v3 as imageio
import numpy as np
import pytest
import yaml
from stable_baselines3.common.vec_env import DummyVecEnv
from zoo_runs import names, train

from era_rl.runs.settings import SettingsError
from era_rl.sb3 import SACERA
from era_rl.sb3.callbacks import read_table
from era_rl.sb3.run import Run
from era_rl.zoo import cli, commands
from era_rl.zoo.plot import mean_and_error, returns_of_runs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> Path:
    """Two runs of SACERA and one of PPOERA, which normalises its observations."""
    folder = tmp_path_factory.mktemp("logs")
    for algo in ("sac_era", "sac_era", "ppo_era"):
        assert train(folder, algo, 60) == 0
    return folder


def said_after_loading(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.partition("loading ")[2].splitlines()[1:]


def test_a_run_records_its_settings_as_plain_yaml(logs):
    folder = logs / "ppo_era" / "Pendulum-v1_1" / "Pendulum-v1"
    settings = yaml.safe_load((folder / "config.yml").read_text())
    assert settings["normalize"] is True
    assert settings["n_timesteps"] == 60
    assert settings["env_kwargs"] == {"max_episode_steps": 20}
    arguments = yaml.safe_load((folder / "args.yml").read_text())
    assert (arguments["env"], arguments["algo"], arguments["seed"]) == ("Pendulum-v1", "ppo_era", 0)
    assert (folder / "vecnormalize.pkl").exists()


def test_the_best_model_is_played_with_the_statistics_of_its_time(logs):
    folder = logs / "ppo_era" / "Pendulum-v1_1" / "Pendulum-v1"
    counts = []
    for best in (False, True):
        _, env = Run.load(folder.parent, best=best)
        counts.append(env.obs_rms.count)
        env.close()
    assert counts[1] < counts[0]
    assert sorted(path.name for path in (folder / "best").iterdir()) == ["vecnormalize.pkl"]


def test_an_agent_with_hindsight_is_evaluated(tmp_path, capsys):
    gymnasium.register(
        "era-tests/BitFlip-v0",
        "stable_baselines3.common.envs:BitFlippingEnv",
        kwargs={"n_bits": 3, "continuous": True, "max_steps": 3},
    )
    run = ["--algo", "sac_era", "--env", "era-tests/BitFlip-v0", "-f", str(tmp_path)]
    settings = ["policy=MultiInputPolicy", "replay_buffer_class=her", "learning_starts=5"]
    small = ["batch_size=4", "policy_kwargs.net_arch=[4]"]
    config = tmp_path / "config.yml"
    config.write_text("'*': {policy: MultiInputPolicy, n_timesteps: 12}")
    short = ["--config", str(config), "--eval-freq", "-1", "--verbose", "0"]
    try:
        assert cli.main(["train", *run, *short, "--params", *settings, *small]) == 0
        assert cli.main(["evaluate", *run, "--episodes", "2"]) == 0
    finally:
        del gymnasium.registry["era-tests/BitFlip-v0"]
    assert "2 episodes: return" in capsys.readouterr().out


def test_enjoy_without_a_display_says_so_and_plays(logs, capsys, monkeypatch):
    monkeypatch.setattr(commands, "has_display", lambda: False)
    assert cli.main(["enjoy", *names(logs, "sac_era"), "-n", "19"]) == 0
    assert "no episode ended in 19 steps" in capsys.readouterr().out
    assert cli.main(["enjoy", *names(logs, "sac_era"), "-n", "20"]) == 0
    shown = capsys.readouterr().out
    assert "no display: playing without a window" in shown
    assert "episode 1" in shown


@pytest.mark.parametrize("algo", ["sac_era", "ppo_era", "recurrent_ppo_era"])
def test_evaluate_and_enjoy_repeat_the_evaluation_of_training(algo, tmp_path, capsys):
    """The environment has the same seed, so the only evaluation of a run meets the same episodes.

    A policy with a memory keeps it within an episode, and begins the next one without.
    """
    assert train(tmp_path, algo, 10) == 0
    (returns,) = np.load(tmp_path / algo / "Pendulum-v1_1" / "evaluations.npz")["results"]
    agents = [*names(tmp_path, algo), "--best"]
    mean = f"2 episodes: return {returns.mean():.2f} +/- {returns.std():.2f}, length 20.0"
    each = [f"episode {i}: return {value:.2f}, 20 steps" for i, value in enumerate(returns, 1)]
    for command, lines in (
        (["evaluate", *agents, "--episodes", "2"], [mean]),
        (["enjoy", *agents, "-n", "45", "--no-render"], each),
    ):
        assert cli.main(command) == 0
        assert said_after_loading(capsys) == lines
        assert cli.main([*command, "--stochastic"]) == 0
        assert said_after_loading(capsys) != lines


def test_the_latest_runs_final_or_best_model_is_loaded(logs, capsys):
    run = logs / "sac_era" / "Pendulum-v1_2"
    for best, name in ((False, "Pendulum-v1.zip"), (True, "best_model.zip")):
        agent = cli.Agent(algo="sac_era", env="Pendulum-v1", runs=logs, best=best)
        commands.load(agent)[1].close()
        assert capsys.readouterr().out.endswith(f"loading {run / name}\n")


def test_an_argument_that_the_environment_does_not_know_is_named(logs, capsys):
    run = names(logs, "sac_era")
    assert cli.main(["evaluate", *run, "--env-kwargs", "foo=1"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"era-zoo: Pendulum-v1 cannot be made: .*'foo'.*\n", error)


@pytest.mark.parametrize(("bar", "rate"), [(700, "0%"), (-20, "100%")])
def test_evaluate_counts_episodes_that_reach_the_bar(
    bar, rate, fake_humanoid_bench, tmp_path, monkeypatch, capsys
):
    """The rewards of the stand-in are within -1 and 3, its episodes have 20 steps."""
    run = ["--algo", "sac_era", "--env", "humanoid_bench/h1-walk-v0", "-f", str(tmp_path)]
    short = ["-n", "6", "--eval-freq", "-1", "--verbose", "0"]
    params = ["--params", "policy_kwargs.net_arch=[4]", "learning_starts=5"]
    assert cli.main(["train", *run, *short, *params]) == 0
    monkeypatch.setattr("humanoid_bench.env.Task.success_bar", bar)
    assert cli.main(["evaluate", *run, "--episodes", "3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"success (return of at least {bar}): {rate}"


def test_an_agent_is_loaded_without_its_memory(logs):
    model, env = Run.load(logs / "sac_era" / "Pendulum-v1_1")
    assert isinstance(model, SACERA)
    assert model.replay_buffer.buffer_size == 1
    env.close()


def test_runs_that_do_not_exist_are_named(logs, capsys):
    assert cli.main(["evaluate", *names(logs, "sac_era"), "--exp-id", "7"]) == 2
    error = capsys.readouterr().err
    assert "there is no run" in error
    assert "Pendulum-v1_1, Pendulum-v1_2" in error
    assert cli.main(["evaluate", *names(logs, "sac"), "--env", "CartPole-v1"]) == 2
    assert "CartPole-v1_*; runs in" in capsys.readouterr().err  # none has the number 0


def test_a_strangers_config_is_checked_before_it_is_used(logs, tmp_path, capsys):
    run = tmp_path / "sac_era" / "Pendulum-v1_1"
    (run / "Pendulum-v1").mkdir(parents=True)
    (run / "Pendulum-v1.zip").touch()
    bad = f"!!python/object/apply:os.mkdir [{tmp_path / 'made'}]"
    for text in (bad, "{policy: MlpPolicy, n_timesteps: 1, env_wrapper: os.system}"):
        (run / "Pendulum-v1" / "config.yml").write_text(text)
        assert cli.main(["enjoy", *names(tmp_path, "sac_era")]) == 2
    assert not (tmp_path / "made").exists()


def test_export_says_how_far_the_file_is_off(logs, tmp_path, capsys):
    """Of an agent whose observations the run normalises; PPOERA's is the truncated normal's mode."""
    path = tmp_path / "policy.pt2"
    assert cli.main(["export", *names(logs, "ppo_era"), "--out", str(path)]) == 0
    (line,) = said_after_loading(capsys)
    assert re.fullmatch(r".*policy.pt2: actions differ from predict's by at most \d.*", line)
    assert path.exists()
    assert cli.main(["export", *names(logs, "ppo_era"), "--out", "policy.txt"]) == 2
    assert "must end in .pt2" in capsys.readouterr().err


def test_plot_draws_all_runs(logs, tmp_path, capsys):
    figure = tmp_path / "figures" / "curves.png"
    algos = ["--algo", "sac_era", "ppo_era", "--env", "Pendulum-v1"]
    assert cli.main(["plot", *algos, "-f", str(logs), "-o", str(figure)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"sac_era on Pendulum-v1: -\d+\.\d \+/- \d+\.\d at step 60, 2 runs", shown)
    assert re.search(r"ppo_era on Pendulum-v1: -\d+\.\d at step 60, 1 run\n", shown)
    assert imageio.imread(figure).std() > 10
    assert cli.main(["plot", "--algo", "tqc", "--env", "Pendulum-v1", "-f", str(logs)]) == 2
    assert "no evaluations of tqc on Pendulum-v1" in capsys.readouterr().err
    assert cli.main(["plot", *algos, "-f", str(logs), "-o", "curves.foo"]) == 2
    assert "--out curves.foo must end in one of ." in capsys.readouterr().err


@pytest.mark.parametrize("what", ["entropy", "std"])
def test_plot_draws_each_dimension(what, logs, tmp_path, capsys):
    """Of Pendulum's one dimension, a panel an algorithm; the last is the mean over runs."""
    out, algos = ["-o", str(tmp_path / "x.png")], ["--algo", "sac_era", "ppo_era"]
    env = ["--env", "Pendulum-v1", "--what", what]
    assert cli.main(["plot", *algos, *env, "-f", str(logs), *out]) == 0
    shown = capsys.readouterr().out
    files = sorted((logs / "sac_era").glob("*/entropy.csv"))
    last = np.mean([read_table(file)[f"{what}_0"][-1] for file in files])
    assert f"sac_era on Pendulum-v1: {what}_0 {last:.3f} to {what}_0 {last:.3f} at step 60" in shown
    assert imageio.imread(tmp_path / "x.png").std() > 10
    file = tmp_path / "tqc_era" / "Pendulum-v1_1" / "entropy.csv"
    file.parent.mkdir(parents=True)
    for text, message in (("timesteps,a\n", "no rows yet"), ("timesteps,a\n1,2\n3,", "must all")):
        file.write_text(text)
        assert cli.main(["plot", "--algo", "tqc_era", *env, "-f", str(tmp_path), *out]) == 2
        assert message in capsys.readouterr().err


def test_curves_of_different_steps_are_drawn_at_the_steps_of_all(tmp_path):
    """Interpolated between a run's own evaluations, from where all have begun to where all are."""
    paths = [tmp_path / f"{number}.npz" for number in range(3)]
    np.savez(paths[0], timesteps=[10, 20, 30], results=[[1.0, 3.0], [2.0, 4.0], [0.0, 0.0]])
    np.savez(paths[1], timesteps=[15, 30], results=[[5.0], [8.0]])
    np.savez(paths[2], timesteps=[40], results=[[5.0]])
    steps, returns = returns_of_runs(paths[:2])
    np.testing.assert_array_equal(steps, [15, 20, 30])
    np.testing.assert_array_equal(returns, [[2.5, 3.0, 0.0], [5.0, 6.0, 8.0]])
    mean, error = mean_and_error(returns)
    np.testing.assert_array_equal(mean, [3.75, 4.5, 4.0])
    np.testing.assert_allclose(error, [1.25, 1.5, 4.0])
    with pytest.raises(SettingsError, match="no step is between the evaluations of all runs"):
        returns_of_runs(paths)


def moving_frames(folder: Path) -> int:
    """The number of frames of the only film in a folder, in which something moves."""
    (path,) = folder.glob("*.mp4")
    frames = imageio.imread(path)
    assert frames[0].std() > 10
    assert (frames[0] != frames[-1]).mean() > 0.01
    return len(frames)


def numbered(number: int) -> np.ndarray:
    """An image that shows a number, a bit a block."""
    bits = np.array([number >> bit & 1 for bit in range(10)], np.uint8).reshape(2, 5) * 255
    return np.repeat(np.kron(bits, np.ones((17, 17), np.uint8))[..., None], 3, axis=2)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # imageio's pipes from ffmpeg
def test_a_video_has_every_frame_once(tmp_path: Path) -> None:
    """1000 frames at 40 per second, of an even and an odd side: read back, the numbers 0 to 999."""
    path = tmp_path / "new" / "film.mp4"
    commands.write_video(path, (numbered(number) for number in range(1_000)), 40)
    shown = []
    for frame in imageio.imiter(path):
        height, width = (side // count for side, count in zip(frame.shape, (2, 5), strict=False))
        middle = frame[height // 2 :: height, width // 2 :: width, 0][:2, :5]
        shown.append(int(((middle.ravel() > 127) << np.arange(10)).sum()))
    assert shown == list(range(1_000))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # imageio's pipes from ffmpeg
@pytest.mark.parametrize(
    "frames",
    [
        [],
        [None],
        [np.zeros((4, 4, 3))],
        [np.zeros((4, 4, 4), np.uint8)],
        [np.zeros((4, 4, 3), np.uint8), np.zeros((2, 4, 3), np.uint8)],
    ],
    ids=["none", "None", "floats", "alpha", "sizes"],
)
def test_frames_of_another_kind_are_refused(frames: list[Any], tmp_path: Path) -> None:
    """ffmpeg takes the bytes of a float's frame for several, and loses those of another size."""
    with pytest.raises(ValueError, match=rf"^frame {max(len(frames), 1) - 1} is \w+ of shape"):
        commands.write_video(str(tmp_path / "film.mp4"), frames, np.int64(20))


@pytest.mark.parametrize(
    ("command", "file"),
    [("record-video", ""), ("push", ""), ("export", "/policy.onnx"), ("plot", "/curves.png")],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    command: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was a traceback, once the agent had been evaluated or filmed; here there is none yet."""
    (tmp_path / "taken").touch()
    out = f"{tmp_path / 'taken'}/out{file}"
    dry = ["--dry-run"] if command == "push" else []
    assert cli.main([command, *names(tmp_path, "sac_era"), "--out", out, *dry]) == 2
    assert capsys.readouterr().err.startswith(f"era-zoo: --out {tmp_path / 'taken'}/out must be a ")


@pytest.mark.parametrize("name", ["render_mode", "seed", "device"])
def test_what_a_command_gives_an_environment_is_not_given_twice(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was Python's error about several values of an argument."""
    out = ["--out", str(tmp_path), "--env-kwargs", f"{name}=human"]
    assert cli.main(["record-video", *names(tmp_path, "sac_era"), *out]) == 2
    assert f"--env-kwargs {name}=... must be left out" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # imageio's pipes from ffmpeg
def test_record_video_films_an_agent(logs, tmp_path, capsys):
    film = ["record-video", *names(logs, "ppo_era"), "-n", "12", "-o", str(tmp_path)]
    assert cli.main(film) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(str(tmp_path))
    assert moving_frames(tmp_path) == 13


def test_an_environment_that_renders_nothing_is_a_line(logs, tmp_path, monkeypatch, capsys):
    """An environment of one's own without "rgb_array"; it was a traceback."""
    monkeypatch.setattr(DummyVecEnv, "render", lambda env, mode=None: None)
    assert cli.main(["record-video", *names(logs, "ppo_era"), "-o", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("era-zoo: frame 0 is object of shape")
    assert line.endswith("as environments with a render_mode 'rgb_array' render")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # imageio's pipes from ffmpeg
def test_a_task_of_dm_control_is_filmed_without_a_display(tmp_path):
    """In a process of its own, in which nothing has chosen an OpenGL driver before."""
    run = ["--algo", "sac_era", "--env", "dm_control/walker-walk-v0", "-f", str(tmp_path)]
    short = ["-n", "20", "--eval-freq", "-1", "--verbose", "0"]
    params = ["--params", "policy_kwargs.net_arch=[8]", "learning_starts=19"]
    assert cli.main(["train", *run, *short, *params]) == 0
    code = "import sys; from era_rl.zoo.cli import main; sys.exit(main())"
    film = ["record-video", *run, "-n", "12", "-o", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    result = subprocess.run(
        [sys.executable, "-c", code, *film],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if result.returncode and "EGL" in result.stderr:
        pytest.skip(f"EGL does not work here: {result.stderr.splitlines()[-1]}")
    assert result.returncode == 0, result.stderr
    assert 12 <= moving_frames(tmp_path) <= 13
