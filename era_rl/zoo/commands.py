"""What ``era-zoo`` does with runs: they are trained, listed, played, evaluated and filmed."""

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from textwrap import indent
from typing import Any

import imageio_ffmpeg
import numpy as np
import yaml
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from era_rl.devices import set_threads
from era_rl.runs.agent import ALGORITHMS
from era_rl.runs.folder import writable, writable_file
from era_rl.runs.settings import SettingsError
from era_rl.runs.yaml_files import override
from era_rl.sb3.export import export_policy
from era_rl.sb3.run import Run, agent_files, has_ended
from era_rl.sb3.run_parts import file_name
from era_rl.sb3.run_settings import config_path, matching_entry, read_config
from era_rl.zoo.cli import (
    Agent,
    Enjoy,
    Evaluate,
    Export,
    Film,
    Listing,
    Tracked,
    Train,
    has_display,
)
from era_rl.zoo.track import tracked


def train(
    source: Tracked, *, resume: Path | None = None, steps: int | None = None, **arguments: Any
) -> None:
    """Train a new agent in a new folder, or go on with a run."""
    progress = arguments.setdefault("progress", sys.stderr.isatty())
    if resume is None:
        run, origin = run_of(source, steps=steps, **arguments)
        folder = new_folder(source.out, run)
        if run.verbose:
            sys.stdout.write(f"{run.algo} on {run.env}, {run.total_steps:,} steps, by {origin}:\n")
            sys.stdout.write(indent(yaml.safe_dump(run.settings), "  "))
            sys.stdout.write(f"to {folder}\n")
        with tracked(source.track, run, folder):
            run.train(folder)
    elif steps is None and has_ended(resume):
        sys.stdout.write(
            f"nothing to resume: {resume} has ended; with -n it goes on for more steps\n"
        )
    else:
        Run.resume(resume, steps=steps, progress=progress)


def run_of(source: Train, **arguments: Any) -> tuple[Run, str]:
    """Return the run that a command line says, and where its settings are from."""
    path = source.config or config_path(arguments["algo"])
    pattern, settings = matching_entry(arguments["env"], path)
    changes = [*source.params, *(f"env_kwargs.{item}" for item in source.env_kwargs)]
    run = Run(settings=override(settings, changes), **arguments)
    changed = f", and {shlex.join(changes)}" if changes else ""
    return run, f"{path.name}, entry {pattern!r}{changed}"


def new_folder(out: Path, run: Run) -> Path:
    """Make and return the folder of a new run, ``<out>/<algo>/<env>_<number>``."""
    runs = writable(out / run.algo)
    while True:
        folder = runs / f"{run.name}_{max(numbers(runs, run.name), default=0) + 1}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # a run started at the same moment took the number
            continue


def numbers(runs: Path, name: str) -> list[int]:
    """Return the numbers of the runs on an environment."""
    found = (path.name.removeprefix(f"{name}_") for path in runs.glob(f"{name}_*"))
    return [int(number) for number in found if number.isdecimal()]


def run_folder(agent: Agent) -> Path:
    """Return the folder of a run: of number ``exp_id``, or of the latest for 0."""
    runs, name = agent.runs / agent.algo, file_name(agent.env)
    run = runs / f"{name}_{agent.exp_id or max(numbers(runs, name), default='*')}"
    if not run.is_dir():
        found = ", ".join(sorted(path.name for path in runs.glob("*_[0-9]*"))) or "none"
        raise SettingsError(f"there is no run {run}; runs in {runs}: {found}")
    return run


def load(agent: Agent, **env_kwargs: Any) -> tuple[BaseAlgorithm, VecEnv]:
    """Return a run's agent and its environment, wrapped as in training, and say which agent it is."""
    set_threads(0, 0)  # a state at a time
    options = {"best": agent.best, "seed": agent.seed, "device": agent.device}
    changed = override({}, agent.env_kwargs)
    if own := sorted({"folder", *options, *env_kwargs} & changed.keys()):
        raise SettingsError(
            f"--env-kwargs {own[0]}=... must be left out: {own[0]} is the command's own"
        )
    folder = run_folder(agent)
    sys.stdout.write(f"loading {agent_files(folder, agent.best)[0]}\n")
    return Run.load(folder, **options, **changed, **env_kwargs)


def show(listing: Listing) -> None:
    """Print the algorithms with their classes, and the environments each has settings for."""
    for algo in [listing.algo] if listing.algo else ALGORITHMS:
        sys.stdout.write(f"{algo} ({'.'.join(ALGORITHMS[algo])})\n")
        for env_id in read_config(config_path(algo)):
            sys.stdout.write(f"  {env_id}\n")


