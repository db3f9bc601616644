"""Parameter-free heads for discrete actions and classes: logits in, logits with a floor out."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from era_rl.core.activations import SoftmaxMethod, softmax_era
from era_rl.core.entropy import at_least_float32, categorical_entropy
from era_rl.core.feasibility import check_count, check_softmax_floor
from era_rl.core.heads import Head, resolve_target_entropy

AUTO_FRACTION = 0.3
"""The default floor of a discrete policy, as a fraction of the largest entropy possible."""


class CategoricalHead(Head):
    """Logits whose softmax has an entropy floor: see :func:`softmax_era`.

    Args:
        num_classes: Number of classes or actions.
        target_entropy: H0 in nats, or "auto" = 0.3 ln num_classes.
        tau: The paper's temperature constant, at least e (not SB3's Polyak ``tau``).
        method: "temperature" (the choice for policies), "lambert" (for classifiers) or "paper".

    Raises:
        ValueError: If an argument is outside its range, or the floor infeasible.
    """

    default_in_keys = ("logits",)
    default_out_keys = ("logits",)

    def __init__(
        self,
        num_classes: int,
        *,
        target_entropy: float | Literal["auto"] = "auto",
        tau: float = 4.0,
        method: SoftmaxMethod = "temperature",
    ) -> None:
        super().__init__()
        check_count("num_classes", num_classes, 2)
        self.num_classes = num_classes
        self.target_entropy = resolve_target_entropy(
            target_entropy, AUTO_FRACTION * math.log(num_classes)
        )
        check_softmax_floor(self.target_entropy, num_classes, tau, method)
        self.tau = tau
        self.method: SoftmaxMethod = method

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits (..., num_classes) with the floor, float32 for half-precision inputs."""
        return _floored(logits, self.num_classes, self.target_entropy, self.tau, self.method)

    @property
    def entropy_floor(self) -> float:
        """The least entropy any logits can give, in nats: reached at one-hot probabilities."""
        return categorical_entropy(self._most_confident()).item()

    @property
    def max_prob(self) -> float:
        """The largest probability that any logits can give a class."""
        return self._most_confident().softmax(-1).amax().item()

    @torch.no_grad()
    def _most_confident(self) -> Tensor:
        one_hot = torch.zeros(self.num_classes, dtype=torch.float64)
        one_hot[0] = 1e4
        return self(one_hot)


@torch.fx.wrap  # one call to a tracer, which cannot follow the checks
def _floored(
    logits: Tensor, num_classes: int, target_entropy: float, tau: float, method: SoftmaxMethod
) -> Tensor:
    if logits.dim() == 0 or logits.shape[-1] != num_classes:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}, not (..., num_classes={num_classes})"
        )
    return softmax_era(logits, target_entropy=target_entropy, tau=tau, method=method)


class MultiCategoricalHead(Head):
    """Logits of several independent categoricals, each with a share of one entropy floor.

    Component i, of n_i actions, gets the floor f ln n_i with f = H0 / sum_i ln n_i, so that the
    floors add up to H0; with a mask it is f ln of the number of valid actions, 0 where there is one.
    The floor is met after masking by a temperature (:func:`softmax_era`), in one solve for all.

    Args:
        num_actions: n_i, the number of actions of each component, at least 1.
        target_entropy: H0 in nats over all components, or "auto" = 0.3 sum_i ln n_i.
        target_entropy_fraction: f in [0, 1), in the place of ``target_entropy``.

    Raises:
        ValueError: If an argument is outside its range, or both floors are given.
    """

    default_in_keys = ("logits",)
    default_out_keys = ("logits",)
    _index: Tensor
    _possible: Tensor
    _position: Tensor

    def __init__(
        self,
        num_actions: Sequence[int],
        *,
        target_entropy: float | Literal["auto"] = "auto",
        target_entropy_fraction: float | None = None,
    ) -> None:
        super().__init__()
        given = list(num_actions) if isinstance(num_actions, Iterable) else []
        if not given or not all(isinstance(n, Integral) and n >= 1 for n in given):
            raise ValueError(f"num_actions={num_actions!r} must be numbers of at least 1")
        self.num_actions = [int(n) for n in given]
        self.raw_dim = sum(self.num_actions)
        self.max_entropy = sum(math.log(n) for n in self.num_actions)
        self.fraction = self._fraction(target_entropy, target_entropy_fraction)
        self.target_entropy = self.fraction * self.max_entropy
        # components as rows of equal length: where each takes its logits from, and which are real
        widest = max(self.num_actions)
        starts = [sum(self.num_actions[:i]) for i in range(len(self.num_actions))]
        rows = [
            [start + min(j, n - 1) for j in range(widest)]
            for start, n in zip(starts, self.num_actions, strict=True)
        ]
        real = torch.tensor([[j < n for j in range(widest)] for n in self.num_actions])
        self.register_buffer("_index", torch.tensor(rows), persistent=False)
        self.register_buffer("_possible", real, persistent=False)
        # where the real ones are: indexing with booleans would read the device, and not compile
        self.register_buffer("_position", real.flatten().nonzero().squeeze(-1), persistent=False)

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (..., sum n_i) with the floor, -inf where ``mask`` is False.

        Args:
            logits: Raw outputs, the components one after the other, shape (..., sum n_i).
            mask: Which actions are valid, bool of the same shape, at least one a component.
        """
        if logits.dim() == 0 or logits.shape[-1] != self.raw_dim:
            raise ValueError(f"logits has shape {tuple(logits.shape)}, not (..., {self.raw_dim})")
        (logits,) = at_least_float32(logits)
        valid = self._possible if mask is None else self._possible & mask[..., self._index]
        rows = torch.where(valid, logits[..., self._index], -torch.inf)
        target = self.fraction * valid.sum(-1).to(rows.dtype).log()
        rows = softmax_era(rows, target_entropy=target, method="temperature")
        return rows.flatten(-2)[..., self._position]

    def floor(self, mask: Tensor) -> Tensor:
        """Return the floor in nats under a mask (..., sum n_i), summed over components, (...)."""
        counts = (self._possible & mask[..., self._index]).sum(-1)
        return self.fraction * counts.to(torch.get_default_dtype()).log().sum(-1)

    def _fraction(self, target_entropy: float | Literal["auto"], fraction: float | None) -> float:
        if fraction is not None and target_entropy != "auto":
            raise ValueError(
                f"target_entropy={target_entropy} and target_entropy_fraction={fraction} exclude "
                "each other"
            )
        if fraction is None:
            auto = AUTO_FRACTION * self.max_entropy
            nats = resolve_target_entropy(target_entropy, auto)
            if not (0.0 <= nats < self.max_entropy or nats == auto):
                raise ValueError(
                    f"target_entropy={nats} must be in [0, {self.max_entropy:.6g}) nats, the largest "
                    f"entropy of {self.num_actions} actions"
                )
            return nats / self.max_entropy if self.max_entropy > 0.0 else AUTO_FRACTION
        if not 0.0 <= fraction < 1.0:
            raise ValueError(f"target_entropy_fraction={fraction} must be in [0, 1)")
        return fraction
