"""Actors with an entropy floor for any action spec, as TorchRL's own ProbabilisticActor."""

from collections.abc import Sequence
from typing import Any

from tensordict import NestedKey, TensorDictBase
from tensordict.nn import (
    CompositeDistribution,
    TensorDictModule,
    TensorDictModuleBase,
    TensorDictSequential,
)
from torch import Tensor, nn
from torchrl.data import Composite, TensorSpec
from torchrl.modules import ProbabilisticActor

from era_rl.core import Head, TruncatedGaussianHead
from era_rl.torchrl.specs import Heads, Leaf, Options, action_leaves

ERAParamExtractor = TruncatedGaussianHead
"""The drop-in for ``NormalParamExtractor``: raw outputs (..., raw_dim) -> (loc, scale) on [-1, 1]."""


class ERAActor(ProbabilisticActor):
    """A probabilistic actor whose policy has at least ``target_entropy`` nats in every state.

    The network's raw outputs pass through the head of the action spec: a bounded spec gets a
    truncated normal (or a tanh-squashed one with Eq. 11, whose floor is not per state), a categorical
    or one-hot spec a softmax with a floor, a composite spec one head a leaf, the raw outputs split in
    the order of its leaves. Floors are those of actions normalised to [-1, 1], whatever the bounds.
    ``ExplorationType.DETERMINISTIC`` takes the mode (for "tanh", tanh(loc)); ``MEAN`` is for bounded
    actions.

    Parameters of the policy are written beside the action: ``loc``, ``scale`` (in units of the
    action; for "tanh" before the squashing) or ``logits``; for a composite spec under
    ``("params", leaf)``.

    SAC and PPO from TorchRL's parts are in docs/tutorials/torchrl.md.

    Args:
        module: Network from ``in_keys`` to one tensor (..., :func:`raw_dim` of the spec), or a
            TensorDict module whose one out_key is that tensor.
        action_spec: The spec of one action, batched or not: ``env.action_spec``, or a Composite. A
            bounded action is a vector: dimensions before the last are those of the batch, which nothing
            tells from the rows of a matrix. Flatten matrices by a wrapper of the environment: otherwise
            it gets vectors, or of a network (..., rows, raw_dim) rows with a floor each. On the device
            of the network, ``env.action_spec.to(device)``: bounds other than [-1, 1] stay where the
            spec has them when the actor is moved, and are then copied at every call.
        options: What is asked of the policy: ``PolicyOptions(target_entropy=-3.0)``, for PPO and A2C
            ``OnPolicyOptions()``, whose default floor is theirs; for a composite spec also a mapping
            from its leaf keys to such options.
        in_keys: What the network reads, where ``module`` is a plain ``nn.Module``.
        action_key: Where the action is written; a composite spec's keys name its own actions.
        noise_key: Read the uniform noise of the samples, (..., action_dim) or (..., 1), from this key.
        mask_key: Read which actions are valid, (..., num_actions), from this key, "action_mask" for
            TorchRL's ActionMask: the others get no probability, and the floor is the same fraction
            of the largest entropy of those that are.
        **kwargs: Arguments of ProbabilisticActor, such as ``return_log_prob``.

    Raises:
        ValueError: If the spec is not one of these, a bound is not finite, the batch shapes of a
            composite's leaves differ, a mask would be ignored (also at a call, where the spec has got
            one, or the data has an "action_mask" beside the action), or the floor cannot be held.
    """

    def __init__(
        self,
        module: nn.Module | TensorDictModuleBase,
        action_spec: TensorSpec,
        options: Options | None = None,
        *,
        in_keys: Sequence[NestedKey] = ("observation",),
        action_key: NestedKey = "action",
        noise_key: NestedKey | None = None,
        mask_key: NestedKey | None = None,
        **kwargs: Any,
    ) -> None:
        leaves = action_leaves(action_spec, action_key, options)
        _check_mask(action_spec, leaves, mask_key)
        one = len(leaves) == 1
        prefix = _path(leaves[0].key)[:-1] if one else ()
        if not isinstance(module, TensorDictModuleBase):
            module = TensorDictModule(module, list(in_keys), [(*prefix, "raw")])
        read = [*module.out_keys, *([] if mask_key is None else [mask_key])]
        params = [
            (*(prefix if one else ("params", *_path(leaf.key))), name)
            for leaf in leaves
            for name in leaf.head.default_out_keys
        ]
        heads = TensorDictModule(Heads(leaves), read, params)
        super().__init__(
            TensorDictSequential(module, heads),
            spec=_composite(action_spec, leaves),
            **(_one_leaf(leaves[0], params, noise_key) if one else _several(leaves, noise_key)),
            **kwargs,
        )
        self._leaves = leaves
        self._given_spec, self._mask_key = action_spec, mask_key

    def get_dist_params(self, tensordict: TensorDictBase, *args: Any, **kwargs: Any) -> Any:
        """Return the distribution's parameters (TensorDict's hook); ValueError for an unread mask."""
        for leaf in self._leaves if self._mask_key is None else ():
            *parents, _ = _path(leaf.key)
            key = (*parents, "action_mask") if parents else "action_mask"
            if not leaf.bounds and tensordict.get(key, None) is not None:
                raise ValueError(
                    f"the data has {key!r}, which this actor does not read: give mask_key={key!r}"
                )
        # ActionMask gives its spec a mask in reset: the actor was made of one without
        _check_mask(self._given_spec, self._leaves, self._mask_key)
        return super().get_dist_params(tensordict, *args, **kwargs)

    def entropy(self, tensordict: TensorDictBase) -> Tensor:
        """Return the policy's own entropy in nats, shape (...), for actions normalised to [-1, 1]."""
        network, heads = self[0]
        data = network(tensordict.select(*self[0].in_keys))
        return heads.module.entropy(*(data[key] for key in heads.in_keys))

    @property
    def target_entropy(self) -> float:
        """H0 in nats, summed over the actions of a composite spec."""
        return sum(head.target_entropy for head in self.heads)

    @property
    def heads(self) -> list[Head]:
        """The head of each action."""
        return [leaf.head for leaf in self._leaves]

    @property
    def bounds(self) -> dict[str, Any]:
        """``low`` and ``high`` of a single bounded action, numbers or tensors; else empty."""
        return self._leaves[0].bounds if len(self._leaves) == 1 else {}

    @property
    def gaussian_head(self) -> Head:
        """The head that holds Eq. 11 and its delta.

        Raises:
            ValueError: If the actor has none: it needs floor="gaussian" or distribution="tanh".
        """
        heads = self.heads
        if len(heads) != 1 or getattr(heads[0], "floor", None) != "gaussian":
            raise ValueError("delta needs one action with floor='gaussian' or distribution='tanh'")
        return heads[0]


