"""What an action spec asks of a policy: one head and one distribution for each of its leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor, distributions, nn
from torch.distributions import Distribution
from torch.nn.functional import one_hot
from torchrl.data import Bounded, Categorical, Composite, OneHot, TensorSpec
from torchrl.modules import OneHotCategorical, TanhNormal

from era_rl.core import Head, PolicyOptions, TruncatedNormal, categorical_sample, check_bounds

Options = PolicyOptions | Mapping[Any, PolicyOptions]
"""Of one action, or by the keys of a composite spec, of which those left out have the defaults."""


class OneHotClasses(OneHotCategorical):
    """TorchRL's, whose mode is one class where several are as likely: the first, as torch's argmax."""

    @property
    def mode(self) -> Tensor:  # TorchRL's has a one for each of them, which is no action
        """Return the most likely class, one-hot, shape (..., num_classes)."""
        return one_hot(self.logits.argmax(-1), self.num_samples)


class _NoiseClasses:
    """Makes the sample of a categorical that of uniform noise, shape (..., 1), an argument.

    Policies are functions then, without a random state: given the same noise, stacked agents
    (``torch.func.vmap``), compiled updates and separate runs draw the same actions.
    """

    def __init__(self, logits: Tensor, noise: Tensor) -> None:
        super().__init__(logits=logits, validate_args=False)  # type: ignore[call-arg]
        self.noise = noise

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the one sample of the noise, shape (...)."""
        if len(sample_shape) > 0:
            raise ValueError(
                f"sample_shape={tuple(sample_shape)} must be empty: the noise is one sample"
            )
        return categorical_sample(self.logits, self.noise.squeeze(-1))  # type: ignore[attr-defined]


class NoiseCategorical(_NoiseClasses, distributions.Categorical):
    """Its sample is the class."""


class NoiseOneHotCategorical(_NoiseClasses, OneHotClasses):
    """Its sample is the class, one-hot."""

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Return the one sample of the noise, shape (..., num_classes)."""
        return one_hot(super().sample(sample_shape), self.num_samples)


_BOUNDED = {"truncated": (TruncatedNormal, TruncatedNormal), "tanh": (TanhNormal, None)}
_DISCRETE = {
    OneHot: (OneHotClasses, NoiseOneHotCategorical),
    Categorical: (distributions.Categorical, NoiseCategorical),
}


@dataclass(frozen=True)
class Leaf:
    """One action: its key, its head, and the distribution class of the head's outputs."""

    key: NestedKey
    head: Head
    distribution: type[Distribution]
    noise_distribution: type[Distribution] | None
    bounds: dict[str, Any] = field(default_factory=dict)
    """``low`` and ``high`` for the distribution; empty for discrete actions."""


def raw_dim(action_spec: TensorSpec, options: Options | None = None) -> int:
    """Return how many raw outputs a network for this action spec needs, summed over its leaves.

    Of a bounded action they are those of its last dimension, as the others are taken for a batch's.

    Args:
        action_spec: As for :class:`ERAActor`.
        options: As for :class:`ERAActor`; ``slack`` adds one.
    """
    return sum(leaf.head.raw_dim for leaf in action_leaves(action_spec, "action", options))


def action_leaves(
    action_spec: TensorSpec, action_key: NestedKey, options: Options | None
) -> list[Leaf]:
    """Return the leaves of an action spec in its order.

    Raises:
        ValueError: As :class:`ERAActor`.
    """
    composite = isinstance(action_spec, Composite)
    specs = {action_key: action_spec}
    if composite:
        specs = dict(action_spec.items(include_nested=True, leaves_only=True))
    if isinstance(options, PolicyOptions) or options is None:
        options = dict.fromkeys(specs, options or PolicyOptions())
    if unknown := set(options) - set(specs):
        raise ValueError(
            f"options has the keys {sorted(map(str, unknown))}; the action spec has {list(specs)}"
        )
    batches = {k: tuple(s.shape[: s.ndim - (type(s) is not Categorical)]) for k, s in specs.items()}
    if len(set(batches.values())) > 1:
        raise ValueError(
            f"the actions of a composite spec must have one batch shape, not {batches}"
        )
    return [_leaf(spec, key, options.get(key, PolicyOptions())) for key, spec in specs.items()]


