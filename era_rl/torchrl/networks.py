"""Actors and critics of a run, from its settings and its environment's specs."""

from torch import nn
from torchrl.envs import EnvBase
from torchrl.modules import MLP, ValueOperator

from era_rl.torchrl.actors import ERAActor
from era_rl.torchrl.config import Activation, Config
from era_rl.torchrl.specs import raw_dim

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU, "tanh": nn.Tanh}


def mlp(config: Config, in_features: int, out_features: int, layer_norm: bool) -> MLP:
    """Return the multilayer perceptron of the settings, with or without LayerNorm."""
    norm = (
        {
            "norm_class": nn.LayerNorm,
            "norm_kwargs": [{"normalized_shape": width} for width in config.hidden],
        }
        if layer_norm
        else {}
    )
    return MLP(
        in_features=in_features,
        out_features=out_features,
        num_cells=list(config.hidden),
        activation_class=_ACTIVATIONS[config.activation],
        **norm,
    )


def make_actor(config: Config, env: EnvBase, *, log_prob: bool) -> ERAActor:
    """Return the actor of the settings, its samples a function of ``noise``.

    Args:
        config: The settings.
        env: An environment, or a batch of them, for its specs.
        log_prob: Whether the actor writes the log-probability of its actions.
    """
    spec, options = env.action_spec_unbatched.to(config.device), config.policy_options()
    network = mlp(config, observation_dim(config, env), raw_dim(spec, options), layer_norm=False)
    actor = ERAActor(network, spec, options, noise_key="noise", return_log_prob=log_prob)
    return actor.to(config.device)


def make_critic(config: Config, env: EnvBase, *, of_action: bool) -> ValueOperator:
    """Return Q(s, a), or V(s), of the settings."""
    keys = ["observation", "action"] if of_action else ["observation"]
    action_dim = env.action_spec_unbatched.shape[-1] if of_action else 0
    network = mlp(config, observation_dim(config, env) + action_dim, 1, config.layer_norm)
    return ValueOperator(network, keys).to(config.device)


def observation_dim(config: Config, env: EnvBase) -> int:
    """Return the length of the ``observation`` of the settings' environment.

    Raises:
        ValueError: If its observations are not one vector of floats.
    """
    spec = env.observation_spec_unbatched.get("observation", None)
    if spec is None or spec.ndim != 1 or not spec.dtype.is_floating_point:
        found = "none" if spec is None else f"{spec.dtype} of shape {tuple(spec.shape)}"
        raise ValueError(
            f"env={config.env!r} must have an 'observation' that is a vector of floats, not {found}"
        )
    return spec.shape[-1]
