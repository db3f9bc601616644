"""Draw the figures of README and docs/mathematics.md: ``python docs/figures.py [FOLDER]``."""

import json
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from era_rl.core import TruncatedGaussianHead, normal_entropy, softmax_era, truncated_normal_entropy

FOLDER = Path(__file__).parent / "figures"
ABLATION = Path(__file__).parents[1] / "benchmarks/results/entropy-ablation"
BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # Okabe and Ito's
LOCS = {0.0: BLUE, 0.5: GREEN, 0.9: ORANGE, 1.0: PURPLE}
STYLES = {0.0: "-", 0.5: "--", 0.9: "-.", 1.0: ":"}
LOG_STD = torch.linspace(-4.0, 3.0, 85, dtype=torch.float64)


def training() -> Figure:
    """Draw the entropy of SACERA and of SAC on visited states while they train, of five seeds each."""
    figure, axes = plt.subplots(figsize=(6.0, 3.2))
    for arm, label, color in (("sac-auto", "SAC", ORANGE), ("exact-0.5", "SACERA", BLUE)):
        files = [ABLATION / f"walker-walk-{arm}-seed{seed}.json" for seed in range(5)]
        runs = [json.loads(file.read_text()) for file in files]
        dims, steps = runs[0]["action_dim"], runs[0]["trace"]["timesteps"]
        for column, style, what in (("entropy_mean", "-", "mean"), ("entropy_min", ":", "lowest")):
            values = torch.tensor([run["trace"][column] for run in runs]) / dims
            line = values.mean(0) if what == "mean" else values.amin(0)
            axes.plot(steps, line, style, color=color, label=f"{label}, {what}")
    axes.set(
        xlabel="environment steps", ylabel="policy's entropy on visited states\n(nats a dimension)"
    )
    axes.legend(ncols=2, loc="center right", bbox_to_anchor=(1.0, 0.66))
    return figure


def entropy() -> Figure:
    """Draw the truncated normal's entropy against log_std, for several locations."""
    figure, axes = plt.subplots(figsize=(6.0, 3.6))
    for loc, color in LOCS.items():
        h = truncated_normal_entropy(torch.full_like(LOG_STD, loc), LOG_STD)
        axes.plot(LOG_STD, h, STYLES[loc], color=color, label=f"loc = {loc:g}")
    axes.plot(LOG_STD, normal_entropy(LOG_STD), color="0.6", label="before truncation")
    axes.axhline(math.log(2.0), color="black", linewidth=0.8)
    axes.annotate("ln 2, the uniform distribution", (-3.9, math.log(2.0) + 0.08), fontsize=9)
    axes.set(xlabel="log_std (log of action units)", ylabel="entropy (nats)", ylim=(-3.0, 1.5))
    axes.legend(loc="lower right")
    return figure


def bias() -> Figure:
    """Draw what truncation takes from the normal's entropy, for several locations."""
    figure, axes = plt.subplots(figsize=(6.0, 3.6))
    inside = torch.linspace(-4.0, 0.0, 81, dtype=torch.float64)
    for loc, color in LOCS.items():
        lost = normal_entropy(inside) - truncated_normal_entropy(
            torch.full_like(inside, loc), inside
        )
        axes.plot(inside, lost, STYLES[loc], color=color, label=f"loc = {loc:g}")
    axes.set(
        xlabel="log_std (log of action units), up to log_std_max = 0",
        ylabel="normal's entropy less\nthe policy's own (nats)",
        ylim=(0.0, 1.05),
    )
    axes.legend(loc="upper center", ncols=4)
    return figure


