"""Parameter-free heads for continuous actions: (..., 2 D) raw outputs in, loc and scale out.

Called, each is a drop-in for ``tensordict.nn.NormalParamExtractor``.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Normal

from era_rl.core.activations import gaussian_era, truncated_normal_era
from era_rl.core.distributions import (
    TruncatedNormal,
    truncated_normal_mean,
    truncated_normal_sample,
)
from era_rl.core.entropy import at_least_float32, normal_entropy, tanh_normal_entropy
from era_rl.core.feasibility import (
    LOG_STD_MIN,
    NATS_PER_DIM,
    check_count,
    check_delta,
    check_gaussian_floor,
    check_min_entropy,
    check_truncated_floor,
)
from era_rl.core.head import Head, Params, Setting, as_number, resolve_target_entropy
from era_rl.core.truncation import (
    HALF_LOG_2PI,
    Truncation,
    second_moment,
    truncated_entropy,
    truncation,
    unit_log_prob,
)

Floor = Literal["exact", "gaussian"]


def auto_target_entropy(action_dim: int, nats_per_dim: float = NATS_PER_DIM) -> float:
    """Return the default floor, H0 = nats_per_dim action_dim, for actions normalised to [-1, 1]."""
    return nats_per_dim * action_dim


class _GaussianParams(Head):
    """What the Gaussian heads share: raw outputs (..., raw_dim) -> (loc, log_std), and Eq. 11."""

    default_in_keys = ("raw",)
    default_out_keys = ("loc", "scale")
    shown = ("action_dim", "floor")
    floor: Floor = "gaussian"
    """Whose entropy is held: the policy's own, "exact", or that of the normal it is made from."""
    log_std_min, log_std_max = Setting(), Setting()
    slack_offset: float | None = None
    """Added to the slack logit; None where there is none, so that the entropy is pinned."""
    delta: Tensor
    """Compensation in nats of Eq. 11, a buffer, which a learner may overwrite; "exact" has none."""
    _log_std_min: Tensor
    _log_std_max: Tensor

    def __init__(
        self,
        action_dim: int,
        target_entropy: float | Literal["auto"],
        log_std_min: float,
        log_std_max: float,
        delta: float | None,
        **settings: float,
    ) -> None:
        super().__init__()
        check_count("action_dim", action_dim)
        self.action_dim = action_dim
        self.raw_dim = 2 * action_dim
        nats = resolve_target_entropy(target_entropy, auto_target_entropy(action_dim))
        if delta is not None:
            check_delta(as_number("delta", delta))
            self.register_buffer("delta", torch.tensor(float(delta)))
        self._set_up(
            target_entropy=nats, log_std_min=log_std_min, log_std_max=log_std_max, **settings
        )

    @property
    def may_rise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there is a slack logit."""
        return self.slack_offset is not None

    def check(self, **settings: float) -> None:
        """Raise ValueError unless Eq. 11 can hold the settings, given by name."""
        check_gaussian_floor(**settings, action_dim=self.action_dim, delta=self.delta.item())

    def forward(self, raw: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        """Return (loc, scale, *others), scale = exp(log_std); other tensors pass through."""
        loc, log_std = self.params(raw)
        return loc, log_std.exp(), *others

    def unit_log_std(self, params: Params) -> Tensor:
        """Return log_std of actions normalised to [-1, 1], before they are bounded, (..., D)."""
        return params[1]

    def _log_std(self, raw_log_std: Tensor) -> Tensor:
        """Return Eq. 11's log_std with this head's settings, shape (..., action_dim)."""
        return gaussian_era(
            raw_log_std,
            target_entropy=self._target_entropy,
            log_std_min=self._log_std_min,
            log_std_max=self._log_std_max,
            delta=self.delta,
        )

    def _split(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if raw.dim() == 0 or raw.shape[-1] != self.raw_dim:
            raise ValueError(f"raw has shape {tuple(raw.shape)}, not (..., raw_dim={self.raw_dim})")
        (raw,) = at_least_float32(raw)
        loc, log_std, slack = raw.tensor_split((self.action_dim, 2 * self.action_dim), dim=-1)
        return loc, log_std, slack


class GaussianHead(_GaussianParams):
    """An unbounded normal with Eq. 11 on its log_std: see :func:`gaussian_era`.

    Args:
        action_dim: D.
        target_entropy: H0 in nats over all dimensions, or "auto" = -0.5 D.
        log_std_min: Lower bound of log_std.
        log_std_max: Upper bound of log_std.
        delta: Compensation in nats, kept in the buffer ``delta``, which a learner may overwrite.
        half_range: Half the range of the actions, shape (action_dim,): floor, bounds and entropy are
            those of std in units of it. None for actions as they are.

    Raises:
        ValueError: If an argument is outside its range, or the floor infeasible.
    """

    log_half_range: Tensor | None

    def __init__(
        self,
        action_dim: int,
        *,
        target_entropy: float | Literal["auto"] = "auto",
        log_std_min: float = LOG_STD_MIN,
        log_std_max: float = 0.0,
        delta: float = 0.0,
        half_range: Tensor | None = None,
    ) -> None:
        super().__init__(action_dim, target_entropy, log_std_min, log_std_max, delta)
        log_half_range = None if half_range is None else half_range.log()
        self.register_buffer("log_half_range", log_half_range, persistent=False)

    def params(self, raw: Tensor) -> Params:
        """Return (loc, log_std) of raw outputs (..., 2 action_dim), loc unchanged."""
        loc, raw_log_std, _ = self._split(raw)
        log_std = self._log_std(raw_log_std)
        return loc, log_std if self.log_half_range is None else log_std + self.log_half_range

    def distribution(self, params: Params) -> Normal:
        """Return the normals of the parameters, for a squashed policy those before the squashing."""
        loc, log_std = params
        return Normal(loc, log_std.exp())

    def draw_noise(self, like: Tensor) -> Tensor:
        """Return standard normal noise of the shape of ``like``."""
        return torch.randn_like(like)

    def sample(self, params: Params, noise: Tensor, shared: Any = None) -> Tensor:
        """Return loc + exp(log_std) noise, shape (..., action_dim)."""
        loc, log_std = params
        return torch.addcmul(loc, log_std.exp(), noise)

    def log_prob(self, params: Params, action: Tensor, shared: Any = None) -> Tensor:
        """Return ln p = sum_i -xi_i^2 / 2 - log_std_i - ln(2 pi) / 2, xi = (a - loc) / sigma, (...)."""
        loc, log_std = params
        xi = (action - loc) * torch.exp(-log_std)
        return (-0.5 * xi * xi - log_std - HALF_LOG_2PI).sum(-1)

    def entropies(self, params: Params, shared: Any = None) -> Tensor:
        """Return log_std_i + ln(2 pi e) / 2, of actions in units of half the range, (..., D)."""
        return normal_entropy(self.unit_log_std(params))

    def unit_log_std(self, params: Params) -> Tensor:
        """Return log_std in units of half the range, (..., D)."""
        log_std, scale = params[1], self.log_half_range
        return log_std if scale is None else log_std - scale

    def mode(self, params: Params) -> Tensor:
        """Return loc, shape (..., action_dim)."""
        return params[0]

    mean = mode

    def _location(self, raw: Tensor) -> Params:
        return (self._split(raw)[0],)


class TanhGaussianHead(GaussianHead):
    """A normal with Eq. 11 on its log_std, squashed by tanh: arguments as for :class:`GaussianHead`.

    The floor is that of the normal before the squashing; the tanh takes away an amount that depends
    on the state, so that the policy has no floor per state. ``params`` are those before the squashing.
    """

    holds_own_entropy = False

    def sample(self, params: Params, noise: Tensor, shared: Any = None) -> Tensor:
        """Return tanh(loc + exp(log_std) noise), shape (..., action_dim)."""
        return torch.tanh(super().sample(params, noise))

    def log_prob(self, params: Params, action: Tensor, shared: Any = None) -> Tensor:
        """Return ln p = ln N(x; loc, sigma) - sum_i ln(1 - a_i^2), a = tanh(x), shape (...).

        Actions are kept a rounding inside of +-1, where x would be infinite.
        """
        inside = 1.0 - torch.finfo(action.dtype).eps
        action = action.clamp(-inside, inside)
        slope = torch.log1p(-action * action).sum(-1)
        return super().log_prob(params, torch.atanh(action)) - slope

    def entropies(self, params: Params, shared: Any = None) -> Tensor:
        """Return :func:`tanh_normal_entropy`, shape (..., D)."""
        return tanh_normal_entropy(*params)

    mean = Head.mean

    def mode(self, params: Params) -> Tensor:
        """Return tanh(loc), as SB3 does, shape (..., action_dim)."""
        return torch.tanh(params[0])


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
        min_entropy_per_dim: For "exact": the least entropy of every dimension, in nats, at most H0 / D;
            None lets the network take all noise from a dimension, as far as ``log_std_min``. What was
            constructed with one may change it.

    Raises:
        ValueError: If an argument is outside its range, or the floor infeasible.
    """

    min_entropy_per_dim = Setting()
    """The least entropy of every dimension; -inf where there is none."""
    _min_entropy_per_dim: Tensor

    def __init__(
        self,
        action_dim: int,
        *,
        target_entropy: float | Literal["auto"] = "auto",
        floor: Floor = "exact",
        log_std_min: float = LOG_STD_MIN,
        log_std_max: float = 0.0,
        delta: float = 0.0,
        slack: float | None = None,
        min_entropy_per_dim: float | None = None,
    ) -> None:
        if floor not in ("exact", "gaussian"):
            raise ValueError(f"floor={floor!r} must be 'exact' or 'gaussian'")
        if slack is not None and floor == "gaussian":
            raise ValueError(f"slack={slack} needs floor='exact'")
        if slack is not None and not 0.0 < as_number("slack", slack) < 1.0:
            raise ValueError(f"slack={slack} must be in (0, 1), or None")
        if delta != 0.0 and floor == "exact":
            raise ValueError(f"delta={delta} needs floor='gaussian'; the exact floor has no bias")
        if min_entropy_per_dim is not None and floor == "gaussian":
            raise ValueError(f"min_entropy_per_dim={min_entropy_per_dim} needs floor='exact'")
        self.floor, self.holds_own_entropy = floor, floor == "exact"
        self._caps_shares = min_entropy_per_dim is not None
        super().__init__(
            action_dim,
            target_entropy,
            log_std_min,
            log_std_max,
            delta if floor == "gaussian" else None,
            min_entropy_per_dim=-math.inf if min_entropy_per_dim is None else min_entropy_per_dim,
        )
        if slack is not None:
            self.raw_dim += 1
            self.slack_offset = math.log(action_dim) + math.log(slack / (1.0 - slack))

    def check(self, **settings: float) -> None:
        """Raise ValueError unless the floor of this head can hold the settings, given by name."""
        least = settings.pop("min_entropy_per_dim")
        if self.floor == "gaussian":
            return super().check(**settings)
        if (highest := settings["log_std_max"]) != 0.0:
            raise ValueError(
                f"log_std_max={highest} needs floor='gaussian'; the exact floor has none"
            )
        check_truncated_floor(settings["target_entropy"], self.action_dim, settings["log_std_min"])
        if self._caps_shares:
            check_min_entropy(least, settings["target_entropy"], self.action_dim)
        elif least != -math.inf:
            raise ValueError(
                f"min_entropy_per_dim={least} needs a head that was constructed with one"
            )

    def params(self, raw: Tensor) -> Params:
        """Return (loc, log_std), each (..., action_dim), of raw outputs (..., raw_dim)."""
        loc, raw_log_std, slack = self._split(raw)
        loc = torch.tanh(loc)
        if self.floor == "gaussian":
            return loc, self._log_std(raw_log_std)
        return loc, truncated_normal_era(
            loc,
            raw_log_std,
            target_entropy=self._target_entropy,
            log_std_min=self._log_std_min,
            slack_logit=None if self.slack_offset is None else slack + self.slack_offset,
            min_entropy_per_dim=self._min_entropy_per_dim if self._caps_shares else None,
        )

    def distribution(self, params: Params) -> TruncatedNormal:
        """Return the truncated normals of the parameters: ``stddev`` is that of the actions."""
        loc, log_std = params
        return TruncatedNormal(loc, log_std.exp(), event_dims=0)

    def sample(self, params: Params, noise: Tensor, shared: Truncation | None = None) -> Tensor:
        """Return the actions in [-1, 1] that the noise gives (:func:`truncated_normal_sample`)."""
        loc, log_std = params
        return truncated_normal_sample(loc, log_std, noise, shared)

    def shared(self, params: Params) -> Truncation:
        """Return the truncation of the parameters."""
        return truncation(*params)

    def log_prob(self, params: Params, action: Tensor, shared: Truncation | None = None) -> Tensor:
        """Return sum_i :func:`truncated_normal_log_prob`, shape (...)."""
        loc, log_std = params
        t = shared or truncation(loc, log_std)
        return unit_log_prob(loc, log_std, action, t).sum(-1)

    def entropies(self, params: Params, shared: Truncation | None = None) -> Tensor:
        """Return :func:`truncated_normal_entropy`, shape (..., D)."""
        t = shared or truncation(*params)
        return truncated_entropy(params[1], t, second_moment(t))

    def mode(self, params: Params) -> Tensor:
        """Return loc, tanh(raw mean), shape (..., action_dim)."""
        return params[0]

    def mean(self, params: Params) -> Tensor:
        """Return :func:`truncated_normal_mean`, which is within the mode near a bound."""
        return truncated_normal_mean(*params)

    def _location(self, raw: Tensor) -> Params:
        return (torch.tanh(self._split(raw)[0]),)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        if f"{prefix}gaussian.delta" in state_dict:  # its name in files of before
            state_dict[f"{prefix}delta"] = state_dict.pop(f"{prefix}gaussian.delta")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
