"""Every setting of a training run: what the command line fills in."""

import math
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from era_rl.core import OnPolicyOptions, PolicyOptions
from era_rl.core.gaussian_heads import Floor
from era_rl.runs.settings import Setting, Settings, SettingsError

Activation = Literal["relu", "elu", "tanh"]
Network = Literal["mlp", "simba", "batchnorm"]
Auto = float | Literal["auto"]
Line = tuple[float, ...]
"""A floor that changes: at the start, at the end, and from which fraction of the training on."""
SAVE_FREQ = "steps between checkpoints, each of which begins new episodes; 0: at the end alone"
FLOOR = "H0 in nats: one number, or START END [END_FRACTION of the steps] for one that changes"

free = partial(Setting, free=True)
# of more than one class, each with its own default
StepsPerBatch = Annotated[int, Setting("steps of each environment between updates", low=1)]
Hidden = Annotated[tuple[int, ...], Setting("widths of the hidden layers", low=1)]
Layers = Annotated[Activation, Setting("activation of the hidden layers of an mlp")]
LayerNorm = Annotated[bool, Setting("LayerNorm in the critics of an mlp")]
Normalize = Annotated[bool, Setting("by all that were seen before; with simba always")]
NatsPerDim = Annotated[float | Line, Setting("the same, per dimension of bounded actions")]
LogStdMin = Annotated[float, Setting("lower bound of log_std")]


