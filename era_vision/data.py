"""Data sets, in memory as uint8 on the training device or read from a folder, and their batches."""

import sys
from dataclasses import dataclass, replace
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, Subset
from torchvision.datasets import ImageFolder


@dataclass(frozen=True)
class Images:
    """Labelled images in memory; indexed by a list, it gives a batch.

    Attributes:
        images: uint8, shape (N, 1 or 3, H, W).
        labels: int64, shape (N,), each in [0, number of classes): one class an image.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}, not uint8 of"
                " shape (N, 1 or 3, H, W)"
            )
        check_labels(self.labels)
        if self.images.shape[1] not in (1, 3) or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"images of shape {tuple(self.images.shape)} with labels of shape"
                f" {tuple(self.labels.shape)}, not (N, 1 or 3, H, W) with (N,)"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        chosen = torch.as_tensor(indices, device=self.labels.device)
        return self.images[chosen].expand(-1, 3, -1, -1), self.labels[chosen]


@dataclass(frozen=True)
class Data:
    """A training and a test set, the names of the classes, and the statistics to normalise with."""

    train: Images | ImageFolder | Subset[Any]
    test: Images | ImageFolder | Subset[Any]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    def __post_init__(self) -> None:
        known = len(self.classes)
        for name, part in (("train", self.train), ("test", self.test)):
            if isinstance(part, Images) and not 0 <= part.labels.min() <= part.labels.max() < known:
                raise ValueError(
                    f"{name} has labels from {part.labels.min()} to {part.labels.max()}, but there are"
                    f" {known} classes"
                )

    def limited(self, limit: int) -> "Data":
        """Return the data with ``limit`` images of each part, always the same ones; 0 is all."""
        return replace(self, train=_some(self.train, limit), test=_some(self.test, limit))

    def to(self, device: torch.device | str) -> "Data":
        """Return the data with what is in memory on a device."""

        def moved(part: Any) -> Any:
            here = isinstance(part, Images)
            return Images(part.images.to(device), part.labels.to(device)) if here else part

        return replace(self, train=moved(self.train), test=moved(self.test))


def check_labels(labels: Tensor) -> None:
    """Raise ValueError for labels that give an image not one class but several, or shares of them."""
    if labels.dim() != 1 or labels.is_floating_point():
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}, not integers of shape (N,): the"
            " floor is that of a softmax, one class an image; multi-label losses need a sigmoid a class"
        )


def training_order(
    length: int, batch_size: int, *, shuffle: bool = True, seed: int = 0, rank: int = 0, world: int = 1
) -> BatchSampler:  # fmt: skip
    """Return this process's share of every whole global batch: batches do not depend on the processes.

    ``.sampler.set_epoch`` draws a new order, from ``seed`` and the epoch alone.

    Raises:
        ValueError: If batch_size is above length, or no multiple of ``world``, the number of processes.
    """
    if batch_size > length or batch_size % world:
        raise ValueError(
            f"batch_size={batch_size} must be at most {length}, the number of training images,"
            f" and a multiple of {world}, the number of processes"
        )
    # torch adds the epoch to the seed: far apart, runs of two seeds share no order
    share: Any = {"num_replicas": world, "rank": rank, "seed": 100_003 * seed, "drop_last": True}
    order = DistributedSampler(range(length), shuffle=shuffle, **share)  # pyright: ignore[reportArgumentType]
    return BatchSampler(order, batch_size // world, drop_last=True)


def evaluation_order(
    length: int, batch_size: int, *, rank: int = 0, world: int = 1
) -> BatchSampler:
    """Return this process's share of a test set: every image is in one batch of one process."""
    return BatchSampler(range(rank, length, world), batch_size, drop_last=False)


def loader(
    dataset: Images | ImageFolder | Subset[Any], batches: BatchSampler, workers: int = 0
) -> DataLoader[Any]:
    """Return the loader of a data set's batches: indexed at once in memory, else by workers.

    The workers start anew with every epoch, seeded by it, so that a resumed run draws the same. They
    are no forks of this process, whose threads would leave them waiting for locks that nobody holds.

    Raises:
        ValueError: For workers in a program on standard input, which they could not import.
    """
    if isinstance(dataset, Images):
        return DataLoader(dataset, sampler=batches, batch_size=None)  # pyright: ignore[reportArgumentType]
    main: Any = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if workers and main.__spec__ is None and file and not Path(file).exists():
        raise ValueError(f"workers={workers} must be 0 in {file}, which is no file: they import it")
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload(["era_vision.sources"])  # once, not in every worker
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        multiprocessing_context=context if workers else None,
        pin_memory=torch.cuda.is_available(),
    )


def _some(part: Any, limit: int) -> Any:
    if not 0 < limit < len(part):
        return part
    chosen = torch.randperm(len(part), generator=torch.Generator().manual_seed(0))[:limit].tolist()
    return Images(*part[chosen]) if isinstance(part, Images) else Subset(part, chosen)
