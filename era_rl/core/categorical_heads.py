"""Parameter-free heads for discrete actions and classes: logits in, logits with a floor out."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Categorical

from era_rl.core.activations import SoftmaxMethod, softmax_era
from era_rl.core.entropy import (
    at_least_float32,
    categorical_entropy,
    categorical_log_prob,
    categorical_sample,
)
from era_rl.core.feasibility import AUTO_FRACTION, check_count, check_softmax_floor
from era_rl.core.head import Head, Params, as_number, resolve_target_entropy


class _CategoricalParams(Head):
    """What the discrete heads share: logits in, logits out, and independent categoricals of them."""

    default_in_keys = ("logits",)
    default_out_keys = ("logits",)
    may_rise = True
    _independent = False
    """Whether an action has several components, its last dimension."""

    def _components(self, logits: Tensor) -> Tensor:
        """Return logits (..., raw_dim) as those of each component along the last dimension."""
        return logits

    def params(self, raw: Tensor) -> Params:
        """Return (logits,) with the floor, shape (..., raw_dim)."""
        return (self(raw),)

    def distribution(self, params: Params) -> Categorical:
        """Return the categoricals of the logits, one or a component's each."""
        return Categorical(logits=self._components(params[0]), validate_args=False)

    def sample(self, params: Params, noise: Tensor, shared: Any = None) -> Tensor:
        """Return the actions that the noise gives (:func:`categorical_sample`), integers."""
        return categorical_sample(self._components(params[0]), noise)

    def log_prob(self, params: Params, action: Tensor, shared: Any = None) -> Tensor:
        """Return ln p(action), shape (...), summed over components."""
        log_prob = categorical_log_prob(self._components(params[0]), action)
        return log_prob.sum(-1) if self._independent else log_prob

    def entropies(self, params: Params, shared: Any = None) -> Tensor:
        """Return -sum p ln p in nats of each component, shape (..., number of components)."""
        entropy = categorical_entropy(self._components(params[0]))
        return entropy if self._independent else entropy.unsqueeze(-1)

    def mode(self, params: Params) -> Tensor:
        """Return the most likely actions, integers; a floor leaves the order of logits as it is."""
        return self._components(params[0]).argmax(-1)


class CategoricalHead(_CategoricalParams):
    """Logits whose softmax has an entropy floor: see :func:`softmax_era`.

    With "temperature" the derivative is that of an inequality: a class that is ahead in error, with all
    the certainty that the floor allows, can fall back.

    Args:
        num_classes: Number of classes or actions.
        target_entropy: H0 in nats, or "auto" = 0.3 ln num_classes.
        tau: The paper's temperature constant, at least e (not SB3's Polyak ``tau``).
        method: "temperature" (the choice for policies), "lambert" (for classifiers) or "paper".

    Raises:
        ValueError: If an argument is outside its range, or the floor infeasible.
    """

    shown = ("num_classes", "method", "tau")

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
        as_number("tau", tau)
        self.num_classes = self.raw_dim = num_classes
        self.tau = tau
        self.method: SoftmaxMethod = method
        auto = AUTO_FRACTION * math.log(num_classes)
        self._set_up(target_entropy=resolve_target_entropy(target_entropy, auto))

    def check(self, **settings: float) -> None:
        """Raise ValueError unless the method can hold the floor."""
        check_softmax_floor(settings["target_entropy"], self.num_classes, self.tau, self.method)

    def forward(self, logits: Tensor) -> Tensor:
        """Return logits (..., num_classes) with the floor, float32 for half-precision inputs."""
        return _floored(logits, self.num_classes, self._target_entropy, self.tau, self.method)

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
        one_hot = self._target_entropy.new_zeros(self.num_classes)
        one_hot[0] = 1e4
        return self(one_hot)


@torch.fx.wrap  # one call to a tracer, which cannot follow the checks
def _floored(
    logits: Tensor, num_classes: int, target_entropy: Tensor, tau: float, method: SoftmaxMethod
) -> Tensor:
    if logits.dim() == 0 or logits.shape[-1] != num_classes:
        raise ValueError(
            f"logits has shape {tuple(logits.shape)}, not (..., num_classes={num_classes})"
        )
    return softmax_era(
        logits, target_entropy=target_entropy, tau=tau, method=method, inequality=True
    )


