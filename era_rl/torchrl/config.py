"""Every setting of a training run, with its check: what the command line fills in."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

Activation = Literal["relu", "elu", "tanh"]
Floor = Literal["exact", "gaussian"]

_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, math.inf),
    "seeds": (1, math.inf),
    "total_steps": (1, math.inf),
    "num_envs": (1, math.inf),
    "collectors": (0, math.inf),
    "steps_per_batch": (1, math.inf),
    "updates": (1, math.inf),
    "learning_starts": (0, math.inf),
    "batch_size": (1, math.inf),
    "buffer_size": (1, math.inf),
    "epochs": (1, math.inf),
    "minibatches": (1, math.inf),
    "lr": (0.0, math.inf),
    "critic_weight_decay": (0.0, math.inf),
    "gamma": (0.0, 1.0),
    "lmbda": (0.0, 1.0),
    "tau": (0.0, 1.0),
    "clip": (0.0, 1.0),
    "max_grad_norm": (0.0, math.inf),
    "num_qvalue_nets": (1, math.inf),
    "delta": (0.0, math.inf),
    "log_interval": (1, math.inf),
    "eval_interval": (0, math.inf),
    "eval_episodes": (1, math.inf),
    "checkpoint_interval": (0, math.inf),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What both algorithms share; steps are environment steps of each agent.

    Raises:
        ValueError: If a value is outside its range, or of another type.
    """

    env: Annotated[str, "gymnasium id, or dm_control/DOMAIN-TASK-v0"] = "Pendulum-v1"
    seed: Annotated[int, "seed of the first agent"] = 0
    seeds: Annotated[int, "independent agents, of consecutive seeds, trained at once"] = 1
    total_steps: Annotated[int, "environment steps"] = 1_000_000
    num_envs: Annotated[int, "environments (per collector, if there are any)"] = 1
    env_processes: Annotated[bool, "each environment in a process of its own"] = False
    collectors: Annotated[int, "processes that collect; 0: collect in this one"] = 0
    steps_per_batch: Annotated[int, "steps of each environment between updates"] = 1
    hidden: Annotated[tuple[int, ...], "widths of the hidden layers"] = (256, 256)
    activation: Annotated[Activation, "relu, elu or tanh"] = "relu"
    layer_norm: Annotated[bool, "LayerNorm in the critics"] = True
    lr: Annotated[float, "learning rate"] = 3e-4
    gamma: Annotated[float, "discount"] = 0.99
    target_entropy: Annotated[float | None, "H0 in nats, None for the default"] = None
    nats_per_dim: Annotated[float, "the default H0 of a dimension of bounded actions"] = -0.5
    floor: Annotated[Floor, "exact, or gaussian (Eq. 11)"] = "exact"
    slack: Annotated[float | None, "share of the entropy budget unspent at the start"] = None
    delta: Annotated[
        float | Literal["auto"], "compensation in nats, for the gaussian floor; auto: learned"
    ] = 0.0
    log_std_min: Annotated[float, "lower bound of log_std"] = -8.0
    device: Annotated[
        str, "torch device of networks, replay data and the updates' noise; auto: CUDA if available"
    ] = "cpu"
    compile: Annotated[bool, "torch.compile, and CUDA graphs on CUDA"] = False
    log_interval: Annotated[int, "steps between log lines"] = 1_000
    eval_interval: Annotated[int, "steps between evaluations; 0: at the end alone"] = 0
    eval_episodes: Annotated[int, "episodes of an evaluation, with deterministic actions"] = 10
    checkpoint_interval: Annotated[
        int, "steps between checkpoints, each of which begins new episodes; 0: at the end alone"
    ] = 0
    out: Annotated[str, "folder for logs and the checkpoint"] = "runs/torchrl"
    resume: Annotated[bool, "go on from OUT/checkpoint.pt if there is one"] = False

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of each agent in one batch of data."""
        return self.num_envs * self.steps_per_batch * max(self.collectors, 1)

    @property
    def agent_seeds(self) -> tuple[int, ...]:
        """The seed of each agent."""
        return tuple(range(self.seed, self.seed + self.seeds))

    def __post_init__(self) -> None:
        if isinstance(self.hidden, Iterable):
            object.__setattr__(self, "hidden", tuple(self.hidden))
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            _check_type(name, value, kind)
            low, high = _RANGES.get(name, (-math.inf, math.inf))
            if isinstance(value, int | float) and not (low <= value <= high and value < math.inf):
                end = "]" if high < math.inf else ")"
                raise ValueError(f"{name}={value} must be in [{low}, {high}{end}")
            if get_origin(kind) is Literal and value not in get_args(kind):
                raise ValueError(f"{name}={value!r} must be one of {get_args(kind)}")
        widths = self.hidden if isinstance(self.hidden, tuple) else ()
        if not widths or not all(type(width) is int and width >= 1 for width in widths):
            raise ValueError(f"hidden={self.hidden!r} must be widths of at least 1, integers")
        if isinstance(self.delta, str) and (self.delta != "auto" or self.floor != "gaussian"):
            raise ValueError(
                f"delta={self.delta!r} with floor={self.floor!r} must be a number, or 'auto' with"
                " floor='gaussian'"
            )

    def bounded_head_kwargs(self, action_dim: int) -> dict[str, Any]:
        """Return the arguments of the head of a bounded action, the default floor filled in."""
        target = self.target_entropy
        kwargs: dict[str, Any] = {
            "target_entropy": self.nats_per_dim * action_dim if target is None else target,
            "floor": self.floor,
            "log_std_min": self.log_std_min,
        }
        delta = None if self.delta == "auto" else self.delta or None
        given = {"slack": self.slack, "delta": delta}
        return kwargs | {name: value for name, value in given.items() if value is not None}


def _check_type(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError unless the value is of the type, one of int, float, bool and str."""
    if kind not in (int, float, bool, str):
        return
    allowed = int | float if kind is float else kind
    if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{name}={value!r} must be of the type {kind.__name__}")


