"""What ``era-demo`` does: train SAC and SACERA on a pendulum, draw them, and print what happened."""

import math
import sys
import time
from typing import Any

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw
from stable_baselines3 import SAC
from stable_baselines3.common.monitor import Monitor

from era_rl.demo import Demo
from era_rl.devices import check_device, set_threads
from era_rl.sb3 import SACERA
from era_rl.sb3.callbacks import VisitedStatesCallback
from era_rl.sb3.gradient_conflict import policy_at
from era_rl.sb3.run_callbacks import Evaluation, Lines

ENV, WIDTH, BATCH = "Pendulum-v1", 64, 256
EVALUATIONS = 10
COLORS = {"SAC": "#D55E00", "SACERA": "#0072B2"}
SECONDS = 0.05
"""Of a step of the pendulum."""

NEXT = """
What to try next:
  era-zoo train --algo sac_era --env Pendulum-v1 -n 1e4                   # two minutes
  era-zoo train --algo sac_era --env dm_control/walker-walk-v0 -n 3e4     # ten to twenty
"""


class LowestEntropy(VisitedStatesCallback):
    """The lowest entropy of the policy, ERA's or stock, on the states visited since the last row."""

    def _measure(self, visited: Any, floors: np.ndarray) -> list[Any]:
        obs: Any = self.model.policy.obs_to_tensor(visited)[0]
        policy = policy_at(self.model, obs)
        return [policy.entropy(policy.params).cpu(), floors]

    def _check(self, *measured: np.ndarray) -> None:
        self._record([float(measured[0].min()), float(measured[1][-1])])


