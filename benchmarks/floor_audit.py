"""How far below its floor each head's entropy can be pushed: random search, gradient ascent, training.

For every head, the smallest entropy minus floor, in nats over all dimensions, on raw network outputs
drawn at many scales, then on the worst of them after gradient ascent on the shortfall, each evaluated
in float32 as in training and measured in float64. "Visited" is the smallest margin on the states that
the trained policies of the results in ``benchmarks/results`` visited, with the same head, floor and
number of dimensions.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import torch
from torch import Tensor

from benchmarks.measuring import Measurement, Out, run
from benchmarks.results import RESULTS
from era_rl.core import CategoricalHead, Head, TanhGaussianHead, TruncatedGaussianHead
from era_rl.core.activations import SoftmaxMethod
from era_rl.runs.settings import Setting

BATCH, WORST, ASCENT_STEPS = 4_096, 64, 200
PAPER_NATS = 0.25
"""Floor per dimension in the paper's code, of the normal before truncation."""
CATEGORICAL_NATS = 1.0


@dataclass(frozen=True, kw_only=True)
class Audit(Measurement):
    """What is audited."""

    dimensions: Annotated[tuple[int, ...], Setting("action dimensions", low=1)] = (1, 6, 38)
    classes: Annotated[tuple[int, ...], Setting("classes", low=2)] = (10, 1000)
    batches: Annotated[int, Setting("random batches of 4,096", low=1)] = 10
    results: Annotated[Path, Setting("where trained runs are")] = RESULTS
    out: Out = RESULTS / "floor-audit" / "audit.json"


class Case(NamedTuple):
    """A head to audit.

    Attributes:
        head: What the head does.
        floor: H0 in nats.
        size: Action dimensions or classes.
        raw_dim: Number of raw outputs.
        entropy: Entropies, (batch,), of raw outputs, (batch, raw_dim).
        kind: Key of the runs of the results that use such a head, or "".
    """

    head: str
    floor: float
    size: int
    raw_dim: int
    entropy: Callable[[Tensor], Tensor]
    kind: str = ""


def case_of(name: str, size: int, head: Head, kind: str = "") -> Case:
    """Return a head's case: the head in float32, as in training, its entropy in float64."""

    def entropy(raw: Tensor) -> Tensor:
        return head.entropy(tuple(x.double() for x in head.params(raw)))

    return Case(name, head.target_entropy, size, head.raw_dim, entropy, kind)


def continuous_cases(dim: int) -> list[Case]:
    """Return the heads of Gaussian policies with ``dim`` action dimensions."""
    half, paper = -0.5 * dim, PAPER_NATS * dim
    exact = TruncatedGaussianHead(dim, target_entropy=half)
    slack = TruncatedGaussianHead(dim, target_entropy=half, slack=0.2)
    eq11 = TruncatedGaussianHead(dim, target_entropy=paper, floor="gaussian")
    tanh = TanhGaussianHead(dim, target_entropy=paper)
    return [
        case_of("exact floor", dim, exact, "exact"),
        case_of("exact floor, slack", dim, slack, "exact, slack"),
        case_of("Eq. 11, truncated", dim, eq11, "gaussian"),
        case_of("Eq. 11, tanh", dim, tanh, "gaussian, tanh"),
    ]


def categorical_cases(classes: int) -> list[Case]:
    """Return the heads of classifiers and discrete policies."""
    return [
        case_of(
            f"softmax, {method}",
            classes,
            CategoricalHead(classes, target_entropy=CATEGORICAL_NATS, method=method),
        )
        for method in get_args(SoftmaxMethod)
    ]


def audit(case: Case, batches: int) -> dict[str, Any]:
    """Return the smallest margins found by random search and, from its worst, by gradient ascent."""
    generator = torch.Generator().manual_seed(0)
    smallest, raws = float("inf"), []
    for _ in range(batches):
        # of scales from 1e-2 to 1e3
        scale = 10.0 ** torch.empty(BATCH, 1).uniform_(-2.0, 3.0, generator=generator)
        raw = scale * torch.randn(BATCH, case.raw_dim, generator=generator)
        with torch.no_grad():
            entropy = _finite(case.entropy(raw))
        worst = entropy.topk(WORST, largest=False)
        smallest = min(smallest, worst.values[0].item())
        raws.append((worst.values, raw[worst.indices]))
    values, raw = (torch.cat(parts) for parts in zip(*raws, strict=True))
    start = raw[values.topk(WORST, largest=False).indices]
    ascended = min(smallest, ascend(case.entropy, start))
    return {
        "head": case.head,
        "size": case.size,
        "floor": case.floor,
        "kind": case.kind,
        "random": smallest - case.floor,
        "ascent": ascended - case.floor,
    }


def ascend(entropy: Callable[[Tensor], Tensor], raw: Tensor) -> float:
    """Return the smallest entropy met while the raw outputs go down its gradient, by Adam."""
    # at the largest scales tanh and softmax are flat
    raw = torch.cat([raw, raw.clamp(-3.0, 3.0)]).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.05)
    smallest = float("inf")
    for _ in range(ASCENT_STEPS):
        values = _finite(entropy(raw))
        smallest = min(smallest, values.min().item())
        optimizer.zero_grad()
        values.sum().backward()
        optimizer.step()
    return smallest


def _finite(entropy: Tensor) -> Tensor:
    """Return entropies; a minimum would pass over one that is not a number.

    Raises:
        FloatingPointError: If one is not finite.
    """
    if not entropy.isfinite().all():
        raise FloatingPointError("a head gave an entropy that is not finite")
    return entropy


def visited(results: Path) -> dict[str, float]:
    """Return the smallest margin on visited states by :func:`key`, over SACERA's results."""
    margins: dict[str, float] = {}
    for path in sorted(results.glob("*/*.json")):
        run = json.loads(path.read_text())
        if "trace" not in run or not run["config"]["algo"].startswith("sac_era"):
            continue
        trace = run["trace"]
        name = key(kind_of(run["config"]["settings"]), run["action_dim"], trace["floor"][-1])
        margins[name] = min(margins.get(name, float("inf")), *trace["margin_min"])
    return margins


def key(kind: str, size: int, floor: float) -> str:
    """Return the name of a head with so many dimensions or classes and such a floor."""
    return f"{kind}, {size}, {floor:g}"


def kind_of(settings: dict[str, Any]) -> str:
    """Return the kind of head of a run's settings: floor, and what departs from the defaults."""
    parts = [settings.get("floor", "exact")]
    if settings.get("slack"):
        parts.append("slack")
    if settings.get("distribution", "truncated") == "tanh":
        parts.append("tanh")
    return ", ".join(parts)


def measure(settings: Audit) -> dict[str, Any]:
    """Return the smallest margins of every head, on random outputs and on visited states."""
    torch.set_num_threads(1)
    cases = [case for dim in settings.dimensions for case in continuous_cases(dim)]
    cases += [case for classes in settings.classes for case in categorical_cases(classes)]
    margins = visited(settings.results)
    rows = [
        {**audit(c, settings.batches), "visited": margins.get(key(c.kind, c.size, c.floor))}
        for c in cases
    ]
    return {"rows": rows}


if __name__ == "__main__":
    sys.exit(run(Audit, measure))
