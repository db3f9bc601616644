"""A distribution of rsl_rl's: a truncated normal whose entropy has a floor in every state."""

from typing import Any

import torch
from rsl_rl.modules.distribution import Distribution
from torch import Tensor, nn

from era_rl.core import OnPolicyOptions, TruncatedGaussianHead, check_bounds, truncated_normal_kl
from era_rl.core.head import Params


class ERADistribution(Distribution):
    """Gives a robot's policy a minimum entropy, by one line of its configuration.

    ``"distribution_cfg": {"class_name": "era_rl.rsl_rl:ERADistribution", "action_range": (-1.0, 1.0)}``
    in the actor's settings, with ``entropy_coef`` 0 in the algorithm's. The policy is a normal
    truncated to ``action_range``, with loc and shares of the entropy budget from the network
    (:class:`~era_rl.core.TruncatedGaussianHead`): sum_i h_i = H0 in every state, unless log_std_min
    lifts it. Parameters, entropy and divergence are those of actions normalised to [-1, 1], as H0 is;
    ``mean``, ``std`` and densities those of the actions.

    Args:
        output_dim: D, the number of actions; rsl_rl gives it.
        action_range: The bounds of every action, low and high, in the environment's units.
        **options: Of the floor, as :class:`~era_rl.core.OnPolicyOptions` has them: ``target_entropy``
            (nats over all dimensions; "auto" = -0.3 D), ``nats_per_dim``, ``min_entropy_per_dim``,
            ``slack``, ``log_std_min``, ``floor``.

    Raises:
        ValueError: For a range or an option that is not allowed, or an infeasible floor.
        TypeError: For an option that there is not.
    """

    head: TruncatedGaussianHead
    _params: Params

    def __init__(
        self, output_dim: int, action_range: tuple[float, float] = (-1.0, 1.0), **options: Any
    ) -> None:
        super().__init__(output_dim)
        low, high = _two_numbers(action_range)
        check_bounds(f"action_range=({low}, {high})", torch.tensor([low]), torch.tensor([high]))
        chosen = OnPolicyOptions(**options)
        chosen.refuse_mean("rsl_rl, which exports the mode")
        if chosen.distribution != "truncated" or chosen.delta == "auto":
            raise ValueError(
                f"distribution={chosen.distribution!r}, delta={chosen.delta!r} must be 'truncated' and "
                "a number in rsl_rl"
            )
        self.head = chosen.bounded_head(output_dim)  # type: ignore[assignment]
        self.half_range = 0.5 * (high - low)
        self.middle = 0.5 * (high + low)
        self.log_volume = output_dim * torch.tensor(self.half_range).log().item()

    @property
    def input_dim(self) -> int:
        """The number of outputs that the network must have, 2 D, or 2 D + 1 with slack."""
        return self.head.raw_dim

    def init_mlp_weights(self, mlp: nn.Module) -> None:
        """Have every state begin with equal shares of the entropy."""
        last: Any = mlp[-1]  # type: ignore[index]
        nn.init.zeros_(last.weight[self.output_dim :])
        nn.init.zeros_(last.bias[self.output_dim :])

    def update(self, mlp_output: Tensor) -> None:
        """Take the network's outputs, shape (..., input_dim)."""
        self._params = self.head.params(mlp_output)

    def sample(self) -> Tensor:
        """Return actions, shape (..., D)."""
        noise = self.head.draw_noise(self._params[0])
        return self._scaled(self.head.sample(self._params, noise))

    def deterministic_output(self, mlp_output: Tensor) -> Tensor:
        """Return the mode for the network's outputs, shape (..., D)."""
        return self._scaled(self.head.deterministic(mlp_output))

    def as_deterministic_output_module(self) -> nn.Module:
        """Return ``deterministic_output`` as a module that TorchScript and ONNX take."""
        return _Mode(self.output_dim, self.middle, self.half_range)

    @property
    def mean(self) -> Tensor:
        """The mode, tanh of the network's output, which is rsl_rl's deterministic action."""
        return self._scaled(self._params[0])

    @property
    def std(self) -> Tensor:
        """The sigma of the normal before truncation, shape (..., D)."""
        return self.half_range * self._params[1].exp()

    @property
    def entropy(self) -> Tensor:
        """The policy's own entropy in nats, of actions normalised to [-1, 1], shape (...)."""
        return self.head.entropy(self._params)

    @property
    def params(self) -> Params:
        """(loc, log_std) of actions normalised to [-1, 1], each (..., D)."""
        return self._params

    def log_prob(self, outputs: Tensor) -> Tensor:
        """Return ln p of actions, shape (...); those outside ``action_range`` count as at its ends."""
        unit = ((outputs - self.middle) / self.half_range).clamp(-1.0, 1.0)
        return self.head.log_prob(self._params, unit) - self.log_volume

    def kl_divergence(self, old_params: Params, new_params: Params) -> Tensor:
        """Return KL(old || new) in nats, shape (...) (:func:`~era_rl.core.truncated_normal_kl`)."""
        return truncated_normal_kl(*old_params, *new_params).sum(-1)

    def _scaled(self, unit: Tensor) -> Tensor:
        return self.middle + self.half_range * unit


def _two_numbers(action_range: Any) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in action_range)
    except (TypeError, ValueError, RuntimeError) as error:  # the last is torch's, of more elements
        raise ValueError(
            f"action_range={action_range!r} must be two numbers, low and high, the bounds of every "
            "action: what differs between dimensions is scaled in the environment"
        ) from error
    return low, high


class _Mode(nn.Module):
    """middle + half_range tanh(raw mean)."""

    def __init__(self, action_dim: int, middle: float, half_range: float) -> None:
        super().__init__()
        self.action_dim, self.middle, self.half_range = action_dim, middle, half_range

    def forward(self, mlp_output: Tensor) -> Tensor:
        return self.middle + self.half_range * torch.tanh(mlp_output[..., : self.action_dim])
