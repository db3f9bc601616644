"""Confidently wrong samples: which head still lets a classifier change its mind.

    python -m benchmarks.vision.confidence

"gradient": the norm of dCE/dz at logits with one wrong class ahead of nine others by a gap.
"relabel": digits are learned with the plain softmax, then the classes are renamed cyclically, so that
every prediction is confidently wrong, and training goes on with each head; test accuracy per epoch.
"""

import tempfile
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.vision.mixture import MixtureHead, MixtureTrainer
from benchmarks.vision.results import Results, epochs
from era_vision import Config, Data, ERAHead, Images, Trainer, load_data

GAPS = (0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0)
SEEDS = (0, 1, 2)
ARMS: dict[str, tuple[dict[str, Any], type[Trainer]]] = {
    "none": ({"head": "none"}, Trainer),
    "lambert": ({"method": "lambert"}, Trainer),
    "temperature": ({"method": "temperature"}, Trainer),
    "mixture": ({}, MixtureTrainer),
}
LEARN, RELEARN = 6, 4


def gradient_norms(head: nn.Module) -> dict[str, float]:
    """Return |dCE/dz| for each gap, ten classes, the target not the leading class."""
    norms = {}
    for gap in GAPS:
        logits = torch.zeros(1, 10, dtype=torch.float64)
        logits[0, 0] = gap
        logits.requires_grad_()
        nn.functional.cross_entropy(head(logits), torch.tensor([1])).backward()
        assert logits.grad is not None
        norms[str(gap)] = logits.grad.norm().item()
    return norms


def renamed(data: Data) -> Data:
    """Return the data with class c called c + 1."""
    train, test = (
        Images(part.images, (part.labels + 1) % len(data.classes))
        for part in (data.train, data.test)
        if isinstance(part, Images)
    )
    return replace(data, train=train, test=test)


def relabel(data: Data, seed: int, arm: str) -> dict[str, Any]:
    """Return the test accuracy after learning, and after every epoch with the classes renamed."""
    out = tempfile.gettempdir()
    config = Config(epochs=LEARN, seed=seed, head="none", device="cpu", out=out)
    first = Trainer(config, data)
    list(epochs(first))
    settings, kind = ARMS[arm]
    again = replace(config, epochs=RELEARN, lr=0.01, **{"head": "era", **settings})
    second = kind(again, renamed(data))
    second.model.load_state_dict(first.model.state_dict())
    accuracy = [second.evaluate()["top1"]]
    accuracy += [second.evaluate()["top1"] for _ in epochs(second)]
    return {"learned": first.evaluate()["top1"], "relearned": accuracy, "lr": again.lr}


def main() -> None:
    """Run what is missing."""
    torch.set_num_threads(1)
    results = Results("confidence", {"suite": __doc__, "gaps": GAPS, "seeds": SEEDS})
    heads = {
        "none": nn.Identity(),
        "lambert": ERAHead(10, 0.6),
        "temperature": ERAHead(10, 0.6, method="temperature"),
        "mixture": MixtureHead(10, 0.6),
    }
    for name, head in heads.items():
        norms = gradient_norms(head)
        results.complete(f"gradient {name}", {"gaps": GAPS}, partial(dict, norms=norms))
    data = load_data(Config(data="digits"))
    for seed in SEEDS:
        for arm in ARMS:
            config = {"epochs": [LEARN, RELEARN], "seed": seed, **ARMS[arm][0]}
            measure = partial(relabel, data, seed, arm)
            results.complete(f"relabel {arm} seed {seed}", config, measure)


if __name__ == "__main__":
    main()