def enjoy(agent: Enjoy) -> None:
    """Play for so many steps, in a window where there is a display."""
    window = agent.render and has_display()
    if agent.render and not window:
        sys.stdout.write("no display: playing without a window (record-video films the agent)\n")
    model, env = load(agent, **({"render_mode": "human"} if window else {}))
    episodes = (info["episode"] for info in _play(model, env, agent) if "episode" in info)
    number = 0
    for number, episode in enumerate(episodes, start=1):
        sys.stdout.write(f"episode {number}: return {episode['r']:.2f}, {episode['l']} steps\n")
    if number == 0:
        sys.stdout.write(f"no episode ended in {agent.steps} steps\n")
    env.close()


def evaluate(agent: Evaluate) -> None:
    """Print the mean and the standard deviation of the returns of so many episodes."""
    model, env = load(agent)
    returns, lengths = episodes(agent, model, env)
    sys.stdout.write(
        f"{agent.episodes} episode{'s' * (agent.episodes > 1)}: return {np.mean(returns):.2f} +/- "
        f"{np.std(returns):.2f}, length {np.mean(lengths):.1f}\n"
    )
    if env.has_attr("success_bar"):
        bar = env.get_attr("success_bar")[0]
        rate = np.mean(np.asarray(returns) >= bar)
        sys.stdout.write(f"success (return of at least {bar:g}): {rate:.0%}\n")
    env.close()


def episodes(agent: Evaluate, model: BaseAlgorithm, env: VecEnv) -> tuple[Any, Any]:
    """Return the returns and the lengths of so many episodes."""
    how: Any = {"deterministic": not agent.stochastic, "return_episode_rewards": True}
    return evaluate_policy(model, env, agent.episodes, **how)


def export(agent: Export) -> None:
    """Write the policy as one file for other runtimes, and say how far its actions are off."""
    writable_file(agent.out)
    model, env = load(agent)
    with closing(env):
        difference = export_policy(model, agent.out, stochastic=agent.stochastic)
    sys.stdout.write(f"{agent.out}: actions differ from predict's by at most {difference:.1e}\n")


def record_video(agent: Film) -> Path:
    """Film so many steps as an mp4, and return its path."""
    folder = writable(agent.out or run_folder(agent) / "videos")
    model, env = load(agent, render_mode="rgb_array")
    name = f"{agent.algo}-{file_name(agent.env)}-step-0-to-step-{agent.steps}.mp4"
    path = folder / name
    frames = (env.render() for _ in _play(model, env, agent))
    write_video(path, frames, env.get_attr("metadata")[0].get("render_fps") or 30)
    env.close()
    sys.stdout.write(f"{path}\n")
    return path


def write_video(path: str | Path, frames: Iterable[Any], fps: Any) -> None:
    """Write frames, (height, width, 3) of bytes, as an mp4 that shows each once.

    Straight to ffmpeg: moviepy, by which SB3's recorder writes, repeats some frames and loses others,
    for it asks for frames by times that are rounded.

    Raises:
        SettingsError: For no frame, or one of another shape or dtype: ffmpeg would lose it.
    """
    frames = (np.ascontiguousarray(frame) for frame in frames)
    first = next(frames, np.empty(0))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # sides of h264's frames are even
    options = {"fps": float(fps), "macro_block_size": 2}
    with closing(imageio_ffmpeg.write_frames(str(path), first.shape[1::-1], **options)) as writer:
        for number, frame in enumerate(chain([first], frames)):
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape != (*first.shape[:2], 3):
                raise SettingsError(
                    f"frame {number} is {frame.dtype} of shape {frame.shape}: all must be bytes of one "
                    "shape, (height, width, 3), as environments with a render_mode 'rgb_array' render"
                )
            if number == 0:
                writer.send(None)
            writer.send(frame)


def _play(model: BaseAlgorithm, env: VecEnv, agent: Enjoy | Film) -> Iterator[dict[str, Any]]:
    """Yield at the beginning and after every step, with what the environment says of it."""
    obs: Any = env.reset()
    memory, starts = None, np.ones(env.num_envs, dtype=bool)
    yield {}
    for _ in range(agent.steps):
        actions, memory = model.predict(
            obs, memory, episode_start=starts, deterministic=not agent.stochastic
        )
        obs, _, starts, infos = env.step(actions)
        yield infos[0]
