"""What the ERA algorithms share: their arguments, the learned compensation, its state and its logs."""

import math
import warnings
from typing import Any, Literal, Protocol, Self, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.utils import get_device
from torch import Tensor

from era_rl.core import GaussianHead, LearnedDelta
from era_rl.core.compensation import DELTA_LEARNING_RATE
from era_rl.core.gaussian_heads import Floor
from era_rl.sb3.distributions import DeterministicAction
from era_rl.sb3.policies import BoundedDistribution
from era_rl.sb3.simba import ObservingMixin

LOST = (
    "A lower learning_rate, or VecNormalize where rewards are large, keeps them; go on from a model "
    "saved before"
)

FLOOR_ARGUMENTS = frozenset(
    [
        *("target_entropy", "target_entropy_fraction", "floor", "delta", "slack"),
        *("log_std_min", "log_std_max", "distribution", "squash"),
    ]
)
"""Arguments of the algorithms that go into the policy's head."""


class ERAPolicy(Protocol):
    """What algorithms and callbacks need of a policy; every policy of this package has it."""

    entropy_floor: float
    entropy_may_rise: bool
    head: Any

    def actor_parameters(self) -> list[torch.nn.Parameter]:
        """Return the parameters that the policy's distribution depends on."""
        ...

    def raw_params(self, obs: Any) -> Tensor:
        """Return the raw outputs, shape (batch, head.raw_dim), of observations."""
        ...

    def dist_params(self, raw: Tensor, /) -> tuple[Tensor, ...]:
        """Return the distribution's parameters for raw outputs."""
        ...

    def entropy(self, obs: Any, **kwargs: Any) -> Tensor:
        """Return the policy's own entropy in nats at each observation, shape (batch,).

        A maskable policy takes ``action_masks``.
        """
        ...

    def obs_to_tensor(self, observation: Any) -> tuple[Any, bool]:
        """Return observations as tensors on the policy's device (SB3's)."""
        ...

    def set_training_mode(self, mode: bool) -> None:
        """Set train or eval mode (SB3's)."""
        ...