@dataclass(frozen=True, kw_only=True)
class Config(Settings):
    """What both algorithms share; steps are environment steps of each agent.

    Raises:
        SettingsError: If a value is outside its range, or of another type.
    """

    options_class: ClassVar[type[PolicyOptions]] = PolicyOptions

    env: Annotated[str, Setting("gymnasium id, such as dm_control/walker-walk-v0")] = "Pendulum-v1"
    env_kwargs: Annotated[tuple[str, ...], Setting("of gymnasium.make: KEY=VALUE, as YAML")] = ()
    action_repeat: Annotated[int, Setting("the environment's own steps in a step", low=1)] = 1
    seed: Annotated[int, Setting("seed of the first agent", low=0)] = 0
    seeds: Annotated[int, Setting("agents, of consecutive seeds, trained at once", low=1)] = 1
    steps: Annotated[int, free("environment steps", low=1, short="n", was="total_steps")] = (
        1_000_000
    )
    n_envs: Annotated[int, Setting("environments of a collector", low=1, was="num_envs")] = 1
    env_processes: Annotated[bool, free("each environment in a process of its own")] = False
    collectors: Annotated[int, Setting("processes that collect; 0: this one", low=0)] = 0
    steps_per_batch: StepsPerBatch = 1
    network: Annotated[Network, Setting("simba: residual blocks; batchnorm: XQC's networks")] = (
        "mlp"
    )
    hidden: Hidden = (256, 256)
    actor_hidden: Annotated[tuple[int, ...], Setting("the actor's, if others", low=1)] = ()
    activation: Layers = "relu"
    layer_norm: LayerNorm = True
    normalize_observations: Normalize = False
    lr: Annotated[float, Setting("learning rate", low=0.0)] = 3e-4
    gamma: Annotated[float, Setting("discount", low=0.0, high=1.0)] = 0.99
    target_entropy: Annotated[Auto | Line, Setting(FLOOR)] = "auto"
    nats_per_dim: NatsPerDim = PolicyOptions.nats_per_dim  # pyright: ignore[reportAssignmentType]
    floor: Annotated[Floor | None, Setting("exact, or gaussian, which is Eq. 11")] = None
    slack: Annotated[float | None, Setting("share of the entropy budget first unspent")] = None
    delta: Annotated[Auto, Setting("compensation in nats of Eq. 11; auto: learned", low=0.0)] = 0.0
    log_std_min: LogStdMin = PolicyOptions.log_std_min
    min_entropy_per_dim: Annotated[float | None, Setting("least entropy of a dimension")] = None
    device: Annotated[str, Setting("of networks, data and noise; auto: CUDA if there is")] = "cpu"
    compile: Annotated[bool, free("torch.compile, and CUDA graphs on CUDA")] = False
    threads: Annotated[int, free("threads of torch; 0: as many as the networks gain by", low=0)] = 0
    log_freq: Annotated[int, free("steps between log lines", low=1, was="log_interval")] = 1_000
    eval_freq: Annotated[
        int, free("steps between evaluations; 0: at the end alone", low=0, was="eval_interval")
    ] = 0
    eval_episodes: Annotated[int, free("of an evaluation, deterministic actions", low=1)] = 10
    save_freq: Annotated[int, Setting(SAVE_FREQ, low=0, was="checkpoint_interval")] = 0
    out: Annotated[Path, free("folder for logs and checkpoints")] = Path("runs/torchrl")
    resume: Annotated[bool, free("go on from the checkpoint in OUT, if there is one")] = False
    progress: Annotated[bool, free("a line on stderr at each log line")] = True

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of each agent in one batch of data."""
        return self.n_envs * self.steps_per_batch * max(self.collectors, 1)

    @property
    def rows(self) -> int:
        """States of an agent in a batch of an update."""
        raise NotImplementedError

    @property
    def agent_seeds(self) -> tuple[int, ...]:
        """The seed of each agent."""
        return tuple(range(self.seed, self.seed + self.seeds))

    @property
    def normalizes(self) -> bool:
        """Whether observations are normalised before the networks."""
        return self.normalize_observations or self.network == "simba"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.policy_options()
        if self.network != "mlp":
            self._check_blocks()

    def _check_blocks(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("activation", "layer_norm") and value != field.default:
                raise SettingsError(
                    f"{field.name}={value!r} must be left out: network={self.network!r} has its own"
                )
        for name in ("hidden", "actor_hidden"):
            value = getattr(self, name) or self.hidden
            if not value or (self.network == "simba" and len(set(value)) > 1):
                raise SettingsError(
                    f"{name}={value!r} must have one width or more, simba's one for all blocks"
                )

    def policy_options(self) -> PolicyOptions:
        """Return what is asked of the policy: the settings that are fields of the options."""
        names = {field.name for field in fields(PolicyOptions)}
        given = {name: value for name, value in vars(self).items() if name in names}
        return self.options_class(**given)


@dataclass(frozen=True, kw_only=True)
class SACConfig(Config):
    """SAC-ERA; the default floor is -0.5 nats a dimension."""

    updates: Annotated[int, Setting("gradient updates a batch of data", low=1)] = 1
    learning_starts: Annotated[int, Setting("uniformly random steps at first", low=0)] = 1_000
    batch_size: Annotated[int, Setting("transitions an update", low=1)] = 256
    buffer_size: Annotated[int, Setting("transitions of each agent, on device", low=1)] = 1_000_000
    tau: Annotated[float, Setting("Polyak's, of the target critics", low=0.0, high=1.0)] = 0.005
    num_qvalue_nets: Annotated[int, Setting("critics; targets take the least", low=1)] = 2
    critic_weight_decay: Annotated[float, Setting("AdamW's, of the critics", low=0.0)] = 0.0
    actor_weight_decay: Annotated[float, Setting("AdamW's, of the actor", low=0.0)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network == "batchnorm" and self.batch_size < 2:
            raise SettingsError(
                f"batch_size={self.batch_size} must be at least 2: the networks normalise by the"
                " batch's variance"
            )
        iterations = math.ceil(self.steps / self.steps_per_iteration)
        if iterations * self.steps_per_iteration < self.learning_starts:
            raise SettingsError(
                f"learning_starts={self.learning_starts} must be at most steps={self.steps}: no step"
                " would be trained on"
            )

    @property
    def rows(self) -> int:
        """States of a sampled batch."""
        return self.batch_size


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Config):
    """PPO-ERA; the default floor is -0.3 nats a dimension."""

    options_class = OnPolicyOptions

    steps_per_batch: StepsPerBatch = 2_048
    # not batchnorm: under batch statistics the ratios of the first update would not be one
    network: Annotated[Literal["mlp", "simba"], Setting("simba: residual blocks")] = "mlp"
    activation: Layers = "tanh"
    hidden: Hidden = (64, 64)
    layer_norm: LayerNorm = False
    nats_per_dim: NatsPerDim = OnPolicyOptions.nats_per_dim  # pyright: ignore[reportAssignmentType]
    log_std_min: LogStdMin = OnPolicyOptions.log_std_min
    epochs: Annotated[int, Setting("passes over a batch of data", low=1)] = 10
    minibatches: Annotated[int, Setting("updates a pass", low=1)] = 32
    lmbda: Annotated[float, Setting("of the advantage estimate", low=0.0, high=1.0)] = 0.95
    clip: Annotated[float, Setting("range of the probability ratio", low=0.0, high=1.0)] = 0.2
    max_grad_norm: Annotated[
        float, Setting("largest gradient norm of an agent; 0: any", low=0.0)
    ] = 0.5
    normalize_observations: Normalize = True

    @property
    def rows(self) -> int:
        """States of a minibatch."""
        return self.steps_per_iteration // self.minibatches

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps_per_iteration % self.minibatches:
            raise SettingsError(
                f"minibatches={self.minibatches} must divide the {self.steps_per_iteration} steps"
                " of a batch of data"
            )


_PAPER = {"floor": "gaussian", "nats_per_dim": 0.25, "hidden": (512, 512), "activation": "elu"}
_PAPER |= {"learning_starts": 5_000, "updates": 2, "critic_weight_decay": 1e-4}
_FASTSAC = {"n_envs": 128, "env_processes": True, "batch_size": 8_192, "updates": 8}
_FASTSAC |= {"hidden": (512, 256, 128), "gamma": 0.97, "tau": 0.05, "learning_starts": 10_000}
_SIMBA = {"network": "simba", "actor_hidden": (128,), "lr": 1e-4, "updates": 2}
_SIMBA |= {"learning_starts": 5_000, "critic_weight_decay": 1e-2, "actor_weight_decay": 1e-2}
_XQC = {"network": "batchnorm", "hidden": (256,) * 4, "updates": 2, "learning_starts": 5_000}
PRESETS: dict[str, dict[str, Any]]
PRESETS = {"paper": _PAPER, "fastsac": _FASTSAC, "simba": _SIMBA, "xqc": _XQC}
"""SAC settings under a name: the paper's, FastSAC's many environments and large batches, SimBa's and
XQC's networks with their settings (XQC's policy delay and falling rate are left out)."""
