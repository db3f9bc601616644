"""Do the return and an entropy bonus pull the policy in opposite directions?"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    SquashedDiagGaussianDistribution,
)
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN
from torch import Tensor, nn

from era_rl.core import MultiCategoricalHead, TanhGaussianHead
from era_rl.core.feasibility import check_count
from era_rl.sb3.callbacks import MeasuringCallback
from era_rl.sb3.discrete_sac import expected, least_values
from era_rl.sb3.distributions import HeadDistribution

MIN_NORM = 1e-8
"""Below this norm a gradient has no direction, and the cosine is NaN."""

CONFLICT_COLUMNS = (
    *("timesteps", "cosine_params", "return_norm_params", "entropy_norm_params"),
    *("cosine_actor", "return_norm_actor", "entropy_norm_actor"),
)


class PolicyAt(NamedTuple):
    """A policy on a batch of states: its parameters, those without a floor, and what takes either."""

    params: tuple[Tensor, ...]
    plain_params: tuple[Tensor, ...]
    distribution: Distribution

    def entropy(self, params: tuple[Tensor, ...]) -> Tensor:
        """Return the entropies, (batch,), in nats, of such parameters."""
        # a copy to throw away: a policy that kept a graph could not be copied
        entropy = copy.copy(self.distribution).proba_distribution(*params).entropy()
        assert entropy is not None
        return entropy

    def entropies(self) -> Tensor:
        """Return the entropies of an action's dimensions, (batch, action_dim), in nats; Discrete: 1."""
        if isinstance(self.distribution, HeadDistribution):
            return self.distribution.head.entropies(self.params)
        distribution: Any = copy.copy(self.distribution).proba_distribution(*self.params)
        entropies = distribution.distribution.entropy()
        return entropies.reshape(len(entropies), -1)


