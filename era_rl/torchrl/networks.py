"""Actors and critics of a run, from its settings and its environment's specs."""

import torch
from torch import Tensor, nn
from torchrl.envs import EnvBase
from torchrl.modules import MLP, ValueOperator

from era_rl.networks import BatchNormMLP, CategoricalValue, SimbaEncoder, orthogonal
from era_rl.torchrl.actors import ERAActor
from era_rl.torchrl.config import Config
from era_rl.torchrl.specs import raw_dim

_ACTIVATIONS = {"relu": nn.ReLU, "elu": nn.ELU, "tanh": nn.Tanh}


class Joined(nn.Sequential):
    """Layers on several inputs, (..., features) each, as one vector."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the last layer's output."""
        return super().forward(torch.cat(inputs, dim=-1))


def _network(config: Config, inputs: int, outputs: int, *, is_actor: bool) -> nn.Module:
    """Return the settings' network; that of batch-normalised critics ends in a distribution."""
    widths = list((is_actor and config.actor_hidden) or config.hidden)
    if config.network == "simba":
        last = orthogonal(nn.Linear(widths[0], outputs))
        return Joined(SimbaEncoder(inputs, widths[0], len(widths)), last)
    if config.network == "batchnorm":
        body = BatchNormMLP(inputs, widths)
        return Joined(
            body, nn.Linear(widths[-1], outputs) if is_actor else CategoricalValue(widths[-1])
        )
    has_norm = config.layer_norm and not is_actor
    norm_kwargs = [{"normalized_shape": width} for width in widths]
    norm = {"norm_class": nn.LayerNorm, "norm_kwargs": norm_kwargs} if has_norm else {}
    activation = _ACTIVATIONS[config.activation]
    return MLP(inputs, outputs, num_cells=widths, activation_class=activation, **norm)


def make_actor(config: Config, env: EnvBase, *, log_prob: bool) -> ERAActor:
    """Return the actor of the settings, for an environment's specs; samples are those of ``noise``."""
    spec, options = env.action_spec_unbatched.to(config.device), config.policy_options()
    if spec.ndim > 1:
        raise ValueError(
            f"env={config.env!r} must have actions that are one vector, not of shape"
            f" {tuple(spec.shape)}: flatten them in a wrapper"
        )
    first = options.at(1.0)
    inputs, outputs = observation_dim(config, env), raw_dim(spec, first)
    network = _network(config, inputs, outputs, is_actor=True)
    actor = ERAActor(network, spec, first, noise_key="noise", return_log_prob=log_prob)
    options.check_schedule(actor.heads[0])
    return actor.to(config.device)


def make_critic(config: Config, env: EnvBase, *, of_action: bool) -> ValueOperator:
    """Return Q(s, a), or V(s), of the settings."""
    keys = ["observation", "action"] if of_action else ["observation"]
    action_dim = env.action_spec_unbatched.shape[-1] if of_action else 0
    inputs = observation_dim(config, env) + action_dim
    network = _network(config, inputs, 1, is_actor=False)
    return ValueOperator(network, keys).to(config.device)


def observation_dim(config: Config, env: EnvBase) -> int:
    """Return the length of ``observation``; ValueError unless it is one vector of floats."""
    spec = env.observation_spec_unbatched["observation"]
    if spec.ndim != 1 or spec.dtype is None or not spec.dtype.is_floating_point:
        raise ValueError(
            f"env={config.env!r} must have an 'observation' that is a vector of floats, not"
            f" {spec.dtype or 'several'} of shape {tuple(spec.shape)}"
        )
    return spec.shape[-1]
