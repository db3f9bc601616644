"""What the ERA algorithms share: their arguments, their floor, and what they refuse."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar, Self, cast

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.utils import get_device

from era_rl.core import PolicyOptions
from era_rl.sb3.distributions import check_action_space
from era_rl.sb3.finite import refuse_lost_networks, refuse_nonfinite
from era_rl.sb3.floored import FlooredPolicyMixin
from era_rl.sb3.signatures import constructor_signature

NO_ENTROPY_TERM = "the losses have no entropy term, target_entropy sets the floor"


class ERAMixin(BaseAlgorithm):
    """Makes options of the arguments that are the policy's, and hands them to it by ``policy_kwargs``.

    There they are saved, so that the host's own ``load`` makes the same policy.
    """

    options_class: ClassVar[type[PolicyOptions]] = PolicyOptions
    options: PolicyOptions
    _ready = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = constructor_signature(cls, cls.options_class)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        device = kwargs.get("device", "auto")
        if device != "auto" and torch.device(device).type != get_device(device).type:
            warnings.warn(
                f"device={str(device)!r} is absent (torch.cuda.is_available() is False): the CPU "
                "is taken, as in Stable-Baselines3",
                stacklevel=2,
            )
        if "log_std_init" in (kwargs.get("policy_kwargs") or ()):
            warnings.warn(
                "policy_kwargs={'log_std_init': ...} has no effect: target_entropy sets how wide the "
                "policy begins",
                stacklevel=2,
            )
        names = self._option_names() & kwargs.keys()
        self.options = self.options_class(**{name: kwargs.pop(name) for name in sorted(names)})
        env = args[1] if len(args) > 1 else kwargs.get("env")
        check_action_space(getattr(env, "action_space", None))
        # the hosts write to policy_kwargs, which may be another model's too
        super().__init__(*map(_copied, args), **{k: _copied(v) for k, v in kwargs.items()})

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            raise ValueError(
                f"policy={policy_name!r} must be one of {', '.join(map(repr, self.policy_aliases))}, "
                f"which {type(self).__name__} has"
            )
        return super()._get_policy_from_name(policy_name)

    @classmethod
    def _option_names(cls) -> set[str]:
        return {field.name for field in fields(cls.options_class)}

    @property
    def era_policy(self) -> FlooredPolicyMixin:
        """The policy, by what this package adds to it."""
        return cast(FlooredPolicyMixin, self.policy)

    @property
    def learn_delta(self) -> bool:
        """Whether Eq. 11's compensation is learned."""
        return self.options.delta == "auto"

    @property
    def target_entropy(self) -> float:
        """H0 in nats over all action dimensions or components, in force.

        It may be set at any time, to a number or a schedule, and takes the place of the schedule that
        there was.
        """
        return self.era_policy.target_entropy

    @target_entropy.setter
    def target_entropy(self, value: Any) -> None:
        if not self._ready:  # of the hosts, which set theirs
            vars(self)["target_entropy"] = value
            return
        options = self.options
        if options.scheduled or callable(value) or isinstance(value, Mapping):
            options = options.with_floor(value)
            options.check_schedule(self.era_policy.head)
            value = options.floor_at(self._current_progress_remaining, self.era_policy.head)
        self._hold(value)
        self._take_options(options)

    def _take_options(self, options: PolicyOptions) -> None:
        self.options = options
        self.policy_kwargs = {**self.policy_kwargs, "options": options}

    def _hold(self, target_entropy: float) -> None:
        """Have a floor in nats in force, which is checked."""
        self.era_policy.head.target_entropy = target_entropy
        vars(self)["target_entropy"] = self.era_policy.target_entropy  # saved, for the hosts

    def _update_learning_rate(self, optimizers: Any) -> None:
        """Follow the schedules of learning rate and floor (SB3's hook)."""
        super()._update_learning_rate(optimizers)
        if self.options.scheduled:
            progress = self._current_progress_remaining
            self._hold(self.options.floor_at(progress, self.era_policy.head))

    def _setup_model(self) -> None:
        own = next(
            kind.__name__ for kind in type(self).__mro__ if kind.__module__.startswith("era_rl.")
        )
        if (saved := vars(self).setdefault("saved_as", own)) != own:
            raise ValueError(f"the file was saved by {saved}, another algorithm than {own}")
        if not issubclass(self.policy_class, tuple(self.policy_aliases.values())):
            names = ", ".join(map(repr, self.policy_aliases))
            raise ValueError(
                f"policy={self.policy_class.__name__} must be one of {names}, or derived from theirs: "
                + ", ".join(policy.__name__ for policy in self.policy_aliases.values())
            )
        if taken := sorted({"head_kwargs", *self._option_names()} & self.policy_kwargs.keys()):
            raise ValueError(
                f"policy_kwargs={{{taken[0]!r}: ...}} must be left out: {type(self).__name__} has "
                "arguments of its own for it"
            )
        self._take_options(self._options_in_force())
        super()._setup_model()
        self._ready = True
        vars(self)["target_entropy"] = self.era_policy.target_entropy

    def _options_in_force(self) -> PolicyOptions:
        """Return the options given, or those of the file whose attributes have been loaded."""
        state = vars(self)
        action = state.pop("deterministic_action", None)
        options = self.policy_kwargs.get("options", self.options)
        if before := state.pop("era_kwargs", None):  # a file of before there were options
            self.policy_kwargs |= {k: v for k, v in before.items() if k == "layer_norm"}
            options = self.options_class.of_before(
                {
                    **before["head_kwargs"],
                    **({"delta": "auto"} if state.pop("learn_delta", 0) else {}),
                },
                before.get("distribution", "truncated"),
            )
        return options if action is None else replace(options, deterministic_action=action)

    @classmethod
    def load(
        cls,
        path: Any,
        env: Any = None,
        device: Any = "auto",
        custom_objects: dict[str, Any] | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        """Load a model; arguments as SB3's. ``deterministic_action`` may be another than it was.

        Raises:
            ValueError: For another option of the policy than it was saved with.
        """
        custom, given = dict(custom_objects or {}), {}
        for source in (custom, kwargs):
            names = (cls._option_names() - {"deterministic_action"}) & source.keys()
            given |= {name: source.pop(name) for name in sorted(names)}
            if "policy_kwargs" in source:
                source["policy_kwargs"] = {**_of_the_hosts(path), **source["policy_kwargs"]}
        model = super().load(path, env, device, custom, *args, **kwargs)
        in_force = {"target_entropy": model.target_entropy, "floor": model.options.floor_kind}
        for name, value in given.items():
            saved = getattr(model.options, name)
            if value not in (saved, in_force.get(name, saved)):
                raise ValueError(
                    f"{name}={value!r} must be {in_force.get(name, saved)!r}, or left out: a loaded "
                    "model has the floor it was saved with. Set target_entropy of what is loaded, or "
                    f"construct {cls.__name__} anew"
                )
        return model

    def set_parameters(
        self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto"
    ) -> None:
        """Load parameters; arguments as SB3's.

        With ``exact_match=False`` the optimizer of a temperature is left out: so
        ``sacera.set_parameters(sac.get_parameters(), exact_match=False)`` begins with the networks of a
        trained SAC.

        Raises:
            ValueError: If the model does not have what is given.
        """
        given: Any = load_path_or_dict
        if not isinstance(given, dict):
            given = load_from_zip_file(given, device=device, load_data=False)[1]
        # of files of before, where the head has delta too
        left_out = {"delta_learner", "delta_optimizer"}
        if (name := "ent_coef_optimizer") in given:
            if exact_match:
                raise ValueError(
                    f"exact_match=True must be False to leave out {name}, which "
                    f"{type(self).__name__} does not have"
                )
            left_out.add(name)
        given = {name: state for name, state in given.items() if name not in left_out}
        super().set_parameters(given, exact_match, device)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "options", "_ready"]

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._setup_learn(*args, **kwargs)
        # every other observation is looked at when a step returns it
        refuse_nonfinite(self.num_timesteps, observations=self._last_obs)  # type: ignore[arg-type]
        return result

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
            FloatingPointError: If an action, or what gives its probabilities, is not finite.
        """
        vars(self.policy)["trained_for"] = self.num_timesteps
        return super().predict(observation, *args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the model; arguments as SB3's.

        Raises:
            FloatingPointError: If a parameter or a running statistic is not finite: the file that is
                there stays.
        """
        refuse_lost_networks(self.policy, self.num_timesteps)
        super().save(*args, **kwargs)

    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Write the logs, with the floor in force (SB3's hook).

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
        if self._n_updates > 0:
            own = self.era_policy.head.holds_own_entropy
            name = "entropy_floor" if own else "gaussian_entropy_floor"
            self.logger.record(f"train/{name}", self.target_entropy)
        super().dump_logs(*args, **kwargs)  # type: ignore[misc]


def refuse_sde(use_sde: Any) -> None:
    """Raise ValueError where gSDE is asked for."""
    if use_sde:
        raise ValueError(
            f"use_sde={use_sde!r} must be False: gSDE's noise is shared between states and steps, so "
            "no entropy floor can be set per state"
        )


def _copied(argument: Any) -> Any:
    """Return a dict of arguments, and those within it, copied; anything else as it is."""
    if not isinstance(argument, dict):
        return argument
    return {k: dict(v) if isinstance(v, dict) else v for k, v in argument.items()}


def _of_the_hosts(path: Any) -> dict[str, Any]:
    """Return what in a file's policy_kwargs is not the user's: the options, and A2C's optimizer."""
    saved: Any = load_from_zip_file(path, device="cpu")[0] or {}
    added = {"options", "layer_norm", "use_sde", "optimizer_class", "optimizer_kwargs"}
    return {name: value for name, value in saved["policy_kwargs"].items() if name in added}