class ERAMixin(BaseAlgorithm):
    """Hands the ERA arguments to the policy, beside the user's own ``policy_kwargs``."""

    era_kwargs: dict[str, Any]
    deterministic_action: DeterministicAction = "mode"

    @property
    def era_policy(self) -> ERAPolicy:
        """The policy, by what this package adds to it."""
        return cast(ERAPolicy, self.policy)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        device = kwargs.get("device", "auto")
        if device != "auto" and torch.device(device).type != get_device(device).type:
            warnings.warn(
                f"device={str(device)!r} is absent (torch.cuda.is_available() is False): the CPU "
                "is taken, as in Stable-Baselines3",
                stacklevel=2,
            )
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        if not hasattr(self.policy_class, "entropy_floor"):
            names = ", ".join(map(repr, self.policy_aliases))
            raise ValueError(
                f"policy={self.policy_class.__name__} must be one of {names}, or derived from theirs: "
                + ", ".join(policy.__name__ for policy in self.policy_aliases.values())
            )
        own = self.policy_kwargs
        if taken := sorted({"head_kwargs", "distribution", "deterministic_action"} & own.keys()):
            raise ValueError(
                f"policy_kwargs={{{taken[0]!r}: ...}} must be left out: {type(self).__name__} has "
                "arguments of its own for it"
            )
        self.policy_kwargs = {**own, **self.era_kwargs}
        if self.deterministic_action != "mode":
            self.policy_kwargs["deterministic_action"] = self.deterministic_action
        super()._setup_model()
        self.policy_kwargs = own

    @classmethod
    def load(cls, path: Any, *args: Any, **kwargs: Any) -> Self:
        """Load a model; arguments as SB3's.

        Raises:
            ValueError: For an argument of the floor other than it was saved with.
        """
        given = {name: kwargs.pop(name) for name in sorted(FLOOR_ARGUMENTS & kwargs.keys())}
        model = super().load(path, *args, **kwargs)
        saved = {**model.era_kwargs, **model.era_kwargs["head_kwargs"]}
        if getattr(model, "learn_delta", False):
            saved["delta"] = "auto"
        for name, value in given.items():
            if value != saved.get(name):
                raise ValueError(
                    f"{name}={value!r} must be {saved.get(name)!r}, or left out: a loaded model has "
                    f"the floor it was saved with. Construct {cls.__name__} with another and call its "
                    f"set_parameters({str(path)!r})"
                )
        return model

    def learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        """Train for ``total_timesteps`` environment steps and return self; arguments as the host's.

        The run's name in TensorBoard (``tb_log_name``, the third of them) is by default the class's.
        """
        if len(args) < 3:
            kwargs.setdefault("tb_log_name", type(self).__name__)
        return super().learn(total_timesteps, *args, **kwargs)

    def predict(self, observation: Any, *args: Any, **kwargs: Any) -> Any:
        """Return actions and recurrent states; arguments as SB3's.

        Raises:
            FloatingPointError: If an action is not finite.
        """
        actions, states = super().predict(observation, *args, **kwargs)
        self._refuse_lost_actions(actions, observation)
        return actions, states

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the model; arguments as SB3's.

        Raises:
            FloatingPointError: If a parameter is not finite: the file that is there stays.
        """
        self._refuse_lost_networks()
        super().save(*args, **kwargs)

    def _refuse_lost_actions(self, actions: np.ndarray, observation: Any) -> None:
        """Raise FloatingPointError where actions at an observation are not finite."""
        if not _is_finite(actions):
            refuse_nonfinite(self.num_timesteps, observations=observation)
            self._refuse_lost_networks()
            raise FloatingPointError(
                f"the policy's actions at step {self.num_timesteps} must be finite: its weights are, "
                f"but their products overflow. {LOST}"
            )

    def _refuse_lost_networks(self) -> None:
        """Raise FloatingPointError where a parameter is not finite, at one look at the device."""
        parameters = dict(self.policy.named_parameters())
        if not torch.nn.utils.get_total_norm(list(parameters.values())).isfinite():
            for (
                name,
                parameter,
            ) in parameters.items():  # large ones are finite, though not their norm
                if not parameter.isfinite().all():
                    raise FloatingPointError(
                        f"the policy's {name} at step {self.num_timesteps} must be finite: the "
                        f"networks are lost. {LOST}"
                    )

    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Write the logs (SB3's hook).

        Raises:
            FloatingPointError: If a loss is not finite: the networks are lost then.
        """
        for name, value in self.logger.name_to_value.items():
            if name.startswith("train/") and name.endswith("loss") and not math.isfinite(value):
                raise FloatingPointError(
                    f"{name}={value} at step {self.num_timesteps}: observations or rewards are NaN, "
                    "infinite or huge (VecCheckNan names the first, VecNormalize bounds them), or "
                    "learning_rate is too high; go on from a model saved before"
                )
        super().dump_logs(*args, **kwargs)  # type: ignore[misc]


