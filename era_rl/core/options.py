"""What can be asked of a policy with an entropy floor, whatever library it acts in."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from era_rl.core.categorical_heads import MultiCategoricalHead
from era_rl.core.entropy import normal_entropy, truncated_normal_entropy
from era_rl.core.feasibility import (
    AUTO_FRACTION,
    LOG_STD_MIN,
    NATS_PER_DIM,
    ON_POLICY_LOG_STD_MIN,
    ON_POLICY_NATS_PER_DIM,
)
from era_rl.core.gaussian_heads import (
    Floor,
    GaussianHead,
    TanhGaussianHead,
    TruncatedGaussianHead,
    auto_target_entropy,
)
from era_rl.core.head import DeterministicAction, Head, as_number
from era_rl.core.schedule import Schedule, read_schedule

BoundedDistribution = Literal["truncated", "tanh", "normal"]
BoundedHead = TruncatedGaussianHead | GaussianHead
_FLOORS = ("target_entropy", "nats_per_dim", "target_entropy_fraction")
"""The options that say how high the floor is, one of which may be a schedule."""

_CHOICES = {
    "distribution": BoundedDistribution,
    "deterministic_action": DeterministicAction,
    "floor": Floor,
}
_OTHER_VALUES: dict[str, tuple[str | None, str]] = {
    "target_entropy": ("auto", "a number of nats or 'auto'"),
    "delta": ("auto", "a number of nats, at least 0, or 'auto'"),
    "slack": (None, "a number in (0, 1), or None"),
    "min_entropy_per_dim": (None, "a number of nats or None"),
}
"""What an option may be beside a number, and what its error says."""


@dataclass(frozen=True)
class PolicyOptions:
    """The options of a policy, by default those of SAC, TQC and CrossQ; a value, compared by value.

    A new option is a field here and what reads it: the algorithms of era_rl.sb3 take the fields as
    arguments, hand them on whole, and save them.

    The floor may change while training: one of the first three is a schedule then, a function of the
    remaining progress, which falls from 1 to 0, or the fields of an
    :class:`~era_rl.core.EntropySchedule`, by name or in order. What trains follows it (:meth:`at`).

    Attributes:
        target_entropy: H0 in nats, summed over action dimensions (of actions normalised to [-1, 1])
            or components; "auto" = ``nats_per_dim`` action_dim, or for discrete actions
            ``target_entropy_fraction`` of the largest entropy (not SB3's -action_dim).
        nats_per_dim: H0 per action dimension, where ``target_entropy`` is "auto".
        target_entropy_fraction: For discrete actions, H0 as a fraction of the largest entropy, in
            [0, 1), where ``target_entropy`` is "auto".
        floor: "exact" holds the policy's own entropy in every state, and is the default of a
            truncated normal; "gaussian" is the paper's Eq. 11, which holds that of the normal before
            it is truncated or squashed, and the only one of the others.
        delta: Compensation in nats for "gaussian", or "auto" to learn it: then the floor holds in
            expectation only.
        log_std_min: Lower bound of log_std; clamping to it only adds entropy.
        log_std_max: Upper bound of log_std, for "gaussian".
        slack: For "exact", the share of the entropy budget left unspent at the start, in (0, 1);
            None pins the entropy at the floor wherever log_std_min does not lift it.
        min_entropy_per_dim: For "exact", the least entropy of every dimension, in nats, at most
            target_entropy / action_dim: the floor on the sum alone lets the network take all noise
            from a dimension. None sets none.
        distribution: For bounded actions: "truncated" (normal truncated to [-1, 1]), "tanh" (squashed
            normal: its floor is not per state) or "normal" (unbounded, its std in units of half the
            range; the host clips its actions).
        deterministic_action: What deterministic actions are: "mode", for a truncated or squashed
            normal tanh of the network's output, or "mean" ("truncated" only), which lies inside of it
            near a bound, where the policy's noise has only one side.

    Raises:
        ValueError: For options that exclude each other, or are not one of those allowed.
    """

    target_entropy: float | Literal["auto"] | Schedule = "auto"
    nats_per_dim: float | Schedule = NATS_PER_DIM
    target_entropy_fraction: float | Schedule = AUTO_FRACTION
    floor: Floor | None = None
    delta: float | Literal["auto"] = 0.0
    log_std_min: float = LOG_STD_MIN
    log_std_max: float = 0.0
    slack: float | None = None
    min_entropy_per_dim: float | None = None
    distribution: BoundedDistribution = "truncated"
    deterministic_action: DeterministicAction = "mode"

    def __post_init__(self) -> None:
        for name in _FLOORS:
            object.__setattr__(self, name, read_schedule(name, getattr(self, name)))
        self._check_choices()
        self._check_numbers()
        self._check_distribution()
        if self.delta == "auto" and self.distribution == "normal":
            raise ValueError("delta='auto' must be left out with distribution='normal': no bias")
        if self.delta == "auto" and self.floor_kind != "gaussian":
            raise ValueError("delta='auto' needs floor='gaussian', not 'exact': there is no bias")
        if self.target_entropy != "auto":
            for name in _FLOORS[1:]:
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(
                        f"target_entropy={self.target_entropy} and {name}={getattr(self, name)} "
                        "exclude each other"
                    )

    def _check_choices(self) -> None:
        for name, kind in _CHOICES.items():
            value, allowed = getattr(self, name), get_args(kind)
            known = isinstance(value, str) and value in allowed
            if not known and not (name == "floor" and value is None):
                *others, last = map(repr, allowed)
                raise ValueError(f"{name}={value!r} must be {', '.join(others)} or {last}")

    def _check_numbers(self) -> None:
        for field in fields(PolicyOptions):
            value = getattr(self, field.name)
            word, allowed = _OTHER_VALUES.get(field.name, ("", "a number"))
            is_word = isinstance(value, str | None) and value == word
            is_schedule = field.name in _FLOORS and callable(value)
            if field.name not in _CHOICES and not is_word and not is_schedule:
                as_number(field.name, value, allowed)

    def _check_distribution(self) -> None:
        if self.distribution == "truncated":
            return
        other = f"distribution={self.distribution!r}"
        if self.floor == "exact":
            raise ValueError(f"floor='exact' must be 'gaussian', or left out, with {other}")
        if self.slack is not None:
            raise ValueError(f"slack={self.slack} must be None with {other}")
        if self.min_entropy_per_dim is not None:
            raise ValueError(
                f"min_entropy_per_dim={self.min_entropy_per_dim} must be None with {other}"
            )
        self.refuse_mean(other)

    def refuse_mean(self, policy: str) -> None:
        """Raise ValueError where a policy other than the truncated normal is to act by its mean."""
        if self.deterministic_action != "mode":
            raise ValueError(
                f"deterministic_action={self.deterministic_action!r} must be 'mode' for {policy}: the "
                "mean is for the truncated normal"
            )

    @property
    def floor_kind(self) -> Floor:
        """Whose entropy is held: ``floor``, or the default of the distribution."""
        return self.floor or ("exact" if self.distribution == "truncated" else "gaussian")

    @property
    def scheduled(self) -> bool:
        """Whether the floor is to change while training."""
        return bool(self._schedules())

    def _schedules(self) -> dict[str, Any]:
        return {name: value for name in _FLOORS if callable(value := getattr(self, name))}

    def at(self, progress_remaining: float) -> Self:
        """Return the options with what a schedule gives at a remaining progress in its place.

        Below 0, where a host's last rollout passes the end, it stays what it is at 0.
        """
        progress_remaining = max(progress_remaining, 0.0)
        now = {n: as_number(n, f(progress_remaining)) for n, f in self._schedules().items()}
        return replace(self, **now) if now else self

    def with_floor(self, target_entropy: Any) -> Self:
        """Return the options with another floor in nats, in the place of those given."""
        defaults = {name: getattr(type(self), name) for name in _FLOORS[1:]}
        return replace(self, **defaults, target_entropy=target_entropy)

    def floor_at(self, progress_remaining: float, head: Any) -> float:
        """Return the floor, in nats, that a head is to hold at a remaining progress.

        Raises:
            ValueError: If a schedule gives no number.
        """
        now = self.at(progress_remaining)
        if now.target_entropy != "auto":
            return as_number("target_entropy", now.target_entropy)
        if isinstance(head, MultiCategoricalHead):
            return as_number(_FLOORS[2], now.target_entropy_fraction) * head.max_entropy
        return auto_target_entropy(head.action_dim, as_number(_FLOORS[1], now.nats_per_dim))

    def check_schedule(self, head: Head) -> None:
        """Raise ValueError unless a head can hold a schedule's last floor."""
        if self.scheduled:
            head.check(**{**head.settings(), "target_entropy": self.floor_at(0.0, head)})

    def _refuse_schedule(self) -> None:
        """Raise ValueError where nothing would follow a schedule."""
        if given := self._schedules():
            raise ValueError(
                f"the schedule in {given} must be followed by what trains: take options.at(1.0), and "
                "set head.target_entropy as the training goes on"
            )

    def bounded_head(self, action_dim: int, half_range: Tensor | None = None) -> BoundedHead:
        """Return the head of bounded actions.

        Args:
            action_dim: D.
            half_range: Half the range of the actions, shape (action_dim,), for "normal" only: the
                others' actions are in [-1, 1].
        """
        self._refuse_schedule()
        if self.target_entropy_fraction != AUTO_FRACTION:
            raise ValueError(
                f"target_entropy_fraction={self.target_entropy_fraction} is for discrete actions: use "
                "target_entropy or nats_per_dim"
            )
        target: Any = self.target_entropy
        if target == "auto":
            target = auto_target_entropy(action_dim, as_number("nats_per_dim", self.nats_per_dim))
        shared: dict[str, Any] = {
            "target_entropy": target,
            "log_std_min": self.log_std_min,
            "log_std_max": self.log_std_max,
            "delta": 0.0 if self.delta == "auto" else self.delta,
        }
        if self.distribution == "truncated":
            shared |= {"slack": self.slack, "min_entropy_per_dim": self.min_entropy_per_dim}
            head: BoundedHead = TruncatedGaussianHead(action_dim, floor=self.floor_kind, **shared)
        elif self.distribution == "tanh":
            head = TanhGaussianHead(action_dim, **shared)
        else:
            head = GaussianHead(action_dim, half_range=half_range, **shared)
        _warn_of_a_void_floor(head)
        return head

    def discrete_head(self, num_actions: Sequence[int]) -> MultiCategoricalHead:
        """Return the head of discrete actions, of the numbers of actions of its components.

        Raises:
            ValueError: For an option of bounded actions, or a floor that is out of range.
        """
        self._refuse_schedule()
        self.refuse_mean("discrete actions")
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and not field.name.startswith("target_entropy"):
                raise ValueError(
                    f"{field.name}={value!r} is for bounded actions, not for discrete ones"
                )
        target: Any = self.target_entropy
        fraction: Any = self.target_entropy_fraction if target == "auto" else None
        return MultiCategoricalHead(
            num_actions, target_entropy=target, target_entropy_fraction=fraction
        )

    @classmethod
    def of_before(
        cls,
        head_kwargs: Mapping[str, Any],
        distribution: BoundedDistribution = "truncated",
        deterministic_action: DeterministicAction = "mode",
    ) -> Self:
        """Return the options that a policy saved before there were options was made with."""
        given = {name: value for name, value in head_kwargs.items() if value is not None}
        if given.pop("squash", True) is False:
            distribution = "normal"
        return cls(**given, distribution=distribution, deterministic_action=deterministic_action)


def _warn_of_a_void_floor(head: BoundedHead) -> None:
    log_std = torch.tensor(head.log_std_min, dtype=torch.float64, device="cpu")
    if head.floor == "exact":  # the entropy is least where the mode is at a bound
        least = head.action_dim * truncated_normal_entropy(log_std.new_ones(()), log_std).item()
    else:
        least = head.action_dim * normal_entropy(log_std).item() - head.delta.item()
    if head.target_entropy <= least:
        warnings.warn(
            f"target_entropy={head.target_entropy:.6g} has no effect: log_std_min="
            f"{head.log_std_min:.6g} alone keeps the entropy of {head.action_dim} dimension(s) above "
            f"{least:.6g} nats",
            stacklevel=3,
        )


@dataclass(frozen=True)
class OnPolicyOptions(PolicyOptions):
    """The options of a policy, with the defaults of PPO and A2C.

    -0.3 nats per action dimension, as in the paper's PPO runs, and a higher ``log_std_min``, because
    smaller ones make log-probabilities of actions away from the mean, and so approx_kl, enormous.
    """

    nats_per_dim: float | Schedule = ON_POLICY_NATS_PER_DIM
    log_std_min: float = ON_POLICY_LOG_STD_MIN
