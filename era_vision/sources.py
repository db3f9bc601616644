"""Where images come from: packages and folders on this machine, nothing is downloaded."""

import gzip
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100, SVHN, FashionMNIST, ImageFolder
from torchvision.transforms import v2

from era_rl.runs.folder import in_one_piece
from era_vision.augment import Views, policy_transform
from era_vision.config import Config
from era_vision.data import Data, Images
from era_vision.models import Statistics, pretrained_statistics

_IMAGENET_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where the package dataset-fashion-mnist of Debian and Ubuntu puts it."""
_TRAIN_AND_TEST = ({"train": True}, {"train": False})


def load_data(config: Config) -> Data:
    """Return the data set that ``config.data`` names, ``config.limit`` images of each part if given.

    It is normalised as pretrained weights were, if there are some, else by its own statistics or
    ImageNet's, for folders.

    Raises:
        ValueError: If the name is unknown or the classes of training and test set differ.
        FileNotFoundError: If it is not on this machine; the message says how to get it.
    """
    if config.data.startswith("imagefolder:"):
        folder = Path(config.data.removeprefix("imagefolder:")).expanduser()
        data = _image_folder(folder, config)
    elif config.data in _IN_MEMORY:
        train, test, classes = _IN_MEMORY[config.data](Path(config.root).expanduser(), config)
        data = Data(train, test, classes, *_statistics(train.images), train.images.shape[-1])
    else:
        known = ", ".join((*_IN_MEMORY, "imagefolder:DIR"))
        raise ValueError(f"data={config.data!r} must be one of {known}")
    if config.pretrained:
        mean, std = pretrained_statistics(config.model, config.pretrained)
        data = replace(data, mean=mean, std=std)
    return data.limited(config.limit)


_Loaded = tuple[Images, Images, tuple[str, ...]]


def _digits(root: Path, config: Config) -> _Loaded:
    digits: Any = load_digits()
    labels = torch.as_tensor(digits.target)
    # the pixels are 0..16
    whole = Images(torch.as_tensor(15 * digits.images).to(torch.uint8).unsqueeze(1), labels)
    parts: Any = train_test_split(
        range(len(labels)), test_size=0.25, stratify=labels, random_state=0
    )
    train, test = (Images(*whole[part]) for part in parts)
    return train, test, tuple("0123456789")


def _fashion_mnist(root: Path, config: Config) -> _Loaded:
    raw = root / FashionMNIST.__name__ / "raw"
    for packed in _DEBIAN_FASHION_MNIST.glob("*-ubyte.gz"):
        if not (raw / packed.stem).exists():
            with in_one_piece(raw / packed.stem) as part:
                part.write_bytes(gzip.decompress(packed.read_bytes()))
    return _torchvision(FashionMNIST, _TRAIN_AND_TEST, root, config)


def _torchvision(
    kind: Any, parts: tuple[dict[str, Any], ...], root: Path, config: Config
) -> _Loaded:
    try:
        train, test = (kind(str(root), **part) for part in parts)
    except RuntimeError as error:
        name, wanted = kind.__name__, ", ".join(f"{k}={v!r}" for k, v in parts[1].items())
        raise FileNotFoundError(
            f"{config.data}: none in {root}, or a damaged one. Get it with torchvision.datasets."
            f"{name}({str(root)!r}, download=True), and the same with {wanted}"
        ) from error
    return _images(train), _images(test), tuple(getattr(train, "classes", "0123456789"))


def _images(part: Any) -> Images:
    pixels = torch.as_tensor(part.data)
    pixels = pixels.unsqueeze(-1) if pixels.dim() == 3 else pixels
    # SVHN has the channels second, as torch has, and calls its targets labels
    pixels = pixels if pixels.shape[1] == 3 else pixels.permute(0, 3, 1, 2)
    labels = part.targets if hasattr(part, "targets") else part.labels
    return Images(pixels.contiguous(), torch.as_tensor(labels))


def _fake(root: Path, config: Config) -> _Loaded:
    """Noise with random labels: for measuring speed."""
    generator, size = torch.Generator().manual_seed(0), config.image_size or 32
    images = torch.randint(0, 256, (640, 3, size, size), generator=generator).byte()
    whole = Images(images, torch.randint(0, 10, (640,), generator=generator))
    train, test = (Images(*whole[list(part)]) for part in (range(512), range(512, 640)))
    return train, test, tuple("0123456789")


_IN_MEMORY: dict[str, Callable[[Path, Config], _Loaded]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "cifar10": partial(_torchvision, CIFAR10, _TRAIN_AND_TEST),
    "cifar100": partial(_torchvision, CIFAR100, _TRAIN_AND_TEST),
    "svhn": partial(_torchvision, SVHN, ({"split": "train"}, {"split": "test"})),
    "fake": _fake,
}


def _image_folder(root: Path, config: Config) -> Data:
    test_name = "val" if (root / "val").is_dir() else "test"
    for name in ("train", test_name):
        if not (root / name).is_dir():
            raise FileNotFoundError(
                f"imagefolder: no {root / name}; the layout is DIR/train/CLASS/*.jpg and"
                " DIR/val/CLASS/*.jpg"
            )
    size = config.image_size or 224
    fit = [v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)]
    crop = [v2.RandomResizedCrop(size, antialias=True)] if config.crop else fit
    flip = [v2.RandomHorizontalFlip()] if config.flip else []
    views = Views(v2.Compose([v2.ToImage(), *crop, *flip]), policy_transform(config), config.views)
    plain = v2.Compose([v2.ToImage(), *fit, v2.ToPureTensor()])
    train, test = (
        ImageFolder(str(root / name), transform, loader=read_image)
        for name, transform in (("train", views), (test_name, plain))
    )
    if train.classes != test.classes:
        raise ValueError(
            f"imagefolder: {len(train.classes)} classes in {root / 'train'},"
            f" {len(test.classes)} in {root / test_name}; they differ in"
            f" {sorted(set(train.classes) ^ set(test.classes))[:10]}"
        )
    return Data(train, test, tuple(train.classes), *_IMAGENET_STATS, size)


def read_image(path: str) -> Image.Image:
    """Return an image file as RGB; 16-bit greys become 8-bit ones, which Pillow alone makes white.

    Raises:
        ValueError: If the file has 32-bit pixels, whose range nothing tells, or is damaged.
    """
    try:
        with Image.open(path) as image:
            # of a PGM file Pillow scales what has more than 8 bits to 16
            if image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PPM"):
                return Image.fromarray((np.array(image) // 257).astype(np.uint8)).convert("RGB")
            if image.mode not in ("I", "F"):
                return image.convert("RGB")
    except Exception as error:  # Pillow's readers raise OSError, ValueError, SyntaxError and more
        raise ValueError(f"imagefolder: {path} is damaged or no image: {error}") from error
    raise ValueError(
        f"imagefolder: {path} has 32-bit pixels of unknown range: convert it to 8 or 16 bits"
    )


def _statistics(images: Tensor) -> Statistics:
    """Return those of images, for three channels."""
    pixels = images[:: max(1, len(images) // 10_000)].transpose(0, 1).flatten(1).float() / 255.0
    mean, std = pixels.mean(1).expand(3), pixels.std(1).clamp_min(1e-3).expand(3)
    return tuple(mean.tolist()), tuple(std.tolist())
