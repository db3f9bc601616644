"""Augmentation: crops, flips and erasing of whole batches on their device, policies an image."""

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from era_vision.config import Policy


def policy_transform(policy: Policy) -> nn.Module:
    """Return torchvision's transform of a uint8 image by its name; "none" changes nothing."""
    return {
        "none": v2.Identity,
        "randaugment": v2.RandAugment,
        "trivialaugment": v2.TrivialAugmentWide,
        "augmix": v2.AugMix,
    }[policy]()


class Views:
    """Several augmented versions of an image (C, H, W) as (views, C, H, W).

    The policy is applied to every view but the first, or to the only one.

    Args:
        base: Random crop and flip; drawn anew for every view.
        policy: The stronger augmentation.
        views: Number of versions.
    """

    def __init__(self, base: nn.Module, policy: nn.Module, views: int) -> None:
        self.base, self.policy, self.views = base, policy, views

    def __call__(self, image: Tensor) -> Tensor:
        """Return the versions of an image."""
        first = 1 if self.views > 1 else 0
        versions = [self.base(image) for _ in range(self.views)]
        versions = versions[:first] + [self.policy(version) for version in versions[first:]]
        return torch.stack([version.as_subclass(Tensor) for version in versions])


class BatchAugment:
    """Training images, uint8 (B, C, H, W) or (B, views, C, H, W), to normalised (views B, C, H, W).

    Images without a dimension of views are cropped, flipped and given their policy here. The views
    come one after the other: ``out.unflatten(0, (views, B))`` separates them.
    """

    def __init__(
        self,
        normalise: "Normalise",
        *,
        crop: bool = False,
        flip: bool = False,
        policy: Policy = "none",
        erase: float = 0.0,
        views: int = 1,
    ) -> None:
        self.normalise, self.erase, self.views = normalise, erase, views
        self.crop, self.flip = crop, flip
        self.policy = None if policy == "none" else policy_transform(policy)

    def __call__(self, images: Tensor) -> Tensor:
        """Return the augmented float32 images."""
        if images.dim() == 4:
            images = torch.stack([self._view(images, view) for view in range(self.views)])
        else:
            images = images.transpose(0, 1)
        images = self.normalise(images.flatten(0, 1))
        return random_erase(images, self.erase) if self.erase else images

    def _view(self, images: Tensor, view: int) -> Tensor:
        if self.crop or self.flip:
            padding = images.shape[-1] // 8 if self.crop else 0
            images = random_crop(images, padding=padding, flip=self.flip)
        if self.policy is not None and (view > 0 or self.views == 1):
            images = torch.stack([self.policy(image) for image in images])
        return images


class Normalise(nn.Module):
    """Pixels to zero mean and unit variance, (x - mean) / std; uint8 is first brought to [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return float32 images of the same shape (..., C, H, W)."""
        scaled = images.float() / 255.0 if images.dtype == torch.uint8 else images
        return (scaled - self.mean) / self.std


def random_crop(images: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Return each image shifted by up to ``padding`` pixels, zeros moving in, and perhaps flipped.

    Args:
        images: Shape (B, C, H, W).
        padding: Largest shift, in pixels.
        flip: Mirror every image with probability 1/2.
    """
    batch, _, height, width = images.shape
    device = images.device
    padded = nn.functional.pad(images, [padding] * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch, 1), device=device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    if flip:
        mirrored = torch.rand(batch, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(-1), columns)
    sample = torch.arange(batch, device=device).view(-1, 1, 1)
    # indices around a slice put the channels last
    return padded[sample, :, rows.unsqueeze(-1), columns.unsqueeze(-2)].permute(0, 3, 1, 2)


def random_erase(images: Tensor, probability: float) -> Tensor:
    """Return the images with a random box of each zeroed with the given probability.

    The box has between 2% and a third of the area and an aspect ratio within [0.3, 3.3], like
    torchvision's RandomErasing, which would give a whole batch the same box; it is cut at the edges.

    Args:
        images: Normalised, so that zero is the mean, shape (B, C, H, W).
        probability: Probability of erasing an image's box.
    """
    batch, _, height, width = images.shape
    draws = torch.rand(5, batch, 1, device=images.device)
    area = 0.02 + (1 / 3 - 0.02) * draws[0]
    ratio = torch.exp(torch.empty_like(draws[1]).uniform_(-1.2, 1.2))
    half_height, half_width = (area * ratio).sqrt() / 2, (area / ratio).sqrt() / 2
    rows = (torch.arange(height, device=images.device) + 0.5) / height
    columns = (torch.arange(width, device=images.device) + 0.5) / width
    inside_rows = ((rows - draws[2]).abs() < half_height) & (draws[4] < probability)
    inside = inside_rows.unsqueeze(-1) & ((columns - draws[3]).abs() < half_width).unsqueeze(-2)
    return images.masked_fill(inside.unsqueeze(1), 0.0)
