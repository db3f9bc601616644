"""What an action spec asks of a policy: one head and one distribution for each of its leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tensordict import NestedKey
from torch import Tensor, nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Distribution
from torchrl.data import (
    Bounded,
    Categorical,
    Composite,
    OneHot,
    TensorSpec,
)
from torchrl.modules import OneHotCategorical, TanhNormal

from era_rl.core import (
    CategoricalHead,
    GaussianHead,
    TruncatedGaussianHead,
    TruncatedNormal,
    tanh_normal_entropy,
)
from era_rl.torchrl.noise import NoiseCategorical, NoiseOneHotCategorical, NoiseTruncatedNormal

BoundedDistribution = Literal["truncated", "tanh"]
NO_RANGE = 1e9
"""Bounds this far apart stand for none, as dm_control's of 1e10 do."""
ERAHead = TruncatedGaussianHead | GaussianHead | CategoricalHead


@dataclass(frozen=True)
class Leaf:
    """One action: its key, its head, and the distribution class of the head's outputs."""

    key: NestedKey
    head: ERAHead
    distribution: type[Distribution]
    noise_distribution: type[Distribution] | None
    bounds: dict[str, Any] = field(default_factory=dict)
    """``low`` and ``high`` for the distribution; empty for discrete actions."""

    @property
    def raw_dim(self) -> int:
        """How many raw outputs the head consumes."""
        return (
            self.head.num_classes if isinstance(self.head, CategoricalHead) else self.head.raw_dim
        )

    @property
    def params(self) -> tuple[str, ...]:
        """The names of the distribution's parameters."""
        return self.head.default_out_keys

    def entropy(self, policy: Distribution) -> Tensor:
        """Return the policy's entropy in nats, shape (...), the action normalised to [-1, 1]."""
        if isinstance(policy, TanhNormal):
            return tanh_normal_entropy(policy.loc, policy.scale.log()).sum(-1)
        if isinstance(policy, TruncatedNormal):
            half_width = 0.5 * (policy.high - policy.low)
            return policy.entropy() - half_width.log().expand(policy.loc.shape).sum(-1)
        return policy.entropy()


def raw_dim(
    action_spec: TensorSpec,
    distribution: BoundedDistribution = "truncated",
    head_kwargs: Mapping[Any, Any] | None = None,
) -> int:
    """Return how many raw outputs a network for this action spec needs, summed over its leaves.

    Args:
        action_spec: As for :class:`ERAActor`.
        distribution: As for :class:`ERAActor`.
        head_kwargs: As for :class:`ERAActor`; ``slack`` adds one.
    """
    return sum(
        leaf.raw_dim for leaf in action_leaves(action_spec, "action", distribution, head_kwargs)
    )


def action_leaves(
    action_spec: TensorSpec,
    action_key: NestedKey,
    distribution: BoundedDistribution,
    head_kwargs: Mapping[Any, Any] | None,
) -> list[Leaf]:
    """Return the leaves of an action spec in its order.

    Raises:
        ValueError: As :class:`ERAActor`.
    """
    if distribution not in ("truncated", "tanh"):
        raise ValueError(f"distribution={distribution!r} must be 'truncated' or 'tanh'")
    if not isinstance(action_spec, Composite):
        return [_leaf(action_spec, action_key, distribution, head_kwargs or {})]
    specs = dict(action_spec.items(include_nested=True, leaves_only=True))
    unknown = set(head_kwargs or {}) - set(specs)
    if unknown:
        raise ValueError(
            f"head_kwargs has the keys {sorted(map(str, unknown))}; the action spec has {list(specs)}"
        )
    batches = {k: tuple(s.shape[: s.ndim - (type(s) is not Categorical)]) for k, s in specs.items()}
    if len(set(batches.values())) > 1:
        raise ValueError(
            f"the actions of a composite spec must have one batch shape, not {batches}"
        )
    options = dict(head_kwargs or {})
    return [_leaf(spec, key, distribution, options.get(key, {})) for key, spec in specs.items()]


