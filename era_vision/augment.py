"""Augmentation by torchvision: of decoded images, or of batches, in groups, on their device."""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from era_vision.config import Config


def policy_transform(config: Config) -> nn.Module:
    """Return torchvision's policy of a configuration, of uint8 images; "none" changes nothing."""
    return {
        "none": v2.Identity,
        "randaugment": partial(v2.RandAugment, magnitude=config.magnitude),
        "trivialaugment": v2.TrivialAugmentWide,
        "augmix": v2.AugMix,
    }[config.policy]()


class InGroups(nn.Module):
    """A transform of batches (B, C, H, W) of which random groups of images share a draw.

    Groups are drawn anew for every call, so that each image's distribution is the transform's own, at
    the cost of B / size calls instead of B.

    Args:
        transform: Of images (..., C, H, W), with one draw a call.
        size: Images in a group; 1 draws for every image.
    """

    def __init__(self, transform: nn.Module, size: int) -> None:
        super().__init__()
        self.transform, self.size = transform, size

    def forward(self, images: Tensor) -> Tensor:
        """Return the transformed images, in their order."""
        if isinstance(self.transform, v2.Identity):
            return images
        order = torch.randperm(len(images), device=images.device)
        groups = [self.transform(images[group]) for group in order.split(self.size)]
        return torch.cat(groups)[order.argsort()]


class Views(nn.Module):
    """Several augmented versions of an image or a batch, stacked in front.

    The policy is applied to every view but the first, or to the only one.

    Args:
        base: Random crop and flip; drawn anew for every view.
        policy: The stronger augmentation.
        views: Number of versions.
    """

    def __init__(self, base: nn.Module, policy: nn.Module, views: int) -> None:
        super().__init__()
        self.base, self.policy, self.views = base, policy, views

    def forward(self, images: Tensor) -> Tensor:
        """Return the versions of images (..., C, H, W), shape (views, ..., C, H, W)."""
        first = 1 if self.views > 1 else 0
        versions = [self.base(images) for _ in range(self.views)]
        versions = versions[:first] + [self.policy(version) for version in versions[first:]]
        return torch.stack([version.as_subclass(Tensor) for version in versions])


def batch_views(config: Config, height: int, width: int) -> Views:
    """Return the views of batches in memory: padded crops, flips and the policy, drawn by group."""
    crop = [v2.RandomCrop((height, width), padding=width // 8)] if config.crop else []
    moves = [*crop, v2.RandomHorizontalFlip()] if config.flip else crop
    base = v2.Compose(moves) if moves else v2.Identity()
    policy = InGroups(policy_transform(config), config.group)
    return Views(InGroups(base, config.group), policy, config.views)


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
