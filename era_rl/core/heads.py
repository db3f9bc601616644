"""Parameter-free heads: raw network outputs in, distribution parameters with an entropy floor out.

Each is an ``nn.Module`` on plain tensors, a drop-in for ``tensordict.nn.NormalParamExtractor``; its
``as_tensordict_module`` gives the same computation with ``in_keys`` and ``out_keys``.
"""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, SupportsFloat

import torch
from tensordict import NestedKey
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from era_rl.core.activations import gaussian_era, truncated_normal_era
from era_rl.core.entropy import at_least_float32
from era_rl.core.feasibility import check_count, check_gaussian_floor, check_truncated_floor

Floor = Literal["exact", "gaussian"]


def auto_target_entropy(action_dim: int, nats_per_dim: float = -0.5) -> float:
    """Return the default floor, H0 = nats_per_dim action_dim, for actions normalised to [-1, 1]."""
    return nats_per_dim * action_dim


class Head(nn.Module):
    """A parameter-free module from raw outputs to distribution parameters."""

    default_in_keys: ClassVar[tuple[str, ...]]
    default_out_keys: ClassVar[tuple[str, ...]]

    def as_tensordict_module(
        self,
        in_keys: Sequence[NestedKey] | None = None,
        out_keys: Sequence[NestedKey] | None = None,
    ) -> TensorDictModule:
        """Return the head as a TensorDict module, by default raw -> loc, scale or logits -> logits."""
        return TensorDictModule(
            self,
            in_keys=list(in_keys or self.default_in_keys),
            out_keys=list(out_keys or self.default_out_keys),
        )