def _check_mask(action_spec: TensorSpec, leaves: list[Leaf], mask_key: NestedKey | None) -> None:
    """Raise ValueError where a mask has nothing to hide, or would be ignored."""
    if mask_key is not None:
        if len(leaves) != 1 or leaves[0].bounds:
            raise ValueError(f"mask_key={mask_key!r} needs a spec with one discrete action")
        return
    for leaf in leaves:
        spec = action_spec[leaf.key] if isinstance(action_spec, Composite) else action_spec
        if getattr(spec, "mask", None) is not None:
            raise ValueError(
                f"the action spec of {leaf.key!r} has a mask: give mask_key, where the data has it"
                " ('action_mask' with TorchRL's ActionMask)"
            )


def _one_leaf(
    leaf: Leaf, params: list[tuple[str, ...]], noise_key: NestedKey | None
) -> dict[str, Any]:
    """Return ProbabilisticActor's arguments for a spec with one action."""
    keys: dict[str, NestedKey] = {key[-1]: key for key in params}
    distribution = leaf.distribution
    if noise_key is not None:
        if leaf.noise_distribution is None:
            raise ValueError(f"noise_key={noise_key!r} needs distribution='truncated'")
        keys["noise"], distribution = noise_key, leaf.noise_distribution
    return {
        "in_keys": keys,
        "out_keys": [leaf.key],
        "distribution_class": distribution,
        "distribution_kwargs": leaf.bounds,
    }


def _several(leaves: list[Leaf], noise_key: NestedKey | None) -> dict[str, Any]:
    """Return ProbabilisticActor's arguments for a composite spec."""
    if noise_key is not None:
        raise ValueError(f"noise_key={noise_key!r} needs a spec with one action")
    return {
        "in_keys": ["params"],
        "out_keys": [leaf.key for leaf in leaves],
        "distribution_class": CompositeDistribution,
        "distribution_kwargs": {
            "distribution_map": {leaf.key: leaf.distribution for leaf in leaves},
            "extra_kwargs": {leaf.key: leaf.bounds for leaf in leaves},
        },
    }


def _path(key: NestedKey) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else tuple(key)


def _composite(action_spec: TensorSpec, leaves: list[Leaf]) -> Composite:
    """Return the spec as a Composite under its action's key."""
    if isinstance(action_spec, Composite):
        return action_spec.clone()
    spec: Any = action_spec
    for name in reversed(_path(leaves[0].key)):
        spec = Composite({name: spec})
    return spec