def run(args: Demo) -> None:
    """Train both, and print what is about to happen, what happened and which files were written.

    Raises:
        SettingsError: For a device that is absent.
    """
    check_device(args.device)
    args.out.mkdir(parents=True, exist_ok=True)
    set_threads(args.threads, WIDTH * WIDTH * BATCH)
    began = time.monotonic()
    _say(
        f"SAC and then SACERA learn to swing up a pendulum, {args.steps:,} steps each, from the same "
        f"seed; about two minutes for 6,000 on a quiet core."
    )
    swings, results = {}, {}
    for name, algorithm in (("SAC", SAC), ("SACERA", SACERA)):
        model = _make(algorithm, args)
        swings.setdefault("untrained", _swing(model))
        results[name] = _train(name, model, args)
        swings[name] = _swing(model)
        model.save(args.out / name.lower())
    floor = results["SACERA"][1].rows[-1].floor
    _draw_curves(args, results, floor)
    _animate(args, swings)
    _report(args, results, floor)
    _say(f"It took {time.monotonic() - began:.0f} seconds.{NEXT}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _make(algorithm: type[SAC], args: Demo) -> SAC:
    return algorithm(
        "MlpPolicy",
        ENV,
        learning_rate=1e-3,  # a run this short learns more with it than with the default 3e-4
        learning_starts=min(500, args.steps // 4),
        buffer_size=max(args.steps, 1_000),
        batch_size=BATCH,
        policy_kwargs={"net_arch": [WIDTH, WIDTH]},
        tensorboard_log=str(args.out / "tensorboard"),
        seed=args.seed,
        device=args.device,
    )


def _train(name: str, model: SAC, args: Demo) -> tuple[Evaluation, LowestEntropy]:
    """Train, with a line at every evaluation."""
    env = Monitor(gymnasium.make(ENV))
    env.reset(seed=args.seed + 1)
    freq = max(1, args.steps // EVALUATIONS)
    evaluation = Evaluation(
        env,
        n_eval_episodes=args.episodes,
        eval_freq=freq,
        log_path=str(args.out / name.lower()),
        verbose=0,
    )
    columns, csv_path = (
        ("timesteps", "entropy_min", "floor"),
        args.out / f"{name.lower()}-entropy.csv",
    )
    entropy = LowestEntropy("entropy", columns, max(1, freq // 5), csv_path, 0)
    callbacks = [evaluation, entropy, Lines(evaluation, entropy, f"{name}: ")]
    model.learn(args.steps, callback=callbacks, progress_bar=sys.stderr.isatty())
    return evaluation, entropy


def _swing(model: SAC, steps: int = 200) -> list[float]:
    """Return the angles of an episode from hanging at rest, by the policy's mode; 0 is upright."""
    env: Any = gymnasium.make(ENV)
    env.reset()
    env.unwrapped.state = np.array([math.pi, 0.0])
    observation, angles = np.array([-1.0, 0.0, 0.0], np.float32), [math.pi]
    for _ in range(steps):
        action, _ = model.predict(observation, deterministic=True)
        observation, *_ = env.step(action)
        angles.append(math.atan2(observation[1], observation[0]))
    return angles[:steps]


def _draw_curves(
    args: Demo, results: dict[str, tuple[Evaluation, LowestEntropy]], floor: float
) -> None:
    """Draw evaluation returns and the lowest entropies over the steps."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, (evaluation, entropy) in results.items():
        returns = np.mean(evaluation.evaluations_results, axis=1)
        left.plot(evaluation.evaluations_timesteps, returns, "o-", color=COLORS[name], label=name)
        steps, lowest, _ = zip(*entropy.rows, strict=True)
        width = 4 if name == "SACERA" else 1.5  # or the line of its floor would hide it
        right.plot(steps, lowest, color=COLORS[name], linewidth=width, label=name)
    right.axhline(floor, color="black", linestyle="--", label=f"SACERA's floor, {floor:g} nats")
    left.set(title=ENV, xlabel="environment steps", ylabel="evaluation return")
    title = "lowest entropy of the policy on visited states"
    right.set(title=title, xlabel="environment steps", ylabel="nats")
    left.legend()
    right.legend()
    figure.savefig(args.out / "curves.png", dpi=120)
    plt.close(figure)


def _animate(args: Demo, swings: dict[str, list[float]], side: int = 200) -> None:
    """Write the pendulums side by side, each from hanging at rest, as an animated picture."""
    frames, rod = [], 0.38 * side
    for angles in zip(*swings.values(), strict=True):
        frame = Image.new("RGB", (side * len(swings), side), "white")
        draw = ImageDraw.Draw(frame)
        for place, (name, angle) in enumerate(zip(swings, angles, strict=True)):
            x, y = side * (place + 0.5), side * 0.55
            end = x - rod * math.sin(angle), y - rod * math.cos(angle)
            draw.line([(x, y), end], fill=COLORS.get(name, "#777777"), width=12)
            draw.circle(end, 9, fill=COLORS.get(name, "#777777"))
            draw.circle((x, y), 5, fill="black")
            draw.text((x, 4), name, fill="black", anchor="ma")
        frames.append(frame)
    options = {"save_all": True, "append_images": frames[1:], "loop": 0}
    frames[0].save(args.out / "before-and-after.gif", duration=1_000 * SECONDS, **options)


def _report(args: Demo, results: dict[str, tuple[Evaluation, LowestEntropy]], floor: float) -> None:
    _say("")
    for name, (evaluation, entropy) in results.items():
        first, last = (np.mean(evaluation.evaluations_results[i]) for i in (0, -1))
        lowest = min(row.entropy_min for row in entropy.rows)
        _say(f"{name}: return from {first:.0f} to {last:.0f}, lowest entropy {lowest:.3f} nats")
    lowest = min(row.entropy_min for row in results["SACERA"][1].rows)
    held = lowest >= floor - 1e-5 * max(1.0, abs(floor))
    _say(f"The floor of {floor:g} nats {'held' if held else 'was BROKEN'} on every visited state.")
    _say(f"{args.out / 'before-and-after.gif'}: the pendulums, untrained and trained")
    _say(f"{args.out / 'curves.png'}: returns, and entropy against the floor")
    _say(f"{args.out}: models, entropies, evaluations, and TensorBoard's logs besides")
