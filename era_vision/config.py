"""Every setting of a training run, with its check: what the recipes and the command line fill in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from era_rl.runs.settings import Setting, Settings, SettingsError
from era_rl.runs.yaml_files import read_mapping

Method = Literal["lambert", "paper", "temperature"]
Stem = Literal["imagenet", "cifar"]
Norm = Literal["batch", "group", "sync"]
Precision = Literal["no", "bf16", "fp16"]
Policy = Literal["none", "randaugment", "trivialaugment", "augmix"]

_RECIPES = Path(__file__).with_name("recipes")
FIXED_SIZE = ("digits", "fashion-mnist", "cifar10", "cifar100", "svhn")
"""Data sets whose images keep their size."""


def _share(about: str, **rest: Any) -> Setting:
    return Setting(about, low=0.0, high=1.0, **rest)


def _positive(about: str, **rest: Any) -> Setting:
    return Setting(about, low=0.0, **rest)


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """The settings of one run; each is annotated with what it is.

    Raises:
        ValueError: If a value is outside its range, or two settings exclude each other.
    """

    data: Annotated[
        str, Setting("digits, fashion-mnist, cifar10, cifar100, svhn, fake or imagefolder:DIR")
    ] = "digits"
    root: Annotated[str, Setting("folder in which data sets are looked for", free=True)] = "data"
    limit: Annotated[int, _positive("images of each part, for a quick try; 0: all")] = 0
    image_size: Annotated[
        int | None, Setting("side of the images (imagefolder, fake), default 224 / 32", low=1)
    ] = None
    workers: Annotated[
        int, _positive("processes that decode images (imagefolder); scripts need a main guard")
    ] = 0
    model: Annotated[
        str, Setting("resnet8 (narrow, for small images), a torchvision classifier or timm/NAME")
    ] = "resnet8"
    pretrained: Annotated[
        str | None,
        Setting("weights such as DEFAULT (timm: a tag), and their normalisation; last layer new"),
    ] = None
    freeze: Annotated[bool, Setting("train the last layer alone (linear probe)")] = False
    stem: Annotated[Stem, Setting("cifar: a 3x3 first layer of stride 1, no pooling")] = "imagenet"
    norm: Annotated[Norm, Setting("batch, sync (over processes) or group")] = "batch"
    dropout: Annotated[float, _share("probability of dropping the last layer's features")] = 0.0
    head: Annotated[Literal["era", "none"], Setting("era, or none for the plain softmax")] = "era"
    target_entropy: Annotated[float, Setting("H0, the entropy floor in nats")] = 0.6
    method: Annotated[Method, Setting("lambert, paper or temperature")] = "lambert"
    tau: Annotated[float, Setting("the paper's constant of the softmax activation")] = 4.0
    epochs: Annotated[int, Setting("passes over the training set", low=1, free=True)] = 12
    batch_size: Annotated[int, Setting("images a step, over all processes", low=1)] = 64
    accumulate: Annotated[
        int, Setting("parts in which a step's images pass the model, to save memory", low=1)
    ] = 1
    shuffle: Annotated[bool, Setting("a new order in every epoch")] = True
    optimizer: Annotated[Literal["sgd", "adamw"], Setting("sgd (Nesterov) or adamw")] = "sgd"
    lr: Annotated[
        float, _positive("peak learning rate: linear warm-up, then half a cosine to zero")
    ] = 0.05
    warmup_epochs: Annotated[float, _positive("epochs of warm-up")] = 1.0
    momentum: Annotated[float, _share("momentum of sgd")] = 0.9
    weight_decay: Annotated[float, _positive("weight decay, of matrices and kernels alone")] = 5e-4
    clip: Annotated[float, _positive("largest gradient norm; 0: no clipping")] = 0.0
    smoothing: Annotated[float, _share("label smoothing")] = 0.0
    crop: Annotated[
        bool, Setting("random crops: 1/8 of padding, or resized crops (imagefolder)")
    ] = False
    flip: Annotated[bool, Setting("random horizontal flips")] = False
    policy: Annotated[Policy, Setting("none, randaugment, trivialaugment or augmix")] = "none"
    magnitude: Annotated[int, Setting("strength of randaugment", low=0, high=30)] = 9
    group: Annotated[
        int, Setting("images of a batch in memory that share a draw of the augmentation", low=1)
    ] = 8
    erase: Annotated[float, _share("probability of erasing a random box")] = 0.0
    mixup: Annotated[float, _positive("alpha of MixUp; with cutmix, one is drawn a batch")] = 0.0
    cutmix: Annotated[float, _positive("alpha of CutMix")] = 0.0
    views: Annotated[
        int, Setting("augmented copies an image; the policy spares the first of several", low=1)
    ] = 1
    jsd: Annotated[float, _positive("weight of the Jensen-Shannon divergence of the views")] = 0.0
    ema: Annotated[
        float, _share("decay of averaged weights, which are the ones saved; 0: none")
    ] = 0.0
    precision: Annotated[Precision, Setting("autocast: no, bf16 or fp16")] = "no"
    channels_last: Annotated[bool, Setting("channels-last memory format")] = False
    compile: Annotated[bool, Setting("torch.compile the model", free=True)] = False
    device: Annotated[
        str, Setting("torch device, auto for CUDA where there is one", free=True, was="cpu")
    ] = "auto"
    seed: Annotated[
        int, Setting("seed of weights, order and augmentation", low=0, high=2**32 - 1)
    ] = 0
    out: Annotated[
        str, Setting("folder for checkpoints, metrics.csv and TensorBoard", free=True)
    ] = "runs/vision"
    resume: Annotated[bool, Setting("go on from OUT/last.pt if there is one", free=True)] = False
    progress: Annotated[bool, Setting("a line an epoch, and on a terminal a bar", free=True)] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and self.data in FIXED_SIZE:
            raise SettingsError(
                f"image_size={self.image_size} has no effect on data={self.data!r}, whose images keep"
                " their size"
            )
        if self.jsd and self.views < 2:
            raise SettingsError(f"jsd={self.jsd} needs views of at least 2, not {self.views}")
        if self.views > 1 and (self.mixup or self.cutmix):
            raise SettingsError(
                f"views={self.views} excludes mixup={self.mixup}, cutmix={self.cutmix}"
            )
        if self.magnitude != 9 and self.policy != "randaugment":
            raise SettingsError(
                f"magnitude={self.magnitude} has no effect on policy={self.policy!r}"
            )


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> dict[str, Any]:
    """Return the settings of a recipe: a name out of :func:`recipe_names`, or a YAML file's path.

    Raises:
        ValueError: If there is no such recipe, or its file is no YAML of settings.
    """
    for path in (_RECIPES / f"{name}.yaml", Path(name)):
        if path.is_file():
            return read_mapping(path)
    raise SettingsError(f"recipe={name!r} is neither a file nor one of {', '.join(recipe_names())}")
