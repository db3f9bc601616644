"""The classifier head with an entropy floor, and how to put it on a model."""

import copy
import math
from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from era_rl.core import CategoricalHead
from era_rl.core.activations import SoftmaxMethod
from era_rl.core.entropy import at_least_float32

_CLASSIFIERS = ("fc", "classifier", "heads", "head")
"""What torchvision and timm call the part of a model that gives the logits."""

_NO_LOGITS = (
    "model gives {}, not logits, or a named tuple or mapping with 'logits' or 'out': wrap it in a"
    " module that does"
)


class ERAHead(CategoricalHead):
    """Logits whose softmax keeps at least target_entropy nats: see :func:`era_rl.core.softmax_era`.

    Put it after a classifier's last layer, in training and at inference. It has no parameters (its
    floor is a buffer), keeps the order of the classes, and computes and returns float32, under autocast
    too: in bfloat16 a fifth of the top-5 sets would change. Take top-k from the raw logits: the
    smallest probabilities tie in float32. The floor is that of a softmax, one class an image: under a
    multi-label loss (a sigmoid a class) it means nothing.

    "lambert" is the paper's activation: cheap and smooth, but not tight (``entropy_floor`` is above
    target_entropy), and its gradient vanishes on confidently wrong samples: 0.011 where the plain
    softmax has 1.41, at ten classes and a wrong logit 8 ahead. "temperature" is tight, leaves what
    meets the floor as it is, and keeps a gradient of 0.71 there: take it to fine-tune a model that
    starts confident, or on labels that are noisy or change (benchmarks/vision/README.md).

    Args:
        num_classes: Number of classes.
        target_entropy: H0 in nats; the paper uses 0.6 for 10 and for 1,000 classes.
        tau: The paper's constant, at least e; without effect for "temperature".
        method: "lambert", "paper" (its approximation of the Lambert branch) or "temperature".
        dim: The dimension of the classes: 1 for dense outputs (B, num_classes, H, W). None is the last
            one, and refuses logits of which it could be dimension 1 too.

    Raises:
        ValueError: If an argument is outside its range, or the floor infeasible.
    """

    def __init__(
        self, num_classes: int, target_entropy: float, *, tau: float = 4.0,
        method: SoftmaxMethod = "lambert", dim: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(num_classes, target_entropy=target_entropy, tau=tau, method=method)
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
            raise ValueError(f"dim={dim!r} must be an integer, or None for the last dimension")
        self.dim = dim

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits of the same shape with the floor, float32 for half-precision inputs.

        An infinite logit, as half precision gives, counts as the largest float.
        """
        dim = -1 if self.dim is None else self.dim
        return super().forward(_classes_last(logits, self.num_classes, self.dim)).movedim(-1, dim)

    @property
    def cross_entropy_floor(self) -> float:
        """The least cross-entropy with one-hot targets, -ln max_prob nats: no loss gets below it."""
        return -math.log(self.max_prob)

    def extra_repr(self) -> str:
        """Describe the floor in ``print(model)``."""
        return (
            f"{self.num_classes}, target_entropy={self.target_entropy}, tau={self.tau},"
            f" method={self.method!r}, dim={self.dim}"
        )


class ERAClassifier(nn.Module):
    """A classifier with an ERAHead after it: ``classifier(images)``, or ``raw=True`` without it.

    Both give the same class; the floor exists only with the head. ``.model`` is the bare model, whose
    state_dict loads and saves as before. Of a model with several outputs, the one called "logits" or
    "out" gets the floor; the others, such as auxiliary logits, pass unchanged.

    Args:
        model: Any module from images to logits, or to a named tuple or mapping with them in it.
        head: The head to apply.
    """

    def __init__(self, model: nn.Module, head: ERAHead) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, images: Tensor, raw: bool = False) -> Any:
        """Return the model's output with the floor on its logits, or as it is if ``raw``.

        Raises:
            ValueError: If the output has no logits, or there are not num_classes of them.
        """
        output = self.model(images)
        # a tracer of torch.fx gives a stand-in, and takes the way with the floor
        return output if not isinstance(raw, torch.fx.Proxy) and raw else self._floored(output)

    def _floored(self, output: Any) -> Any:
        mapping = isinstance(output, MutableMapping)
        names = output if mapping else getattr(type(output), "_fields", None)
        if names is None:
            return self.head(output)
        name = next((name for name in ("logits", "out") if name in names), None)
        if name is None:
            raise ValueError(_NO_LOGITS.format(f"outputs called {', '.join(names)}"))
        if not mapping:
            return output._replace(**{name: self.head(getattr(output, name))})
        floored = copy.copy(output)
        floored[name] = self.head(output[name])
        return floored


def attach_head(
    model: nn.Module, target_entropy: float, *, tau: float = 4.0, method: SoftmaxMethod = "lambert",
    num_classes: int | None = None, dim: int | None = None,
) -> ERAClassifier:  # fmt: skip
    """Return the model with an entropy floor: load its weights first, then attach the head.

    Args:
        model: A classifier of torchvision or timm, or a module from images to logits.
        target_entropy: H0 in nats.
        tau: The paper's constant, at least e.
        method: "lambert", "paper" or "temperature".
        num_classes: Number of classes; by default that of the model's last linear or conv layer.
        dim: The dimension of the classes, 1 for dense outputs; None is the last (:class:`ERAHead`).

    Raises:
        ValueError: If num_classes cannot be found, an argument is outside its range, or the model has
            a head already.
    """
    if any(isinstance(module, ERAHead) for module in model.modules()):
        raise ValueError("model has an ERAHead already: attach a head to model.model")
    if num_classes is None:
        layer = last_layer(model)[1]
        num_classes = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    head = ERAHead(num_classes, target_entropy, tau=tau, method=method, dim=dim)
    return ERAClassifier(model, head)


def last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the name and the layer that gives a classifier's logits: its last linear or conv layer.

    Raises:
        ValueError: If the model has neither, or ends in features: a backbone without a classifier.
    """
    name, layer, normed = "", None, False
    for child, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            name, layer, normed = child, module, False
        elif "parametrizations" not in child.split("."):  # weight_norm's are of the layer
            normed |= "Norm" in type(module).__name__
    if layer is None:
        raise ValueError(f"model={type(model).__name__} has no nn.Linear or nn.Conv2d: no logits")
    removed = any(isinstance(getattr(model, part, None), nn.Identity) for part in _CLASSIFIERS)
    if normed or removed or getattr(model, "num_classes", None) == 0:
        raise ValueError(
            f"model={type(model).__name__} ends in features, without a layer for num_classes: build it"
            " with its classifier, or put nn.Linear(features, num_classes) after it"
        )
    return name, layer


@torch.fx.wrap
def _classes_last(logits: Tensor, num_classes: int, dim: int | None) -> Tensor:
    """Return logits with the classes in the last dimension, none of them infinitely high."""
    if not (isinstance(logits, Tensor) and logits.is_floating_point()):
        raise ValueError(_NO_LOGITS.format(f"a {getattr(logits, 'dtype', type(logits).__name__)}"))
    shape = tuple(logits.shape)
    if dim is None and len(shape) > 2 and num_classes == shape[1] == shape[-1]:
        raise ValueError(
            f"logits of shape {shape} may have their num_classes={num_classes} in either dimension: say"
            " dim=1 (dense outputs) or dim=-1"
        )
    if dim is not None and not -len(shape) <= dim < len(shape):
        raise ValueError(f"dim={dim} is no dimension of logits of shape {shape}")
    (logits,) = at_least_float32(logits.movedim(-1 if dim is None else dim, -1))
    # far below the largest float, so that differences are finite
    return logits.masked_fill(logits == torch.inf, torch.finfo(logits.dtype).max ** 0.75)
