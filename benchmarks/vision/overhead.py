"""The head's share of a training step: CPU time of forward and backward with and without it.

    python -m benchmarks.vision.overhead

The arms take turns, in a new order every round; a ratio is the median over rounds of (with / without)
within one round, so that drifts of the machine cancel.
"""

import random
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.vision.results import Results
from era_rl.runs.command import Parser
from era_vision import attach_head, build_model

BATCH = 64
CASES = {
    # model, image size, number of classes, rounds
    "resnet8 8x8": ("resnet8", 8, 10, 60),
    "resnet8 28x28": ("resnet8", 28, 10, 20),
    "resnet18 32x32": ("resnet18", 32, 10, 20),
    "resnet18 32x32, 1000 classes": ("resnet18", 32, 1000, 20),
}


def step_seconds(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """Return the CPU seconds of one forward and backward pass."""
    start = time.process_time()
    nn.functional.cross_entropy(model(images), labels).backward()
    return time.process_time() - start


def measure(name: str, size: int, num_classes: int, rounds: int) -> dict[str, object]:
    """Return the step times and ratios of one case."""
    model = build_model(name, num_classes).train()
    arms: dict[str, nn.Module] = {"none": model}
    arms |= {m: attach_head(model, 0.6, method=m) for m in ("lambert", "temperature")}
    images, labels = torch.randn(BATCH, 3, size, size), torch.randint(0, num_classes, (BATCH,))
    times: dict[str, list[float]] = {arm: [] for arm in arms}
    order = random.Random(0)
    for _ in range(rounds + 2):
        for arm in order.sample(list(arms), len(arms)):
            times[arm].append(step_seconds(arms[arm], images, labels))
    # the first two rounds warm up
    times = {arm: seconds[2:] for arm, seconds in times.items()}
    ratios = {
        arm: statistics.median(a / b for a, b in zip(times[arm], times["none"], strict=True))
        for arm in ("lambert", "temperature")
    }
    heads = {arm: [head_seconds(arms[arm], num_classes) for _ in range(30)] for arm in ratios}
    return {
        "ratio": ratios,
        "step_seconds": times,
        "head_share": {
            arm: statistics.median(heads[arm]) / statistics.median(times["none"]) for arm in ratios
        },
    }


def head_seconds(classifier: nn.Module, num_classes: int) -> float:
    """Return the CPU seconds of the head alone, forward and backward."""
    logits = torch.randn(BATCH, num_classes, requires_grad=True)
    start = time.process_time()
    classifier.get_submodule("head")(logits).sum().backward()
    return time.process_time() - start


def main() -> None:
    """Measure every case that is missing."""
    parser = Parser(prog="python -m benchmarks.vision.overhead", description=__doc__)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    torch.set_num_threads(1)
    results = Results("overhead", {"suite": __doc__})
    for case in parser.parse_args().cases:
        name, size, num_classes, rounds = CASES[case]
        config = {"model": name, "size": size, "classes": num_classes, "rounds": rounds}
        config["batch"] = BATCH
        results.complete(case, config, partial(measure, *CASES[case]))


if __name__ == "__main__":
    main()
