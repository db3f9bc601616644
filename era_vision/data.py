"""Data sets, in memory as uint8 on the training device or read from a folder, and their batches."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torchvision.datasets import ImageFolder


@dataclass(frozen=True)
class Images:
    """Labelled images in memory; indexed by a list, it gives a batch.

    Attributes:
        images: uint8, shape (N, 1 or 3, H, W).
        labels: int64, shape (N,), each in [0, number of classes).
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}, not uint8 of"
                " shape (N, 1 or 3, H, W)"
            )
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

    def to(self, device: torch.device) -> "Images":
        """Return the images on a device."""
        return Images(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """A training and a test set, the names of the classes, and the statistics to normalise with."""

    train: Images | ImageFolder
    test: Images | ImageFolder
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int

    def __post_init__(self) -> None:
        for name, part in (("train", self.train), ("test", self.test)):
            if isinstance(part, Images) and not 0 <= part.labels.min() <= part.labels.max() < len(
                self.classes
            ):
                raise ValueError(
                    f"{name} has labels from {part.labels.min()} to {part.labels.max()}, but there are"
                    f" {len(self.classes)} classes"
                )

    def to(self, device: torch.device) -> "Data":
        """Return the data with what is in memory on a device."""
        moved = {
            name: part.to(device)
            for name, part in (("train", self.train), ("test", self.test))
            if isinstance(part, Images)
        }
        return replace(self, **moved)


class Batches(Sampler[list[int]]):
    """This process's share of every global batch, so that batches do not depend on the processes.

    Args:
        length: Number of samples.
        batch_size: Size of the global batch.
        shuffle: Draw a new order for every ``epoch``, from ``seed`` and ``epoch`` alone.
        drop_last: Leave out an incomplete last batch.
        rank: This process.
        world: Number of processes; it must divide batch_size if drop_last.
        seed: Seed of the order.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> None:
        if drop_last and (batch_size > length or batch_size % world):
            raise ValueError(
                f"batch_size={batch_size} must be at most {length}, the number of training images,"
                f" and a multiple of {world}, the number of processes"
            )
        self.length, self.batch_size = length, batch_size
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world, self.seed = rank, world, seed
        self.epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + 100_003 * self.epoch)
            order = torch.randperm(self.length, generator=generator)
        for batch in order.split(self.batch_size)[: len(self)]:
            share = batch[self.rank :: self.world].tolist()
            if share:
                yield share


def loader(dataset: Images | ImageFolder, batches: Batches, workers: int = 0) -> DataLoader[Any]:
    """Return the loader of a data set's batches: indexed at once in memory, else by workers.

    The workers start anew with every epoch, seeded by it, so that a resumed run draws the same.
    """
    if isinstance(dataset, Images):
        return DataLoader(dataset, sampler=batches, batch_size=None)  # pyright: ignore[reportArgumentType]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
    )