class _GaussianParams(Head):
    """What the two Gaussian heads share: raw outputs (..., raw_dim) -> (loc, scale)."""

    default_in_keys = ("raw",)
    default_out_keys = ("loc", "scale")
    raw_dim: int
    """Number of raw outputs that the head consumes."""
    slack_offset: float | None = None
    """Added to the slack logit; None where there is none, so that the entropy is pinned."""

    def __init__(self, action_dim: int, target_entropy: float | Literal["auto"]) -> None:
        super().__init__()
        check_count("action_dim", action_dim)
        self.action_dim = action_dim
        self.raw_dim = 2 * action_dim
        self.target_entropy = resolve_target_entropy(
            target_entropy, auto_target_entropy(action_dim)
        )

    def loc_log_std(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loc, log_std), each (..., action_dim), of raw outputs (..., raw_dim)."""
        raise NotImplementedError

    def forward(self, raw: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Return (loc, scale, *others), scale = exp(log_std); other tensors pass through."""
        loc, log_std = self.loc_log_std(raw)
        return loc, log_std.exp(), *others

    def _split(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if raw.dim() == 0 or raw.shape[-1] != self.raw_dim:
            raise ValueError(f"raw has shape {tuple(raw.shape)}, not (..., raw_dim={self.raw_dim})")
        (raw,) = at_least_float32(raw)
        loc, log_std, slack = raw.tensor_split((self.action_dim, 2 * self.action_dim), dim=-1)
        return loc, log_std, slack


class GaussianHead(_GaussianParams):
    """An unbounded (or tanh-squashed) Gaussian with Eq. 11 on its log_std: see :func:`gaussian_era`.

    The floor is that of the Gaussian before any squashing; a tanh takes away an amount that depends
    on the state, so that the squashed policy has no floor per state.

    Args:
        action_dim: D.
        target_entropy: H0 in nats over all dimensions, or "auto" = -0.5 D.
        log_std_min: Lower bound of log_std.
        log_std_max: Upper bound of log_std.
        delta: Compensation in nats, kept in the buffer ``delta``, which a learner may overwrite.

    Raises:
        ValueError: If an argument is outside its range, or the floor infeasible.
    """

    delta: Tensor

    def __init__(
        self,
        action_dim: int,
        *,
        target_entropy: float | Literal["auto"] = "auto",
        log_std_min: float = -8.0,
        log_std_max: float = 0.0,
        delta: float = 0.0,
    ) -> None:
        super().__init__(action_dim, target_entropy)
        check_gaussian_floor(self.target_entropy, action_dim, log_std_min, log_std_max, delta)
        self.log_std_min, self.log_std_max = log_std_min, log_std_max
        self.register_buffer("delta", torch.tensor(float(delta)))

    def loc_log_std(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loc, log_std) of raw outputs (..., 2 action_dim), loc unchanged."""
        loc, raw_log_std, _ = self._split(raw)
        return loc, self.log_std(raw_log_std)

    def log_std(self, raw_log_std: Tensor) -> Tensor:
        """Return Eq. 11's log_std with this head's settings, shape (..., action_dim)."""
        return gaussian_era(
            raw_log_std,
            target_entropy=self.target_entropy,
            log_std_min=self.log_std_min,
            log_std_max=self.log_std_max,
            delta=self.delta,
        )


class TruncatedGaussianHead(_GaussianParams):
    """A normal truncated to [-1, 1], loc = tanh(raw mean), with an entropy floor.

    ``floor="exact"`` holds the policy's own entropy (:func:`truncated_normal_era`);
    ``floor="gaussian"`` holds that of the normal before truncation (Eq. 11), as the paper does.

    Args:
        action_dim: D.
        target_entropy: H0 in nats over all dimensions, or "auto" = -0.5 D.
        floor: "exact" or "gaussian".
        log_std_min: Lower bound of log_std.
        log_std_max: Upper bound of log_std; only for "gaussian" (the exact floor needs none).
        delta: Compensation in nats; only for "gaussian".
        slack: For "exact": the share of the entropy budget left unspent at the start, in (0, 1), for
            a policy whose entropy may rise above the floor; the head then consumes 2 D + 1 outputs,
            the slack logit last, offset by ln D + logit(slack). None spends it all.

    Raises:
        ValueError: If an argument is outside its range, or the floor infeasible.
    """

    def __init__(
        self,
        action_dim: int,
        *,
        target_entropy: float | Literal["auto"] = "auto",
        floor: Floor = "exact",
        log_std_min: float = -8.0,
        log_std_max: float = 0.0,
        delta: float = 0.0,
        slack: float | None = None,
    ) -> None:
        super().__init__(action_dim, target_entropy)
        self.gaussian = None
        if floor == "gaussian":
            if slack is not None:
                raise ValueError(f"slack={slack} needs floor='exact'")
            self.gaussian = GaussianHead(
                action_dim,
                target_entropy=target_entropy,
                log_std_min=log_std_min,
                log_std_max=log_std_max,
                delta=delta,
            )
        elif floor == "exact":
            if delta != 0.0:
                raise ValueError(
                    f"delta={delta} needs floor='gaussian'; the exact floor has no bias"
                )
            if log_std_max != 0.0:
                raise ValueError(
                    f"log_std_max={log_std_max} needs floor='gaussian'; the exact floor has none"
                )
            check_truncated_floor(self.target_entropy, action_dim, log_std_min)
        else:
            raise ValueError(f"floor={floor!r} must be 'exact' or 'gaussian'")
        if slack is not None:
            if not 0.0 < slack < 1.0:
                raise ValueError(f"slack={slack} must be in (0, 1), or None")
            self.raw_dim += 1
            self.slack_offset = math.log(action_dim) + math.log(slack / (1.0 - slack))
        self.floor = floor
        self.log_std_min = log_std_min

    def loc_log_std(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return (loc, log_std), each (..., action_dim), of raw outputs (..., raw_dim)."""
        loc, raw_log_std, slack = self._split(raw)
        loc = torch.tanh(loc)
        if self.gaussian is not None:
            return loc, self.gaussian.log_std(raw_log_std)
        return loc, truncated_normal_era(
            loc,
            raw_log_std,
            target_entropy=self.target_entropy,
            log_std_min=self.log_std_min,
            slack_logit=None if self.slack_offset is None else slack + self.slack_offset,
        )


def resolve_target_entropy(target_entropy: float | Literal["auto"], auto: float) -> float:
    """Return ``auto`` for "auto", or the number given; ValueError for anything else."""
    if isinstance(target_entropy, str) and target_entropy == "auto":
        return auto
    if isinstance(target_entropy, str) or not isinstance(target_entropy, SupportsFloat):
        raise ValueError(f"target_entropy={target_entropy!r} must be a number of nats or 'auto'")
    return float(target_entropy)
