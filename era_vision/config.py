"""Every setting of a training run, with its check: what the recipes and the command line fill in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from era_rl.core.activations import SoftmaxMethod

HeadName = Literal["era", "none"]
Stem = Literal["imagenet", "cifar"]
Norm = Literal["batch", "group", "sync"]
Optimizer = Literal["sgd", "adamw"]
Policy = Literal["none", "randaugment", "trivialaugment", "augmix"]
Precision = Literal["no", "bf16", "fp16"]

FIXED_SIZE = ("digits", "fashion-mnist", "cifar10")
"""Data sets whose images keep their size."""

_RANGES = {
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "workers": (0, math.inf),
    "views": (1, math.inf),
    "jsd": (0.0, math.inf),
    "lr": (0.0, math.inf),
    "momentum": (0.0, 1.0),
    "weight_decay": (0.0, math.inf),
    "warmup_epochs": (0, math.inf),
    "clip": (0.0, math.inf),
    "smoothing": (0.0, 1.0),
    "dropout": (0.0, 1.0),
    "mixup": (0.0, math.inf),
    "cutmix": (0.0, math.inf),
    "erase": (0.0, 1.0),
    "ema": (0.0, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one run; each is annotated with what it is.

    Raises:
        ValueError: If a value is outside its range, or two settings exclude each other.
    """

    data: Annotated[str, "digits, fashion-mnist, emoji, cifar10, fake or imagefolder:DIR"] = (
        "digits"
    )
    root: Annotated[str, "folder in which fashion-mnist, emoji and cifar10 are looked for"] = "data"
    image_size: Annotated[
        int | None, "side of the images (imagefolder, emoji, fake), default 224 / 64 / 32"
    ] = None
    workers: Annotated[int, "processes that decode images (imagefolder)"] = 0
    model: Annotated[str, "resnet8 (narrow, for small images) or a torchvision classifier"] = (
        "resnet8"
    )
    pretrained: Annotated[
        str | None, "torchvision weights such as DEFAULT; the last layer is new"
    ] = None
    stem: Annotated[Stem, "cifar: a 3x3 first layer of stride 1 without pooling"] = "imagenet"
    norm: Annotated[Norm, "batch, sync (over processes) or group"] = "batch"
    dropout: Annotated[float, "probability of dropping features before the last layer"] = 0.0
    head: Annotated[HeadName, "era, or none for the plain softmax"] = "era"
    target_entropy: Annotated[float, "H0, the entropy floor in nats"] = 0.6
    method: Annotated[SoftmaxMethod, "lambert, paper or temperature"] = "lambert"
    tau: Annotated[float, "the paper's constant of the softmax activation"] = 4.0
    epochs: Annotated[int, "passes over the training set"] = 12
    batch_size: Annotated[int, "images a step, over all processes"] = 64
    shuffle: Annotated[bool, "a new order in every epoch"] = True
    optimizer: Annotated[Optimizer, "sgd (Nesterov) or adamw"] = "sgd"
    lr: Annotated[float, "peak learning rate: linear warm-up, then half a cosine to zero"] = 0.05
    warmup_epochs: Annotated[float, "epochs of warm-up"] = 1.0
    momentum: Annotated[float, "momentum of sgd"] = 0.9
    weight_decay: Annotated[float, "weight decay, of matrices and kernels alone"] = 5e-4
    clip: Annotated[float, "largest gradient norm; 0: no clipping"] = 0.0
    smoothing: Annotated[float, "label smoothing"] = 0.0
    crop: Annotated[bool, "random crops: 1/8 of padding, or resized crops (imagefolder)"] = False
    flip: Annotated[bool, "random horizontal flips"] = False
    policy: Annotated[Policy, "none, randaugment, trivialaugment or augmix"] = "none"
    erase: Annotated[float, "probability of erasing a random box"] = 0.0
    mixup: Annotated[float, "alpha of MixUp; with cutmix, one of the two is drawn a batch"] = 0.0
    cutmix: Annotated[float, "alpha of CutMix"] = 0.0
    views: Annotated[
        int, "augmented copies an image; the policy spares the first if there are more"
    ] = 1
    jsd: Annotated[float, "weight of the Jensen-Shannon divergence between the views"] = 0.0
    ema: Annotated[
        float, "decay of averaged weights, which are then the ones evaluated; 0: none"
    ] = 0.0
    precision: Annotated[Precision, "autocast: no, bf16 or fp16"] = "no"
    channels_last: Annotated[bool, "channels-last memory format"] = False
    compile: Annotated[bool, "torch.compile the model"] = False
    cpu: Annotated[bool, "stay on the CPU"] = False
    seed: Annotated[int, "seed of weights, order and augmentation"] = 0
    out: Annotated[str, "folder for checkpoints, metrics.csv and TensorBoard"] = "runs/vision"
    resume: Annotated[bool, "go on from OUT/last.pt if there is one"] = False
    progress: Annotated[bool, "show a progress bar on a terminal"] = True

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Config).items():
            _check_type(name, kind, getattr(self, name))
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}={value} must be in [{low}, {high}]")
        if self.image_size is not None and self.data in FIXED_SIZE:
            raise ValueError(
                f"image_size={self.image_size} has no effect on data={self.data!r}, whose images keep"
                " their size"
            )
        if self.jsd and self.views < 2:
            raise ValueError(f"jsd={self.jsd} needs views of at least 2, not {self.views}")
        if self.views > 1 and (self.mixup or self.cutmix):
            raise ValueError(
                f"views={self.views} excludes mixup={self.mixup}, cutmix={self.cutmix}"
            )


def _check_type(name: str, kind: Any, value: Any) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name}={value!r} must be one of {get_args(kind)}")
        return
    kinds = get_args(kind) or (kind,)
    allowed = (*kinds, int) if float in kinds else kinds
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
        words = " or ".join("null" if k is NoneType else k.__name__ for k in kinds)
        hint = " (YAML takes 1e-3 for a text: write 1.0e-3)" if isinstance(value, str) else ""
        raise ValueError(f"{name}={value!r} must be {words}{hint}")


def config_from(settings: Mapping[str, Any]) -> Config:
    """Return the Config of a mapping; ValueError names settings that do not exist."""
    unknown = set(settings) - {option.name for option in fields(Config)}
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(sorted(unknown))}")
    return Config(**settings)


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package."""
    folder = resources.files("era_vision") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir())


def load_recipe(name: str) -> dict[str, Any]:
    """Return the settings of a recipe: a name out of :func:`recipe_names`, or a YAML file's path.

    Raises:
        ValueError: If there is no such recipe, or its file is no YAML of settings.
    """
    entry = resources.files("era_vision") / "recipes" / f"{name}.yaml"
    source = entry if entry.is_file() else Path(name)
    if not source.is_file():
        raise ValueError(
            f"recipe={name!r} is neither a file nor one of {', '.join(recipe_names())}"
        )
    try:
        settings = yaml.safe_load(source.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe={name!r} is no YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"recipe={name!r} must map settings to values, not {settings!r:.80}")
    return settings