def _leaf(
    spec: TensorSpec,
    key: NestedKey,
    distribution: BoundedDistribution,
    head_kwargs: Mapping[str, Any],
) -> Leaf:
    if isinstance(spec, Bounded) and spec.dtype.is_floating_point and spec.ndim:
        bounds = _bounds(spec, key)
        if distribution == "tanh":
            return Leaf(key, GaussianHead(spec.shape[-1], **head_kwargs), TanhNormal, None, bounds)
        head = TruncatedGaussianHead(spec.shape[-1], **head_kwargs)
        return Leaf(key, head, TruncatedNormal, NoiseTruncatedNormal, bounds)
    if type(spec) is OneHot:  # not the specs of several actions derived from it
        head = CategoricalHead(spec.space.n, **head_kwargs)
        return Leaf(key, head, OneHotCategorical, NoiseOneHotCategorical)
    if type(spec) is Categorical:
        head = CategoricalHead(spec.space.n, **head_kwargs)
        return Leaf(key, head, CategoricalDistribution, NoiseCategorical)
    raise ValueError(
        f"the action spec of {key!r} is {type(spec).__name__} with shape {tuple(spec.shape)}; it must"
        " be Bounded (floating point, with a dimension), OneHot, Categorical or a Composite of these"
    )


def _bounds(spec: TensorSpec, key: NestedKey) -> dict[str, Any]:
    """Return low and high: numbers for [-1, 1], otherwise tensors (action_dim,)."""
    low, high = (b.reshape(-1, spec.shape[-1]) for b in (spec.space.low, spec.space.high))
    if not ((low < high) & (high - low < NO_RANGE)).all():
        raise ValueError(f"the bounds of {key!r} must be finite and in order, not {low}, {high}")
    if not ((low == low[0]) & (high == high[0])).all():
        raise ValueError(
            f"the bounds of {key!r} must not differ over the batch, as {low}, {high} do"
        )
    if (low == -1.0).all() and (high == 1.0).all():
        return {"low": -1.0, "high": 1.0}
    return {"low": low[0].clone(), "high": high[0].clone()}


class Heads(nn.Module):
    """The heads of an action spec: raw outputs (..., raw_dim) in, all distribution parameters out.

    ``loc`` and ``scale`` of a truncated normal are returned in units of the action.
    """

    def __init__(self, leaves: list[Leaf]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(leaf.head for leaf in leaves)
        self.sizes = [leaf.raw_dim for leaf in leaves]
        self._scaled = [
            leaf.distribution is TruncatedNormal and isinstance(leaf.bounds["low"], Tensor)
            for leaf in leaves
        ]
        for index, leaf in enumerate(leaves):
            if self._scaled[index]:
                self.register_buffer(f"low{index}", leaf.bounds["low"], persistent=False)
                self.register_buffer(f"high{index}", leaf.bounds["high"], persistent=False)

    def forward(self, raw: Tensor) -> tuple[Tensor, ...] | Tensor:
        """Return the parameters of every leaf's distribution, in the order of the leaves."""
        if raw.shape[-1] != sum(self.sizes):
            raise ValueError(
                f"raw has shape {tuple(raw.shape)}, not (..., raw_dim={sum(self.sizes)})"
            )
        params: list[Tensor] = []
        for index, part in enumerate(raw.split(self.sizes, dim=-1)):
            out = self.heads[index](part)
            if self._scaled[index]:
                out = self._in_bounds(
                    *out, self.get_buffer(f"low{index}"), self.get_buffer(f"high{index}")
                )
            params.extend(out if isinstance(out, tuple) else (out,))
        return tuple(params) if len(params) > 1 else params[0]

    @staticmethod
    def _in_bounds(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        half_width = 0.5 * (high - low)
        return (low + (loc + 1.0) * half_width).clamp(low, high), scale * half_width
