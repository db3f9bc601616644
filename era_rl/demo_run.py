"""What ``era-demo`` does: train, evaluate before and after, draw, and print."""

import math
from contextlib import closing
from pathlib import Path

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.callbacks import CallbackList, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import era_rl.envs  # noqa: F401  (registers dm_control/*)
from era_rl.demo import Demo
from era_rl.devices import check_device
from era_rl.runs.settings import SettingsError
from era_rl.sb3 import SACERA, EntropyMonitor

EVALUATIONS = 10


def run(args: Demo) -> None:
    """Train, evaluate before and after, and print what happened and which files were written.

    Raises:
        SettingsError: For a device that is absent, or an environment that cannot be made or has
            another action space than a Box.
    """
    _check(args)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)

    model = SACERA(
        "MlpPolicy",
        gymnasium.make(args.env),
        learning_rate=1e-3,  # a run this short learns more with it than with the default 3e-4
        learning_starts=min(1_000, args.steps // 10),
        buffer_size=max(args.steps, 1_000),
        tensorboard_log=str(args.out / "tensorboard"),
        seed=args.seed,
        device=args.device,
    )
    eval_env = Monitor(gymnasium.make(args.env))
    eval_env.reset(seed=args.seed + 1)
    returns, _ = evaluate_policy(
        model, eval_env, n_eval_episodes=args.episodes, return_episode_rewards=True
    )
    before = float(np.mean(returns))

    check_freq = max(1, args.steps // (5 * EVALUATIONS))
    monitor = EntropyMonitor(check_freq, csv_path=args.out / "entropy.csv")
    evaluation = EvalCallback(
        eval_env,
        n_eval_episodes=args.episodes,
        eval_freq=max(1, args.steps // EVALUATIONS),
        log_path=str(args.out),
        verbose=0,
    )
    model.learn(args.steps, callback=CallbackList([monitor, evaluation]), progress_bar=True)

    model.save(args.out / "model")
    _plot(args.out, args.env, before, model.actor.head.target_entropy)
    after = float(np.mean(evaluation.evaluations_results[-1]))
    _report(args.out, before, after, monitor.minimum, model.actor.head.target_entropy)


def _check(args: Demo) -> None:
    check_device(args.device)
    try:
        with closing(gymnasium.make(args.env)) as env:
            space = env.action_space
    except gymnasium.error.Error as error:
        raise SettingsError(f"env={args.env!r} cannot be made: {error}") from error
    if not isinstance(space, gymnasium.spaces.Box):
        raise SettingsError(f"the actions of {args.env} must be a Box, not {space}")


def _plot(out: Path, env_id: str, before: float, floor: float) -> None:
    """Draw evaluation return and policy entropy on visited states over the steps."""
    evaluations = np.load(out / "evaluations.npz")
    entropy = np.genfromtxt(out / "entropy.csv", delimiter=",", names=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")

    steps = np.concatenate([[0], evaluations["timesteps"]])
    left.plot(steps, [before, *evaluations["results"].mean(1)], marker="o")
    left.set(
        title=env_id, xlabel="environment steps", ylabel="evaluation return, mean over episodes"
    )
    if min(before, *evaluations["results"].mean(1)) >= 0:
        left.set_ylim(bottom=0)

    right.fill_between(
        entropy["timesteps"], entropy["entropy_min"], entropy["entropy_max"], alpha=0.3
    )
    right.plot(entropy["timesteps"], entropy["entropy_mean"], label="mean, shaded: min to max")
    right.axhline(floor, color="black", linestyle="--", label=f"floor {floor:g} nats")
    margin = max(0.25, 0.25 * abs(floor))
    right.set_ylim(floor - margin, max(floor + margin, float(entropy["entropy_max"].max()) * 1.05))
    right.set(title="policy entropy on visited states", xlabel="environment steps", ylabel="nats")
    right.legend()
    figure.savefig(out / "curves.png", dpi=120)
    plt.close(figure)


def _report(out: Path, before: float, after: float, minimum: float, floor: float) -> None:
    console = Console()
    table = Table(title="SACERA")
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_row("return before training", f"{before:.1f}")
    table.add_row("return after training", f"{after:.1f}")
    table.add_row("smallest entropy met on visited states (nats)", f"{minimum:.6f}")
    table.add_row("floor (nats)", f"{floor:.6f}")
    console.print(table)
    held = "held on" if minimum >= floor - 1e-5 * max(1.0, math.fabs(floor)) else "BROKEN on"
    console.print(f"The floor was {held} every visited state. Written:")
    for name in ("model.zip", "curves.png", "entropy.csv", "evaluations.npz", "tensorboard"):
        console.print(f"  {out / name}", highlight=False)