@dataclass(frozen=True, kw_only=True)
class SACConfig(Config):
    """SAC-ERA; the default floor is -0.5 nats a dimension."""

    updates: Annotated[int, "gradient updates a batch of data"] = 1
    learning_starts: Annotated[int, "steps of uniform random actions, without updates"] = 1_000
    batch_size: Annotated[int, "transitions an update"] = 256
    buffer_size: Annotated[int, "transitions kept of each agent, on the device"] = 1_000_000
    tau: Annotated[float, "Polyak coefficient of the target critics"] = 0.005
    num_qvalue_nets: Annotated[int, "critics; targets take the least"] = 2
    critic_weight_decay: Annotated[float, "AdamW weight decay of the critics"] = 0.0


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Config):
    """PPO-ERA; the default floor is -0.3 nats a dimension."""

    steps_per_batch: Annotated[int, "steps of each environment between updates"] = 2_048
    activation: Annotated[Activation, "relu, elu or tanh"] = "tanh"
    hidden: Annotated[tuple[int, ...], "widths of the hidden layers"] = (64, 64)
    layer_norm: Annotated[bool, "LayerNorm in the critic"] = False
    nats_per_dim: Annotated[float, "the default H0 of a dimension of bounded actions"] = -0.3
    log_std_min: Annotated[float, "lower bound of log_std"] = -5.0
    epochs: Annotated[int, "passes over a batch of data"] = 10
    minibatches: Annotated[int, "updates a pass"] = 32
    lmbda: Annotated[float, "lambda of the generalised advantage estimate"] = 0.95
    clip: Annotated[float, "clipping range of the probability ratio"] = 0.2
    max_grad_norm: Annotated[float, "largest gradient norm of each agent"] = 0.5
    normalize_observations: Annotated[bool, "by the mean and deviation of all before"] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps_per_iteration % self.minibatches:
            raise ValueError(
                f"minibatches={self.minibatches} must divide the {self.steps_per_iteration} steps"
                " of a batch of data"
            )


PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "floor": "gaussian",
        "nats_per_dim": 0.25,
        "hidden": (512, 512),
        "activation": "elu",
        "learning_starts": 5_000,
        "updates": 2,
        "critic_weight_decay": 1e-4,
    },
    "fastsac": {
        "num_envs": 128,
        "env_processes": True,
        "batch_size": 8_192,
        "updates": 8,
        "hidden": (512, 256, 128),
        "gamma": 0.97,
        "tau": 0.05,
        "learning_starts": 10_000,
    },
}
"""SAC settings under a name: the paper's, and FastSAC's many environments and large batches."""


def config_fields(kind: type[Config]) -> dict[str, tuple[Any, str]]:
    """Return each setting's type and description."""
    hints = get_type_hints(kind, include_extras=True)
    pairs = {option.name: get_args(hints[option.name]) for option in fields(kind)}
    return {name: (annotated, text) for name, (annotated, text) in pairs.items()}