class LearnedDeltaMixin(ERAMixin):
    """Learns Eq. 11's compensation delta beside any algorithm, and logs and saves it."""

    learn_delta: bool

    def _setup_model(self) -> None:
        super()._setup_model()
        self.target_entropy = self.era_policy.entropy_floor
        if self.learn_delta:
            head = self._gaussian_head()
            self.delta_learner = LearnedDelta(
                head.target_entropy, head.action_dim, log_std_max=head.log_std_max
            ).to(self.device)
            self.delta_optimizer = torch.optim.SGD(
                self.delta_learner.parameters(), lr=DELTA_LEARNING_RATE
            )

    def _gaussian_head(self) -> GaussianHead:
        """Return the module that holds Eq. 11's delta."""
        return self.era_policy.head

    def _update_delta(self, entropy: Tensor) -> None:
        """Take one step of the dual loss at the given entropies, and hand delta to the head."""
        self.delta_optimizer.zero_grad()
        self.delta_learner.loss(entropy).backward()
        self.delta_optimizer.step()
        self.delta_learner.project()
        self._gaussian_head().delta.copy_(self.delta_learner())

    @torch.no_grad()
    def _entropy(self, obs: Any) -> Tensor:
        """Return the entropies at observations, without a trace in batch statistics."""
        self.era_policy.set_training_mode(False)
        return self.era_policy.entropy(obs)

    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Log the floor and the learned delta (SB3's hook)."""
        if self._n_updates > 0:
            self.logger.record("train/entropy_floor", self.era_policy.entropy_floor)
        if self.learn_delta:
            delta = self.delta_learner().item()
            self.logger.record("train/delta", delta)
            saturated = math.isclose(delta, self.delta_learner.delta_max, rel_tol=1e-6)  # float32
            self.logger.record("train/delta_saturated", saturated)
        super().dump_logs(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "delta_learner", "delta_optimizer"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        if self.learn_delta:
            state_dicts = [*state_dicts, "delta_learner", "delta_optimizer"]
        return state_dicts, tensors


class OffPolicyERAMixin(ObservingMixin, LearnedDeltaMixin):
    """The ERA arguments of an off-policy algorithm."""

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *args: Any,
        target_entropy: float | Literal["auto"] = "auto",
        floor: Floor = "exact",
        delta: float | Literal["auto"] = 0.0,
        log_std_min: float = -8.0,
        log_std_max: float = 0.0,
        slack: float | None = None,
        distribution: BoundedDistribution = "truncated",
        deterministic_action: DeterministicAction = "mode",
        layer_norm: bool = False,
        ent_coef: float = 0.0,
        use_sde: bool = False,
        **kwargs: Any,
    ) -> None:
        if ent_coef != 0:
            raise ValueError(
                f"ent_coef={ent_coef!r} must be 0: the losses have no entropy term, "
                "target_entropy sets the floor"
            )
        refuse_sde(use_sde)
        refuse_delta(delta, floor)
        _refuse_distribution(distribution, floor, slack)
        self.learn_delta = delta == "auto"
        self.deterministic_action = deterministic_action
        head_kwargs = {
            "target_entropy": target_entropy,
            "floor": floor,
            "delta": 0.0 if delta == "auto" else delta,
            "log_std_min": log_std_min,
            "log_std_max": log_std_max,
            "slack": slack,
        }
        self.era_kwargs = {"head_kwargs": head_kwargs, "distribution": distribution}
        if layer_norm:
            self.era_kwargs["layer_norm"] = True
        super().__init__(policy, env, *args, **{**kwargs, "ent_coef": 0.0})

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: np.ndarray | dict[str, np.ndarray],
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store a step in the replay buffer (SB3's hook); FloatingPointError where it is not finite."""
        refuse_nonfinite(self.num_timesteps, observations=new_obs, rewards=reward)
        for index in dones.nonzero()[0]:  # new_obs is that of the next episode there
            last = infos[index].get("terminal_observation", {})
            refuse_nonfinite(self.num_timesteps, observations=last)
        super()._store_transition(  # type: ignore[misc]
            replay_buffer, buffer_action, new_obs, reward, dones, infos
        )


def _is_finite(values: np.ndarray) -> bool:
    # the sum of squares takes a tenth of the time of isfinite, at every step, but may overflow
    return (
        values.dtype.kind != "f"
        or math.isfinite(np.vdot(values, values))
        or bool(np.isfinite(values).all())
    )


def refuse_nonfinite(step: int, **values: np.ndarray | dict[str, np.ndarray]) -> None:
    """Raise FloatingPointError where values, arrays or dicts of them by name, are not finite."""
    for name, value in values.items():
        for part in map(np.asarray, value.values() if isinstance(value, dict) else (value,)):
            if not _is_finite(part):
                raise FloatingPointError(
                    f"{name} up to step {step} must be finite: some are not. The networks have not "
                    "been trained on them. SB3's VecCheckNan finds the first, VecNormalize bounds them"
                )


def refuse_sde(use_sde: bool) -> None:
    """Raise ValueError where gSDE is asked for."""
    if use_sde:
        raise ValueError(
            "use_sde=True must be False: gSDE's noise is shared between states and steps, so no "
            "entropy floor can be set per state"
        )


def refuse_delta(delta: float | str, floor: str) -> None:
    """Raise ValueError where delta is no number or "auto", or learned though there is no bias."""
    if isinstance(delta, str) and delta != "auto":
        raise ValueError(f"delta={delta!r} must be a number of nats, at least 0, or 'auto'")
    if delta == "auto" and floor != "gaussian":
        raise ValueError(f"delta='auto' needs floor='gaussian', not {floor!r}: there is no bias")


def _refuse_distribution(distribution: str, floor: str, slack: float | None) -> None:
    """Raise ValueError for a distribution that cannot have the floor asked for."""
    if distribution not in ("truncated", "tanh"):
        raise ValueError(f"distribution={distribution!r} must be 'truncated' or 'tanh'")
    if distribution == "tanh" and floor != "gaussian":
        raise ValueError(
            f"floor={floor!r} must be 'gaussian' with distribution='tanh': the entropy of a squashed "
            "normal has a maximum below most floors, so none can be held in every state"
        )
    if distribution == "tanh" and slack is not None:
        raise ValueError(f"slack={slack} must be None with distribution='tanh'")
