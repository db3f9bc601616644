"""The classifier head with an entropy floor, and how to put it on a model."""

import math

from torch import Tensor, nn

from era_rl.core import CategoricalHead
from era_rl.core.activations import SoftmaxMethod


class ERAHead(CategoricalHead):
    """Logits whose softmax keeps at least target_entropy nats: see :func:`era_rl.core.softmax_era`.

    Put it after a classifier's last layer, in training and at inference. It has neither parameters
    nor buffers, keeps the order of the classes, and computes and returns float32, under autocast too:
    in bfloat16 a fifth of the top-5 sets would change. Take top-k from the raw logits: the smallest
    probabilities tie in float32.

    "lambert" is the paper's activation: cheap and smooth, but not tight (``entropy_floor`` is above
    target_entropy), and its gradient vanishes on confidently wrong samples: 0.011 where the plain
    softmax has 1.41, at ten classes and a wrong logit 8 ahead. "temperature" is tight, leaves what
    meets the floor as it is, and keeps a gradient of 0.50 there: take it to fine-tune a model that
    starts confident, or on labels that are noisy or change (benchmarks/vision/README.md).

    Args:
        num_classes: Number of classes, the last dimension of the logits.
        target_entropy: H0 in nats; the paper uses 0.6 for 10 and for 1,000 classes.
        tau: The paper's constant, at least e; without effect for "temperature".
        method: "lambert", "paper" (its approximation of the Lambert branch) or "temperature".

    Raises:
        ValueError: If an argument is outside its range, or the floor infeasible.
    """

    def __init__(
        self,
        num_classes: int,
        target_entropy: float,
        *,
        tau: float = 4.0,
        method: SoftmaxMethod = "lambert",
    ) -> None:
        super().__init__(num_classes, target_entropy=target_entropy, tau=tau, method=method)

    @property
    def cross_entropy_floor(self) -> float:
        """The least cross-entropy with one-hot targets, -ln max_prob nats: no loss gets below it."""
        return -math.log(self.max_prob)

    def extra_repr(self) -> str:
        """Describe the floor in ``print(model)``."""
        return (
            f"{self.num_classes}, target_entropy={self.target_entropy}, tau={self.tau},"
            f" method={self.method!r}"
        )


class ERAClassifier(nn.Module):
    """A classifier with an ERAHead after it: ``classifier(images)``, or ``raw=True`` without it.

    Both give the same class; the floor exists only with the head. ``.model`` is the bare model, whose
    state_dict loads and saves as before.

    Args:
        model: Any module from images to logits (..., num_classes).
        head: The head to apply.
    """

    def __init__(self, model: nn.Module, head: ERAHead) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, images: Tensor, raw: bool = False) -> Tensor:
        """Return logits (..., num_classes) with the floor, or the model's own if ``raw``."""
        logits = self.model(images)
        return logits if raw else self.head(logits)


def attach_head(
    model: nn.Module,
    target_entropy: float,
    *,
    tau: float = 4.0,
    method: SoftmaxMethod = "lambert",
    num_classes: int | None = None,
) -> ERAClassifier:
    """Return the model with an entropy floor: load its weights first, then attach the head.

    Args:
        model: Any torchvision classifier, or a module from images to logits.
        target_entropy: H0 in nats.
        tau: The paper's constant, at least e.
        method: "lambert", "paper" or "temperature".
        num_classes: Number of classes; by default that of the model's last linear or conv layer.

    Raises:
        ValueError: If num_classes cannot be found, an argument is outside its range, or the model has
            a head already.
    """
    if isinstance(model, ERAClassifier):
        raise ValueError("model has an ERAHead already: attach a head to model.model")
    head = ERAHead(num_classes or _num_classes(model), target_entropy, tau=tau, method=method)
    return ERAClassifier(model, head)


def last_layer(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Return the name and the layer that gives a classifier's logits: its last linear or conv layer.

    Raises:
        ValueError: If the model has neither.
    """
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        raise ValueError(f"model={type(model).__name__} has no nn.Linear or nn.Conv2d: no logits")
    return layers[-1]


def _num_classes(model: nn.Module) -> int:
    layer = last_layer(model)[1]
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
