"""``era-demo``: train SACERA on a DeepMind Control task and show that it learns above its floor."""

import argparse
import math
import os
import warnings
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
from era_rl.devices import check_device
from era_rl.sb3 import SACERA, EntropyMonitor

EVALUATIONS = 10


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate before and after, and print what happened and which files were written."""
    # nothing is rendered; without a display mujoco would warn of it
    os.environ.setdefault("MUJOCO_GL", "disabled")
    warnings.filterwarnings("ignore", message="rich is experimental")
    args = _parse(argv)
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
    monitor = EntropyMonitor(check_freq, csv_path=_fresh(args.out / "entropy.csv"))
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


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="era-demo", description=__doc__)
    parser.add_argument("--env", default="dm_control/walker-walk-v0", help="gymnasium id")
    parser.add_argument("--steps", type=int, default=20_000, help="environment steps (>= 100)")
    parser.add_argument(
        "--episodes", type=int, default=3, help="episodes of each evaluation (>= 1)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="torch device")
    parser.add_argument("--threads", type=int, default=0, help="torch CPU threads, 0 for all")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to write to")
    args = parser.parse_args(argv)
    if args.steps < 100:
        parser.error(f"argument --steps: {args.steps} must be at least 100")
    if args.episodes < 1:
        parser.error(f"argument --episodes: {args.episodes} must be at least 1")
    if not 0 <= args.seed < 2**32 - 1:  # the evaluations' is one above
        parser.error(f"argument --seed: {args.seed} must be in [0, 4294967294]")
    if args.threads < 0:
        parser.error(f"argument --threads: {args.threads} must be at least 0")
    try:
        check_device(args.device)
    except ValueError as error:
        parser.error(f"argument --device: {error}")
    try:
        with closing(gymnasium.make(args.env)) as env:
            space = env.action_space
    except gymnasium.error.Error as error:
        parser.error(f"argument --env: {error}")
    if not isinstance(space, gymnasium.spaces.Box):
        parser.error(f"argument --env: the actions of {args.env} must be a Box, not {space}")
    return args


def _fresh(path: Path) -> Path:
    """Remove an earlier run's file: a demo starts anew."""
    path.unlink(missing_ok=True)
    return path


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


if __name__ == "__main__":
    main()
