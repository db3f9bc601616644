"""Classifiers of torchvision and timm by name, fitted to the classes and the size of the images."""

import math
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torchvision.models
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights, list_models
from torchvision.models.resnet import BasicBlock

from era_rl.runs.settings import check_names
from era_vision.config import Config, Norm, Stem
from era_vision.head import ERAHead, last_layer

_AUXILIARY = ("googlenet", "inception_v3")
"""Models with more than one output in training unless aux_logits=False."""
_SIZED = {"vit": "image_size", "maxvit": "input_size"}
"""What the models that are made for one size of images call it, by the first word of their names."""

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation a channel, of pixels in [0, 1]."""


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a GroupNorm of up to 8 groups: its result does not depend on the rest of the batch."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


def build_model(
    name: str, num_classes: int, *, stem: Stem = "imagenet", norm: Norm = "batch",
    dropout: float = 0.0, pretrained: str | None = None, image_size: int | None = None,
) -> nn.Module:  # fmt: skip
    """Return a classifier of images (B, 3, H, W) with logits (B, num_classes).

    Args:
        name: "resnet8", any of ``list_models(torchvision.models)``, or "timm/" and a name of timm's.
        num_classes: Number of classes.
        stem: "cifar" gives a ResNet a first layer of 3x3 and stride 1, without pooling.
        norm: "batch", "sync" or "group"; group norm for models that take a ``norm_layer``.
        dropout: Probability of dropping features before the last layer.
        pretrained: Torchvision weights, such as "DEFAULT", or a tag of timm's; the last layer is then
            a new one.
        image_size: Height and width, for models made for one size, such as ViT; None is their default.

    Raises:
        ValueError: If the name is unknown or the model does not have what is asked of it.
    """
    options = _options(name, norm, pretrained, image_size)
    if name == "resnet8" and not pretrained:
        model = resnet8(num_classes, **options)
    elif name.startswith("timm/"):
        model = _timm_model(name, pretrained, image_size, num_classes=num_classes, **options)
    else:
        model = _torchvision_model(name, pretrained, num_classes, **options)
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


def model_of(config: Config, num_classes: int, image_size: int | None) -> nn.Module:
    """Return the bare model of a configuration, for images of a size."""
    options = {name: getattr(config, name) for name in ("stem", "norm", "dropout", "pretrained")}
    return build_model(config.model, num_classes, image_size=image_size, **options)


def head_of(config: Config, num_classes: int) -> ERAHead | None:
    """Return the head of a configuration, None for ``head="none"``."""
    if config.head == "none":
        return None
    return ERAHead(num_classes, config.target_entropy, tau=config.tau, method=config.method)


def pretrained_statistics(name: str, pretrained: str) -> Statistics:
    """Return the statistics of the images that a model's weights know; ValueError for other weights."""
    if name.startswith("timm/"):
        timm, full = _timm(name, pretrained)
        known = timm.get_pretrained_cfg(full)
    else:
        known = _weights(name, pretrained).transforms()
    return tuple(known.mean), tuple(known.std)


@torch.no_grad()
def check_fit(model: nn.Module, image_size: int) -> None:
    """Raise ValueError unless a model takes images of a size."""
    device = next(model.parameters()).device
    try:
        model.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"model does not take images of image_size={image_size}: {error}"
        ) from error


def freeze_features(model: nn.Module) -> None:
    """Let the last layer alone be trained (a linear probe)."""
    model.requires_grad_(False)
    last_layer(model)[1].requires_grad_(True)


def _options(name: str, norm: Norm, pretrained: str | None, size: int | None) -> dict[str, Any]:
    options: dict[str, Any] = {"norm_layer": group_norm} if norm == "group" else {}
    if size and (family := name.partition("_")[0]) in _SIZED:
        options[_SIZED[family]] = (size, size) if family == "maxvit" else size
    if name in _AUXILIARY:
        options |= {"aux_logits": False, **({} if pretrained else {"init_weights": True})}
    return options


def _torchvision_model(name: str, pretrained: str | None, classes: int, **rest: Any) -> nn.Module:
    if pretrained:
        weights = _weights(name, pretrained)
        return _new_last_layer(_get_model(name, weights=weights, **rest), classes)
    _check_name(name)
    return _get_model(name, num_classes=classes, **rest)


def _check_name(name: str) -> None:
    check_names("model", [name], ["resnet8", "timm/NAME", *list_models(torchvision.models)])


def _weights(name: str, pretrained: str) -> Any:
    _check_name(name)
    if name == "resnet8":
        raise ValueError(f"pretrained={pretrained!r}: resnet8 has no pretrained weights")
    weights = get_model_weights(name)
    given = pretrained.removeprefix(f"{weights.__name__}.")
    check_names(f"pretrained weights of {name}", [given], weights.__members__)
    return weights[given]


def _get_model(name: str, make: Any = get_model, **options: Any) -> nn.Module:
    try:
        return make(name, **options)
    except (TypeError, AssertionError) as error:
        sizes = [options[o] for o in ("img_size", *_SIZED.values()) if o in options]
        asked = [*(f"image_size={s}" for s in sizes), *["norm='group'"] * ("norm_layer" in options)]
        if not asked:
            raise
        raise ValueError(f"{' or '.join(asked)} does not fit model={name!r}: {error}") from error


def _timm_model(name: str, pretrained: str | None, size: int | None, **rest: Any) -> nn.Module:
    timm, full = _timm(name, pretrained)
    if size and getattr(timm.get_pretrained_cfg(full), "fixed_input_size", False):
        rest["img_size"] = size
    return _get_model(full, timm.create_model, pretrained=bool(pretrained), **rest)


def _timm(name: str, pretrained: str | None) -> tuple[Any, str]:
    """Return timm and its name of a model, with the tag of weights unless they are the default ones."""
    if find_spec("timm") is None:
        raise ValueError(f"model={name!r} needs the extra timm: pip install 'era-rl[timm]'")
    timm: Any = import_module("timm")
    short = name.removeprefix("timm/")
    check_names("model of timm", [short], timm.list_models())
    if pretrained:
        tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{short}.*")]
        known = ["DEFAULT", *tags] if tags else []
        check_names(f"pretrained weights of {name}", [pretrained], known)
    return timm, short if pretrained in (None, "DEFAULT") else f"{short}.{pretrained}"


def _use_cifar_stem(model: nn.Module, name: str) -> None:
    first, pool = getattr(model, "conv1", None), getattr(model, "maxpool", None)
    if not isinstance(first, nn.Conv2d) or pool is None:
        raise ValueError(f"stem='cifar' needs a ResNet of torchvision's, not model={name!r}")
    model.add_module("conv1", nn.Conv2d(3, first.out_channels, 3, padding=1, bias=False))
    model.add_module("maxpool", nn.Identity())


def _new_last_layer(model: nn.Module, num_classes: int) -> nn.Module:
    name, layer = last_layer(model)
    if isinstance(layer, nn.Linear):
        new = nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)
    else:
        new = nn.Conv2d(layer.in_channels, num_classes, kernel_size=1)
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent).add_module(child, new)
    return model


def _drop_inputs(layer: nn.Module, inputs: tuple[Tensor], *, p: float) -> Tensor:
    return nn.functional.dropout(inputs[0], p, layer.training)
