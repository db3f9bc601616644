"""Torchvision classifiers by name, fitted to the number of classes and the size of the images."""

import math
from functools import partial
from typing import Any

import torchvision.models
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.resnet import BasicBlock

from era_vision.config import Norm, Stem
from era_vision.head import last_layer

_AUXILIARY = ("googlenet", "inception_v3")
"""Models with more than one output in training unless aux_logits=False."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of up to 8 groups: its result does not depend on the rest of the batch."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def build_model(
    name: str,
    num_classes: int,
    *,
    stem: Stem = "imagenet",
    norm: Norm = "batch",
    dropout: float = 0.0,
    pretrained: str | None = None,
) -> nn.Module:
    """Return a classifier of images (B, 3, H, W) with logits (B, num_classes).

    Args:
        name: "resnet8", or any of ``list_models(torchvision.models)``.
        num_classes: Number of classes.
        stem: "cifar" gives a ResNet a first layer of 3x3 and stride 1, without pooling.
        norm: "batch", "sync" or "group"; group norm for models that take a ``norm_layer``.
        dropout: Probability of dropping features before the last layer.
        pretrained: Torchvision weights, such as "DEFAULT"; the last layer is then a new one.

    Raises:
        ValueError: If the name is unknown or the model does not have what is asked of it.
    """
    options: dict[str, Any] = {"norm_layer": group_norm} if norm == "group" else {}
    if name in _AUXILIARY:
        options |= {"aux_logits": False, **({} if pretrained else {"init_weights": True})}
    if name == "resnet8":
        if pretrained:
            raise ValueError(f"pretrained={pretrained!r}: resnet8 has no pretrained weights")
        model = resnet8(num_classes, **options)
    elif name not in list_models(torchvision.models):
        raise ValueError(
            f"model={name!r} is neither resnet8 nor one of torchvision's: {_near(name)}"
        )
    elif pretrained:
        _check_weights(name, pretrained)
        model = _get_model(name, norm, weights=pretrained, **options)
        _new_last_layer(model, num_classes)
    else:
        model = _get_model(name, norm, num_classes=num_classes, **options)
    if stem == "cifar":
        _use_cifar_stem(model, name)
    if dropout:
        # a hook, not a layer: the names in the state_dict stay torchvision's
        last_layer(model)[1].register_forward_pre_hook(partial(_drop_inputs, p=dropout))
    return model


def resnet8(num_classes: int, *, width: int = 16, norm_layer: Any = nn.BatchNorm2d) -> nn.Module:
    """Return a ResNet of three basic blocks of width, 2 width and 4 width, for small images.

    80,000 parameters at width 16: it trains on a CPU.

    Args:
        num_classes: Number of classes.
        width: Channels of the first block.
        norm_layer: Normalisation, called with a number of channels.
    """

    def block(inputs: int, outputs: int, stride: int) -> BasicBlock:
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        shortcut = nn.Sequential(conv, norm_layer(outputs)) if stride > 1 else None
        return BasicBlock(inputs, outputs, stride, shortcut, norm_layer=norm_layer)

    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False),
        norm_layer(width),
        nn.ReLU(inplace=True),
        block(width, width, 1),
        block(width, 2 * width, 2),
        block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, num_classes),
    )


def _near(name: str) -> str:
    known = list_models(torchvision.models)
    return ", ".join([m for m in known if m.startswith(name[:4])] or known)


def _check_weights(name: str, pretrained: str) -> None:
    known = get_model_weights(name)
    if pretrained.removeprefix(f"{known.__name__}.") not in known.__members__:
        listed = ", ".join(known.__members__)
        raise ValueError(f"pretrained={pretrained!r} is none of the weights of {name}: {listed}")


def _get_model(name: str, norm: Norm, **options: Any) -> nn.Module:
    try:
        return get_model(name, **options)
    except TypeError as error:
        if norm != "group":
            raise
        raise ValueError(f"norm='group' does not fit model={name!r}: {error}") from error


def _use_cifar_stem(model: nn.Module, name: str) -> None:
    first, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if not isinstance(first, nn.Conv2d) or pool is None:
        raise ValueError(f"stem='cifar' needs a ResNet of torchvision's, not model={name!r}")
    model.add_module("conv1", nn.Conv2d(3, first.out_channels, 3, padding=1, bias=False))
    model.add_module("maxpool", nn.Identity())


def _new_last_layer(model: nn.Module, num_classes: int) -> None:
    name, layer = last_layer(model)
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)
    else:
        new = nn.Conv2d(layer.in_channels, num_classes, kernel_size=1)
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).add_module(child, new)


def _drop_inputs(layer: nn.Module, inputs: tuple[Tensor], *, p: float) -> Tensor:
    return nn.functional.dropout(inputs[0], p, layer.training)