def floors() -> Figure:
    """Draw the policy's own entropy over states under one floor, held in three ways."""
    figure, axes = plt.subplots(figsize=(6.0, 3.6))
    torch.manual_seed(1)
    dims, asked = 6, 0.25
    states = torch.linspace(-6.0, 6.0, 73)
    network = torch.nn.Sequential(
        torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 2 * dims + 1)
    )
    with torch.no_grad():
        raw = 4.0 * network(states.unsqueeze(-1))
    for label, style, color, options in (
        ("exact floor, slack 0.2", "-.", GREEN, {"slack": 0.2}),
        ("exact floor", "-", BLUE, {}),
        ("Eq. 11", "--", ORANGE, {"floor": "gaussian"}),
    ):
        head = TruncatedGaussianHead(dims, target_entropy=asked * dims, **options)
        loc, log_std = head.params(raw[:, : head.raw_dim])
        axes.plot(
            states, truncated_normal_entropy(loc, log_std).mean(-1), style, color=color, label=label
        )
    axes.axhline(asked, color="black", linewidth=0.8)
    axes.annotate("floor asked for", (-5.9, asked - 0.02), fontsize=9, va="top")
    axes.set(
        xlabel="state (input of a random network)",
        ylabel="policy's own entropy\n(nats per dimension)",
    )
    axes.legend(loc="center right")
    return figure


def shares() -> Figure:
    """Draw how the budget is shared between dimensions, and what slack adds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.0, 3.4))
    raw_log_std = torch.linspace(-6.0, 6.0, 73)
    asked = -1.5
    _draw_shares(left, raw_log_std, asked)
    for slack, style, color in ((0.1, "--", GREEN), (0.3, "-.", ORANGE)):
        head = TruncatedGaussianHead(3, target_entropy=asked, slack=slack)
        raw = torch.zeros(len(raw_log_std), 7)
        raw[:, 6] = raw_log_std
        total = truncated_normal_entropy(*head.params(raw)).sum(-1)
        right.plot(raw_log_std, total, style, color=color, label=f"slack = {slack:g}")
    right.axhline(asked, color="black", linewidth=0.8)
    right.annotate("H0", (5.3, asked + 0.08), fontsize=9)
    right.axhline(3 * math.log(2.0), color="0.6", linewidth=0.8)
    right.annotate("3 ln 2", (-5.9, 3 * math.log(2.0) - 0.3), fontsize=9)
    right.set(xlabel="slack logit", ylabel="entropy, all dimensions (nats)")
    right.legend(loc="center left")
    return figure


def _draw_shares(axes: Axes, raw_log_std: Tensor, asked: float) -> None:
    head = TruncatedGaussianHead(3, target_entropy=asked)
    raw = torch.zeros(len(raw_log_std), 6)
    raw[:, 3] = raw_log_std
    h = truncated_normal_entropy(*head.params(raw))
    axes.plot(raw_log_std, h[:, 0], color=BLUE, label="dimension 1")
    axes.plot(raw_log_std, h[:, 1], "--", color=ORANGE, label="dimensions 2 and 3, each")
    axes.plot(raw_log_std, h.sum(-1), color="black", linewidth=0.8, label="sum = H0")
    axes.set(xlabel="raw_log_std of dimension 1, others 0", ylabel="entropy (nats)")
    axes.legend(loc="lower left", fontsize=9)


def softmax() -> Figure:
    """Draw the largest probability out of softmax_era against the one that goes in."""
    figure, axes = plt.subplots(figsize=(6.0, 3.8))
    classes = 10
    before = torch.linspace(1.0 / classes, 0.9999, 100, dtype=torch.float64)
    logits = torch.zeros(len(before), classes, dtype=torch.float64)
    logits[:, 0] = (before * (classes - 1) / (1.0 - before)).log()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, label="plain softmax")
    for method, style, color in (
        ("temperature", "-", BLUE),
        ("lambert", "--", ORANGE),
        ("paper", ":", GREEN),
    ):
        out = softmax_era(logits, target_entropy=0.6, method=method).softmax(-1)
        axes.plot(before, out[:, 0], style, color=color, label=f'"{method}"')
    axes.set(
        xlabel="probability of the first class before",
        ylabel="and after softmax_era",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axes.legend(loc="upper left")
    return figure


def draw(folder: Path, suffix: str = "svg") -> None:
    """Write every figure into a folder; the same bytes for the same versions."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"svg.hashsalt": "era-rl", "svg.fonttype": "path", "font.size": 10})
    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})
    plt.rcParams.update({"legend.frameon": False, "figure.constrained_layout.use": True})
    for plot in (training, entropy, bias, floors, shares, softmax):
        figure = plot()
        metadata = {"Date": None, "Creator": None} if suffix == "svg" else None
        figure.savefig(folder / f"{plot.__name__}.{suffix}", metadata=metadata, dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