class MultiCategoricalHead(_CategoricalParams):
    """Logits of several independent categoricals, each with a share of one entropy floor.

    Component i, of n_i actions, gets the floor f ln n_i with f = H0 / sum_i ln n_i, so that the
    floors add up to H0, and none can lose its noise to the others, as a dimension of bounded actions
    can; with a mask it is f ln of the number of valid actions, 0 where there is one. The floor is met
    after masking by a temperature (:func:`softmax_era`), in one solve for all. Its derivative is that
    of an inequality: a loss that would leave the floor upwards finds no resistance, so that an action
    that is ahead in error, with all the certainty that the floor allows, can fall back.

    Args:
        num_actions: n_i, the number of actions of each component, at least 1.
        target_entropy: H0 in nats over all components, or "auto" = 0.3 sum_i ln n_i.
        target_entropy_fraction: f in [0, 1), in the place of ``target_entropy``.

    Raises:
        ValueError: If an argument is outside its range, or both floors are given.
    """

    shown = ("num_actions",)
    _independent = True
    _log_counts: Tensor
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
        self.raw_dim, self.action_dim = sum(self.num_actions), len(self.num_actions)
        self.max_entropy = sum(math.log(n) for n in self.num_actions)
        self._set_up(target_entropy=self._nats(target_entropy, target_entropy_fraction))
        # components as rows of equal length: where each takes its logits from, and which are real
        widest = max(self.num_actions)
        starts = [sum(self.num_actions[:i]) for i in range(len(self.num_actions))]
        rows = [
            [start + min(j, n - 1) for j in range(widest)]
            for start, n in zip(starts, self.num_actions, strict=True)
        ]
        real = torch.tensor([[j < n for j in range(widest)] for n in self.num_actions])
        log_counts = torch.tensor(self.num_actions, dtype=torch.float64).log()
        self.register_buffer("_log_counts", log_counts, persistent=False)
        self.register_buffer("_index", torch.tensor(rows), persistent=False)
        self.register_buffer("_possible", real, persistent=False)
        # where the real ones are: indexing with booleans would read the device, and not compile
        self.register_buffer("_position", real.flatten().nonzero().squeeze(-1), persistent=False)

    def check(self, **settings: float) -> None:
        """Raise ValueError unless the components can have the floor, in nats over all."""
        nats = settings["target_entropy"]
        if not 0.0 <= nats < self.max_entropy and not nats == self.max_entropy == 0.0:
            raise ValueError(
                f"target_entropy={nats} must be in [0, {self.max_entropy:.6g}) nats, the largest "
                f"entropy of {self.num_actions} actions; the default is {AUTO_FRACTION} of it"
            )

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits (..., sum n_i) with the floor, -inf where ``mask`` is False.

        Args:
            logits: Raw outputs, the components one after the other, shape (..., sum n_i).
            mask: Which actions are valid, of the same shape: bool, or numbers other than 0. A component
                of which none is gets the uniform distribution, as in sb3-contrib.
        """
        if logits.dim() == 0 or logits.shape[-1] != self.raw_dim:
            raise ValueError(f"logits has shape {tuple(logits.shape)}, not (..., {self.raw_dim})")
        (logits,) = at_least_float32(logits)
        rows, valid, log_counts = logits[..., self._index], self._possible, self._log_counts
        if mask is not None:
            valid = valid & mask[..., self._index].bool()
            none = ~valid.any(-1, keepdim=True)
            rows, valid = rows.masked_fill(none, 0.0), valid | (self._possible & none)
            log_counts = valid.sum(-1).to(rows.dtype).log()
        rows = torch.where(valid, rows, -torch.inf)
        target = self._fraction * log_counts
        rows = softmax_era(rows, target_entropy=target, method="temperature", inequality=True)
        return rows.flatten(-2)[..., self._position]

    def floor(self, mask: Tensor) -> Tensor:
        """Return the floor in nats under a mask (..., sum n_i), summed over components, (...)."""
        counts = (self._possible & mask[..., self._index].bool()).sum(-1)
        return (self._fraction * counts.clamp_min(1).to(torch.get_default_dtype()).log()).sum(-1)

    @property
    def _fraction(self) -> Tensor:
        """f, of which nothing depends where no component has a choice."""
        return self._target_entropy / (self.max_entropy or 1.0)

    def _components(self, logits: Tensor) -> Tensor:
        return torch.where(self._possible, logits[..., self._index], -torch.inf)

    def _nats(self, target_entropy: float | Literal["auto"], fraction: float | None) -> float:
        if fraction is None:
            return resolve_target_entropy(target_entropy, AUTO_FRACTION * self.max_entropy)
        if target_entropy != "auto":
            raise ValueError(
                f"target_entropy={target_entropy} and target_entropy_fraction={fraction} exclude "
                "each other"
            )
        if not 0.0 <= as_number("target_entropy_fraction", fraction) < 1.0:
            raise ValueError(f"target_entropy_fraction={fraction} must be in [0, 1)")
        return fraction * self.max_entropy