def _leaf(spec: TensorSpec, key: NestedKey, options: PolicyOptions) -> Leaf:
    if options.deterministic_action != "mode":
        raise ValueError(
            f"deterministic_action={options.deterministic_action!r} must be 'mode': in TorchRL"
            " ExplorationType.MEAN takes the mean"
        )
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point and spec.ndim:
        if options.distribution not in _BOUNDED:
            raise ValueError(f"distribution={options.distribution!r} must be 'truncated' or 'tanh'")
        head = options.bounded_head(spec.shape[-1])
        return Leaf(key, head, *_BOUNDED[options.distribution], bounds=_bounds(spec, key))
    if type(spec) in _DISCRETE:  # not the specs of several actions derived from OneHot
        return Leaf(key, options.discrete_head([spec.space.n]), *_DISCRETE[type(spec)])
    raise ValueError(
        f"the action spec of {key!r} is {type(spec).__name__} with shape {tuple(spec.shape)}; it must"
        " be Bounded (floating point, with a dimension), OneHot, Categorical or a Composite of these"
    )


def _bounds(spec: TensorSpec, key: NestedKey) -> dict[str, Any]:
    """Return low and high: numbers for [-1, 1], otherwise tensors (action_dim,)."""
    low, high = (b.reshape(-1, spec.shape[-1]) for b in (spec.space.low, spec.space.high))
    if not ((low == low[0]) & (high == high[0])).all():
        raise ValueError(
            f"the bounds of {key!r} must not differ over the batch, as {low}, {high} do"
        )
    check_bounds(f"the action spec of {key!r}", low[0], high[0])
    if (low == -1.0).all() and (high == 1.0).all():
        return {"low": -1.0, "high": 1.0}
    return {"low": low[0].clone(), "high": high[0].clone()}


class Heads(nn.Module):
    """The heads of an action spec: raw outputs (..., raw_dim) in, all distribution parameters out.

    ``loc`` and ``scale`` of a truncated normal are returned in units of the action. A mask
    (..., num_actions) is for the spec of one discrete action.
    """

    def __init__(self, leaves: list[Leaf]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(leaf.head for leaf in leaves)
        self.sizes = [leaf.head.raw_dim for leaf in leaves]
        self._scaled = [
            leaf.distribution is TruncatedNormal and isinstance(leaf.bounds["low"], Tensor)
            for leaf in leaves
        ]
        for index, leaf in enumerate(leaves):
            if self._scaled[index]:
                self.register_buffer(f"low{index}", leaf.bounds["low"], persistent=False)
                self.register_buffer(f"high{index}", leaf.bounds["high"], persistent=False)

    def forward(self, raw: Tensor, *mask: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return the parameters of every leaf's distribution, in the order of the leaves."""
        params: list[Tensor] = []
        for index, part in enumerate(self._split(raw)):
            out = self.heads[index](part, *mask)
            if self._scaled[index]:
                low, high = self.get_buffer(f"low{index}"), self.get_buffer(f"high{index}")
                half_width = 0.5 * (high - low)
                loc = (low + (out[0] + 1.0) * half_width).clamp(low, high)
                out = loc, out[1] * half_width
            params.extend(out if isinstance(out, tuple) else (out,))
        return tuple(params) if len(params) > 1 else params[0]

    def entropy(self, raw: Tensor, *mask: Tensor) -> Tensor:
        """Return the policy's own entropy in nats, shape (...), for actions normalised to [-1, 1]."""
        total = 0.0
        for head, part in zip(self.heads, self._split(raw), strict=True):
            total = total + head.entropy((head(part, *mask),) if mask else head.params(part))
        return total

    def _split(self, raw: Tensor) -> tuple[Tensor, ...]:
        if raw.shape[-1] != sum(self.sizes):
            raise ValueError(
                f"raw has shape {tuple(raw.shape)}, not (..., raw_dim={sum(self.sizes)})"
            )
        return raw.split(self.sizes, dim=-1)
