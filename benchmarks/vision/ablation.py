"""The floor H0 in {none, 0.4, 0.6, 0.8} with label smoothing and dropout, on small real images.

    python -m benchmarks.vision.ablation --data digits fashion-mnist --seeds 0 1 2

A narrow ResNet on digits (all of it) and on 1,000 images of Fashion-MNIST at 14x14, tested on 2,000:
what one CPU core does in ten minutes. Runs that are in the results already are left out.
"""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.vision.mixture import MixtureTrainer
from benchmarks.vision.results import Results, epochs
from era_rl.runs.command import Parser
from era_vision import Config, Data, Images, Trainer, load_data

FLOORS = (None, 0.4, 0.6, 0.8)
REGULARISERS: dict[str, dict[str, float]] = {
    "plain": {},
    "smoothing": {"smoothing": 0.1},
    "dropout": {"dropout": 0.2},
}
EPOCHS = {"digits": 8, "fashion-mnist": 6}


def arms() -> Iterator[tuple[str, dict[str, Any], type[Trainer]]]:
    """Yield the name, settings and trainer of each arm."""
    for regulariser, settings in REGULARISERS.items():
        for floor in FLOORS:
            head = {"head": "none"} if floor is None else {"target_entropy": floor}
            yield f"lambert {floor} {regulariser}", {**settings, **head}, Trainer
    yield "temperature 0.6 plain", {"method": "temperature"}, Trainer
    yield "mixture 0.6 plain", {}, MixtureTrainer


def small(data: Data) -> Data:
    """Return 1,000 training and 2,000 test images at half the resolution; digits unchanged."""
    if data.image_size < 28:
        return data
    train, test = (
        Images(
            nn.functional.avg_pool2d(part.images[:length].float(), 2).round().byte(),
            part.labels[:length],
        )
        for part, length in ((data.train, 1000), (data.test, 2000))
        if isinstance(part, Images)
    )
    return replace(data, train=train, test=test, image_size=14)


def run(kind: type[Trainer], config: Config, data: Data) -> dict[str, Any]:
    """Train without checkpoints and return the final metrics."""
    trainer = kind(config, data)
    start = time.process_time()
    rows = list(epochs(trainer))
    lowest = min(row["train_entropy_min"] for row in rows)
    metrics = {**rows[-1], **trainer.evaluate(), "train_entropy_min": lowest}
    del metrics["images_per_second"]
    return {"metrics": metrics, "cpu_seconds": time.process_time() - start}


def settings_of(config: Config) -> dict[str, Any]:
    """Return the settings of a run that its result depends on: all but the folders."""
    return {k: v for k, v in asdict(config).items() if k not in ("out", "root")}


def main() -> None:
    """Run what is missing of the suite."""
    parser = Parser(prog="python -m benchmarks.vision.ablation", description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--root", default="data")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.data:
        about = {"suite": __doc__, "floors": FLOORS, "regularisers": REGULARISERS}
        results = Results(f"ablation-{name}", about)
        data = small(load_data(Config(data=name, root=options.root)))
        for seed in options.seeds:
            for arm, settings, trainer in arms():
                common = {"data": name, "epochs": EPOCHS[name], "seed": seed, "device": "cpu"}
                config = Config(**common, out=tempfile.gettempdir(), **settings)
                measure = partial(run, trainer, config, data)
                results.complete(f"{arm} seed {seed}", settings_of(config), measure)


if __name__ == "__main__":
    main()