class GradientConflict(MeasuringCallback):
    """Measures the cosine between the gradients of the return and of an entropy bonus.

    Every ``check_freq`` environment steps, on states of the replay buffer (Q(s, a), a ~ pi) or, at the
    end of a rollout, of the rollout buffer (E[A log pi(a|s)]), with H the policy's entropy:

    - ``cosine_params``: at the distribution's parameters, (loc, log_std) or logits, taken as free;
    - ``cosine_actor``: at the actor's weights. A head that pins the entropy has dH/dweights = 0, so
      the bonus goes through a plain head on the same raw outputs, log_std clamped to [-20, 2].

    Each comes with the two norms; a cosine is NaN where a norm is below 1e-8. Stock SAC, TQC, CrossQ,
    PPO and A2C can be measured beside the ERA ones; their own head is the plain one. The training is
    unchanged by it: random states are restored. Figures go to the logger (``gradient_conflict/*``),
    to ``rows`` and, given ``csv_path``, to a CSV file; :func:`plot_gradient_conflict` draws them.

    Args:
        check_freq: Environment steps between checks, of all environments together, at least 1.
        batch_size: Number of states, at least 1.
        csv_path: File to write, or None. A new training begins it anew, a resumed one continues it.
        verbose: SB3's verbosity.

    Raises:
        ValueError: If ``check_freq`` or ``batch_size`` is below 1, or at the start of training if
            the algorithm is not one of those named, or the file has other columns.
    """

    def __init__(
        self,
        check_freq: int = 1_000,
        batch_size: int = 1_024,
        csv_path: str | Path | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__("gradient_conflict", CONFLICT_COLUMNS, check_freq, csv_path, verbose)
        check_count("batch_size", batch_size)
        self.batch_size = batch_size

    def _init_callback(self) -> None:
        super()._init_callback()
        known = isinstance(self.model, OffPolicyAlgorithm | OnPolicyAlgorithm)
        has_policy = hasattr(self.model.policy, "get_distribution") or hasattr(
            getattr(self.model, "actor", None), "get_action_dist_params"
        )
        if not (known and has_policy) or isinstance(self.model, MaskablePPO | RecurrentPPO):
            raise ValueError(
                f"model={type(self.model).__name__} must be a SAC, TQC, CrossQ, PPO or A2C, or "
                "derived from one, without action masks or memory"
            )

    def _on_training_start(self) -> None:
        self._next_check = self.num_timesteps + self.check_freq

    def _on_step(self) -> bool:
        model = self.model
        if isinstance(model, OffPolicyAlgorithm) and model.num_timesteps > model.learning_starts:
            assert model.replay_buffer is not None
            if model.replay_buffer.size() > 0:  # this step is stored after its callbacks
                self._check_when_due()
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            self._check_when_due()

    def _check_when_due(self) -> None:
        if self.num_timesteps >= self._next_check:
            self._next_check = self.num_timesteps + self.check_freq
            with _random_states_kept():
                self._record(self._measure())

    def _measure(self) -> list[float]:
        model: Any = self.model
        model.policy.set_training_mode(False)
        if isinstance(model, OffPolicyAlgorithm):
            data: Any = model.replay_buffer.sample(self.batch_size, env=model._vec_normalize_env)  # type: ignore[union-attr]
        else:
            data = next(model.rollout_buffer.get(self.batch_size))
        policy, weights = policy_at(model, data.observations), actor_parameters(model)
        free = tuple(param.detach().requires_grad_() for param in policy.params)
        distribution = copy.copy(policy.distribution).proba_distribution(*free)
        objective = (
            _q_values(model, data.observations, distribution)
            if isinstance(model, OffPolicyAlgorithm)
            else _surrogate(distribution, data, model.action_space)
        )
        of_return = _grad(objective, free)
        at_params = _compare(of_return, _grad(policy.entropy(free).mean(), free))
        through = _grad(policy.params, weights, of_return)
        bonus = _grad(policy.entropy(policy.plain_params).mean(), weights)
        return [*at_params, *_compare(through, bonus)]


def plot_gradient_conflict(
    curves: Mapping[str, Sequence[Sequence[float]]], path: str | Path
) -> None:
    """Draw cosines and norms over time, one line a run, into a file.

    Args:
        curves: Rows with the columns ``CONFLICT_COLUMNS`` (``GradientConflict.rows``), by label.
        path: Image file; its suffix gives the format.

    Raises:
        ValueError: If a run has no rows.
    """
    from matplotlib.figure import Figure  # takes .2 s to load, and training draws nothing

    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for label, rows in curves.items():
        if not rows:
            raise ValueError(f"curves[{label!r}] is empty: nothing was measured")
        table = np.asarray(rows, dtype=float)
        column = {name: table[:, i] for i, name in enumerate(CONFLICT_COLUMNS)}
        for side, at in enumerate(("params", "actor")):
            (line,) = axes[0, side].plot(column["timesteps"], column[f"cosine_{at}"], label=label)
            for name, style in (("return", "-"), ("entropy", ":")):
                norms = column[f"{name}_norm_{at}"]
                axes[1, side].plot(column["timesteps"], norms, style, color=line.get_color())
    for side, title in enumerate(("at (loc, log_std) or logits", "at the actor's weights")):
        axes[0, side].set(title=title, ylim=(-1.05, 1.05))
        axes[0, side].axhline(0.0, color="0.7", linewidth=0.8)
        axes[1, side].set(xlabel="timesteps", yscale="log")
    axes[0, 0].set_ylabel("cosine(return, entropy)")
    axes[1, 0].set_ylabel("norm (dotted: entropy)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path)


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Leave NumPy's and torch's random states as they were."""
    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)


def policy_at(model: Any, obs: Any) -> PolicyAt:
    """Return the policy of a model, ERA's or stock, at observations."""
    policy = model.policy
    if not hasattr(policy, "raw_params"):
        stock = _stock_off_policy if isinstance(model, OffPolicyAlgorithm) else _stock_on_policy
        params, distribution = stock(policy, obs)
        return PolicyAt(params, params, distribution)
    raw = policy.raw_params(obs)
    params = policy.dist_params(raw)
    distribution = getattr(policy, "actor", policy).action_dist
    return PolicyAt(params, _without_floor(policy.head, raw, params), distribution)


def actor_parameters(model: Any) -> list[nn.Parameter]:
    """Return the parameters that a model's actions depend on, of ERA's policies and of stock ones."""
    policy = model.policy
    if hasattr(policy, "actor_parameters"):
        return policy.actor_parameters()
    for name in ("actor", "q_net"):
        if hasattr(policy, name):
            return list(getattr(policy, name).parameters())
    modules = (policy.pi_features_extractor, policy.mlp_extractor.policy_net, policy.action_net)
    found = [parameter for module in modules for parameter in module.parameters()]
    return [*found, policy.log_std] if hasattr(policy, "log_std") else found


def _stock_off_policy(policy: Any, obs: Any) -> tuple[tuple[Tensor, ...], Distribution]:
    loc, log_std, _ = policy.actor.get_action_dist_params(obs)
    distribution = policy.actor.action_dist
    if isinstance(distribution, SquashedDiagGaussianDistribution):  # has no entropy of its own
        distribution = HeadDistribution(TanhGaussianHead(distribution.action_dim))
    return (loc, log_std), distribution


def _stock_on_policy(policy: Any, obs: Any) -> tuple[tuple[Tensor, ...], Distribution]:
    features = policy.extract_features(obs, policy.pi_features_extractor)
    outputs = policy.action_net(policy.mlp_extractor.forward_actor(features))
    params = (outputs,)
    if isinstance(policy.action_dist, DiagGaussianDistribution):
        params = (outputs, policy.log_std.expand_as(outputs))
    return params, policy.action_dist


def _without_floor(head: Any, raw: Tensor, params: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the parameters that the same raw outputs would have without the floor."""
    if isinstance(head, MultiCategoricalHead):
        return (raw,)
    raw_log_std = raw[..., head.action_dim : 2 * head.action_dim]
    return params[0], raw_log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)


def _q_values(model: Any, obs: Any, distribution: Any) -> Tensor:
    """Return the mean of what the actor of SAC, CrossQ (least Q) or TQC (mean quantile) maximises."""
    if isinstance(distribution, CategoricalDistribution):
        return expected(distribution.distribution.logits, least_values(model.critic(obs))).mean()
    values = model.critic(obs, distribution.sample())
    if isinstance(values, Tensor):
        return values.mean()
    return torch.cat(values, dim=1).amin(dim=1).mean()


def _surrogate(distribution: Distribution, data: Any, action_space: spaces.Space) -> Tensor:
    """Return E[A log pi(a|s)] with normalised advantages, whose gradient is that of the return."""
    advantages = data.advantages
    advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    discrete = isinstance(action_space, spaces.Discrete)
    actions = data.actions.long().flatten() if discrete else data.actions
    return (advantages * distribution.log_prob(actions)).mean()


def _grad(outputs: Any, inputs: Sequence[Tensor], vectors: Any = None) -> tuple[Tensor, ...]:
    """Return vector-Jacobian products, zero where an output does not depend on an input."""
    return torch.autograd.grad(
        outputs, inputs, vectors, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def _compare(first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[float, float, float]:
    """Return the cosine between two gradients, NaN where one has no direction, and their norms."""
    a, b = (torch.cat([x.flatten() for x in gradients]).double() for gradients in (first, second))
    norms = a.norm().item(), b.norm().item()
    cosine = (a @ b).item() / (norms[0] * norms[1]) if min(norms) >= MIN_NORM else math.nan
    return cosine, *norms
