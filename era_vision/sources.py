"""Where images come from: packages and folders on this machine, nothing is downloaded."""

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision.datasets import CIFAR10, ImageFolder
from torchvision.transforms import v2

from era_vision.augment import Views, policy_transform
from era_vision.config import Config
from era_vision.data import Data, Images

_IMAGENET_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def load_data(config: Config) -> Data:
    """Return the data set that ``config.data`` names.

    Raises:
        ValueError: If the name is unknown or the classes of training and test set differ.
        FileNotFoundError: If it is not on this machine; the message says how to get it.
    """
    if config.data.startswith("imagefolder:"):
        return _image_folder(Path(config.data.removeprefix("imagefolder:")).expanduser(), config)
    if config.data not in _IN_MEMORY:
        known = ", ".join((*_IN_MEMORY, "imagefolder:DIR"))
        raise ValueError(f"data={config.data!r} must be one of {known}")
    train, test, classes = _IN_MEMORY[config.data](Path(config.root).expanduser(), config)
    mean, std = _statistics(train.images)
    return Data(train, test, classes, mean, std, train.images.shape[-1])


_Loaded = tuple[Images, Images, tuple[str, ...]]


def _digits(root: Path, config: Config) -> _Loaded:
    digits: Any = load_digits()
    parts = train_test_split(
        digits.images, digits.target, test_size=0.25, stratify=digits.target, random_state=0
    )
    train_images, test_images, train_labels, test_labels = map(torch.as_tensor, parts)
    # the pixels are 0..16
    train, test = ((15 * x).to(torch.uint8).unsqueeze(1) for x in (train_images, test_images))
    return Images(train, train_labels), Images(test, test_labels), tuple("0123456789")


def _fashion_mnist(root: Path, config: Config) -> _Loaded:
    folders = (root / "FashionMNIST" / "raw", root, _DEBIAN_FASHION_MNIST)

    def read(name: str, offset: int) -> Tensor:
        for path in (folder / f"{name}{end}" for folder in folders for end in ("", ".gz")):
            if path.is_file():
                content = path.read_bytes()
                content = gzip.decompress(content) if path.suffix == ".gz" else content
                return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=offset)
        raise FileNotFoundError(
            f"fashion-mnist: no {name}(.gz) in {', '.join(map(str, folders))}. On Debian and Ubuntu:"
            f" apt-get install dataset-fashion-mnist. Elsewhere: torchvision.datasets.FashionMNIST"
            f"({str(root)!r}, download=True)"
        )

    def part(name: str) -> Images:
        # the IDX format: a header of 16 bytes before images, of 8 before labels
        images = read(f"{name}-images-idx3-ubyte", 16).view(-1, 1, 28, 28)
        return Images(images, read(f"{name}-labels-idx1-ubyte", 8).long())

    names = "T-shirt,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    return part("train"), part("t10k"), tuple(names.split(","))


def _emoji(root: Path, config: Config) -> _Loaded:
    name = "emoji-datasource-google"
    folders = (root / name, root / "node_modules" / name, Path("node_modules") / name)
    folder = next((f for f in folders if (f / "emoji.json").is_file()), None)
    if folder is None:
        raise FileNotFoundError(
            f"emoji: no {name} in {', '.join(map(str, folders))}. Get it with"
            f" npm install --prefix {root} {name}@16.0.0"
        )
    entries = json.loads((folder / "emoji.json").read_text())
    entries = [e for e in entries if e["has_img_google"] and e["category"] != "Component"]
    classes = tuple(sorted({e["category"] for e in entries}))
    parts: tuple[list[Any], list[Any]] = ([], [])
    for entry in entries:
        # the skin tones of an emoji stay on one side of the split, or the test set leaks
        side = zlib.crc32(entry["unified"].encode()) % 5 == 0
        variants = [v for v in entry.get("skin_variations", {}).values() if v["has_img_google"]]
        for image in (entry, *variants):
            path = folder / "img" / "google" / "64" / image["image"]
            parts[side].append((_on_white(path, config.image_size), entry["category"]))
    train, test = (
        Images(torch.stack([i for i, _ in p]), torch.tensor([classes.index(c) for _, c in p]))
        for p in parts
    )
    return train, test, classes


def _on_white(path: Path, size: int | None) -> Tensor:
    image = Image.open(path).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image = image.resize((size, size)) if size else image
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _cifar10(root: Path, config: Config) -> _Loaded:
    try:
        parts = [CIFAR10(str(root), train=train) for train in (True, False)]
    except RuntimeError as error:
        raise FileNotFoundError(
            f"cifar10: no cifar-10-batches-py in {root}, or a damaged one. Get it with"
            f" torchvision.datasets.CIFAR10({str(root)!r}, download=True)"
        ) from error
    train, test = (
        Images(torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(p.targets))
        for p in parts
    )
    return train, test, tuple(parts[0].classes)


def _fake(root: Path, config: Config) -> _Loaded:
    """Noise with random labels: for measuring speed."""
    generator = torch.Generator().manual_seed(0)
    size = config.image_size or 32

    def part(length: int) -> Images:
        images = torch.randint(0, 256, (length, 3, size, size), generator=generator)
        return Images(images.byte(), torch.randint(0, 10, (length,), generator=generator))

    return part(512), part(128), tuple("0123456789")


_IN_MEMORY: dict[str, Callable[[Path, Config], _Loaded]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "emoji": _emoji,
    "cifar10": _cifar10,
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
    decode = [v2.ToImage(), v2.RGB()]
    fit = [v2.Resize(round(size * 256 / 224), antialias=True), v2.CenterCrop(size)]
    crop = [v2.RandomResizedCrop(size, antialias=True)] if config.crop else fit
    flip = [v2.RandomHorizontalFlip()] if config.flip else []
    views = Views(v2.Compose(decode + crop + flip), policy_transform(config.policy), config.views)
    train = ImageFolder(str(root / "train"), views)
    test = ImageFolder(str(root / test_name), v2.Compose([*decode, *fit, v2.ToPureTensor()]))
    if train.classes != test.classes:
        raise ValueError(
            f"imagefolder: {len(train.classes)} classes in {root / 'train'},"
            f" {len(test.classes)} in {root / test_name}; they differ in"
            f" {sorted(set(train.classes) ^ set(test.classes))[:10]}"
        )
    return Data(train, test, tuple(train.classes), *_IMAGENET_STATS, size)


def _statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation a channel, of pixels in [0, 1], for three channels."""
    pixels = images[:: max(1, len(images) // 10_000)].transpose(0, 1).flatten(1).float() / 255.0
    mean, std = pixels.mean(1).expand(3), pixels.std(1).clamp_min(1e-3).expand(3)
    return tuple(mean.tolist()), tuple(std.tolist())
