"""``era-demo``: train SACERA on a DeepMind Control task and show that it learns above its floor."""

import argparse
import math
import os
import sys
import warnings
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

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
from era_rl.runs.command import add_arguments, exit_status
from era_rl.runs.settings import Setting, Settings, SettingsError
from era_rl.sb3 import SACERA, EntropyMonitor

EVALUATIONS = 10


@dataclass(frozen=True, kw_only=True)
class Demo(Settings):
    """What the demo trains on, and for how long."""

    env: Annotated[str, Setting("gymnasium id")] = "dm_control/walker-walk-v0"
    steps: Annotated[int, Setting("environment steps", low=100, short="n")] = 20_000
    episodes: Annotated[int, Setting("episodes of each evaluation", low=1)] = 3
    # the evaluations' is one above
    seed: Annotated[int, Setting("seed", low=0, high=2**32 - 2)] = 0
    device: Annotated[str, Setting("torch device")] = "auto"
    threads: Annotated[int, Setting("torch CPU threads; 0: all", low=0)] = 0
    out: Annotated[Path, Setting("folder to write to")] = Path("runs/demo")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)
        try:
            with closing(gymnasium.make(self.env)) as env:
                space = env.action_space
        except gymnasium.error.Error as error:
            raise SettingsError(f"env={self.env!r} cannot be made: {error}") from error
        if not isinstance(space, gymnasium.spaces.Box):
            raise SettingsError(f"the actions of {self.env} must be a Box, not {space}")


def main(argv: list[str] | None = None) -> int:
    """Run the demo and return its exit status: 2, with a line of text, for a wrong argument."""
    # nothing is rendered; without a display mujoco would warn of it
    os.environ.setdefault("MUJOCO_GL", "disabled")
    warnings.filterwarnings("ignore", message="rich is experimental")
    parser = argparse.ArgumentParser(prog="era-demo", description=__doc__)
    add_arguments(parser, Demo)
    given = vars(parser.parse_args(argv))
    return exit_status("era-demo", lambda: run(Demo(**given)), (SettingsError,))


def run(args: Demo) -> None:
    """Train, evaluate before and after, and print what happened and which files were written."""
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
    sys.exit(main())
