"""Trained agents: found in a run's folder, played, evaluated and filmed."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import create_test_env, get_latest_run_id
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecVideoRecorder

from era_rl.zoo.algorithms import algorithm_class
from era_rl.zoo.checkpoint import BEST, newest_intact
from era_rl.zoo.config import check, override, read_mapping
from era_rl.zoo.display import has_display
from era_rl.zoo.names import ConfigError


def run_folder(args: argparse.Namespace) -> Path:
    """Return the folder of a run: of number ``args.exp_id``, or of the latest for 0."""
    name = EnvironmentName(args.env)
    runs = args.log_folder / args.algo
    run = runs / f"{name}_{args.exp_id or get_latest_run_id(str(runs), name)}"
    if not run.is_dir():
        found = ", ".join(sorted(path.name for path in runs.glob("*_[0-9]*"))) or "none"
        raise ConfigError(f"there is no run {run}; runs in {runs}: {found}")
    return run


def enjoy(args: argparse.Namespace) -> None:
    """Play for ``args.n_timesteps`` steps, in a window where there is a display."""
    window = not args.no_render and has_display()
    if not args.no_render and not window:
        sys.stdout.write("no display: playing without a window (record-video films the agent)\n")
    model, env = load_agent(args, {"render_mode": "human"} if window else {})
    for number, (total, length) in enumerate(_play(model, env, args), start=1):
        sys.stdout.write(f"episode {number}: return {total:.2f}, {length} steps\n")
    env.close()


def evaluate(args: argparse.Namespace) -> None:
    """Print the mean and the standard deviation of the returns of ``args.episodes`` episodes."""
    model, env = load_agent(args, {})
    returns, lengths = evaluate_policy(
        model,
        env,
        n_eval_episodes=args.episodes,
        deterministic=not args.stochastic,
        return_episode_rewards=True,
    )
    sys.stdout.write(
        f"{args.episodes} episodes: return {np.mean(returns):.2f} +/- {np.std(returns):.2f}, "
        f"length {np.mean(lengths):.1f}\n"
    )
    if env.has_attr("success_bar"):
        bar = env.get_attr("success_bar")[0]
        rate = np.mean(np.asarray(returns) >= bar)
        sys.stdout.write(f"success (return of at least {bar:g}): {rate:.0%}\n")
    env.close()


def record_video(args: argparse.Namespace) -> None:
    """Film ``args.n_timesteps`` steps as an mp4."""
    folder = args.output_folder or run_folder(args) / "videos"
    model, env = load_agent(args, {"render_mode": "rgb_array"})
    recorder = VecVideoRecorder(
        env,
        str(folder),
        record_video_trigger=lambda step: step == 0,
        video_length=args.n_timesteps,
        name_prefix=f"{args.algo}-{EnvironmentName(args.env)}",
    )
    for _ in _play(model, recorder, args):
        pass
    recorder.close()
    sys.stdout.write(f"{recorder.video_path}\n")


def load_agent(
    args: argparse.Namespace, env_kwargs: dict[str, Any]
) -> tuple[BaseAlgorithm, VecEnv]:
    """Return a run's agent and its environment, wrapped as in training.

    The agent is the final one, or the best with ``args.best``; of a run that has not ended, that
    of its last checkpoint.
    """
    run = run_folder(args)
    name = EnvironmentName(args.env)
    path, statistics = run / ("best_model.zip" if args.best else f"{name}.zip"), run / name
    if not args.best and (checkpoint := newest_intact(run)) is not None:
        # the final model is whole when the last checkpoint has gone
        path, statistics = checkpoint / "model.zip", checkpoint / name
    if args.best and (statistics / BEST).is_dir():
        statistics = statistics / BEST
    if not path.exists():
        raise ConfigError(f"there is no model {path}")
    algorithm = algorithm_class(args.algo)
    settings = read_mapping(run / name / "config.yml")
    settings = override(settings, [f"env_kwargs.{item}" for item in args.env_kwargs])
    check(settings, algorithm)
    try:
        env = create_test_env(
            args.env,
            stats_path=str(statistics),
            seed=args.seed,
            should_render=False,
            hyperparams={"normalize": False, "normalize_kwargs": {}, **settings},
            env_kwargs={**settings.get("env_kwargs", {}), **env_kwargs},
        )
    except (TypeError, ValueError, AssertionError, gymnasium.error.Error) as error:
        raise ConfigError(f"{args.env} cannot be made: {error}") from error
    # an agent that is not trained needs no memory
    memory: dict[str, Any] = {"buffer_size": 1} if issubclass(algorithm, OffPolicyAlgorithm) else {}
    sys.stdout.write(f"loading {path}\n")
    try:
        return algorithm.load(path, env, device=args.device, seed=args.seed, **memory), env
    except (ValueError, AssertionError, KeyError, EOFError, RuntimeError) as error:
        raise ConfigError(f"{path} cannot be loaded: {error}") from error


def _play(
    model: BaseAlgorithm, env: VecEnv, args: argparse.Namespace
) -> Iterator[tuple[float, int]]:
    """Take ``args.n_timesteps`` steps; yield return and length of the episodes that end."""
    obs: Any = env.reset()
    for _ in range(args.n_timesteps):
        actions, _ = model.predict(obs, deterministic=not args.stochastic)
        obs, _, _, infos = env.step(actions)
        if "episode" in infos[0]:
            yield infos[0]["episode"]["r"], infos[0]["episode"]["l"]
