"""The algorithms written out from the papers, which the losses and the learners are compared with."""

from collections.abc import Callable, Sequence

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor, nn

from era_rl.core import truncated_normal_era, truncated_normal_sample

GAMMA, TARGET = 0.9, -1.5

Network = Callable[[Tensor], Tensor]


def transitions(*shape: int, observations: int, actions: int) -> TensorDict:
    """Return made-up transitions, with the noise of the losses' samples."""
    ended = torch.rand(*shape, 1)
    return TensorDict(
        {
            "observation": torch.randn(*shape, observations),
            "action": torch.rand(*shape, actions) * 2 - 1,
            "noise": torch.rand(*shape, actions),
            "next": {
                "observation": torch.randn(*shape, observations),
                "noise": torch.rand(*shape, actions),
                "reward": torch.randn(*shape, 1),
                "done": ended < 0.6,
                "terminated": ended < 0.3,
            },
        },
        shape,
    )


def frozen(network: nn.Module) -> Network:
    """Return the network as a function with parameters that get no gradient."""
    values = {name: value.detach() for name, value in network.named_parameters()}
    return lambda inputs: torch.func.functional_call(network, values, (inputs,))


def sac_losses(
    actor: Network,
    critics: Sequence[nn.Module],
    targets: Sequence[nn.Module],
    batch: TensorDictBase,
) -> tuple[Tensor, Tensor]:
    """Return SAC-ERA's two losses, of the actor and of the critics, for actions in [-1, 1]."""

    def sample(observation: Tensor, noise: Tensor) -> Tensor:
        mean, raw_log_std = actor(observation).chunk(2, dim=-1)
        loc = torch.tanh(mean)
        log_std = truncated_normal_era(loc, raw_log_std, target_entropy=TARGET)
        return truncated_normal_sample(loc, log_std, noise)

    def least(networks: Sequence[Network], observation: Tensor, action: Tensor) -> Tensor:
        inputs = torch.cat([observation, action], dim=-1)
        return torch.stack([network(inputs) for network in networks]).amin(0)

    after = batch["next"]
    with torch.no_grad():
        future = least(targets, after["observation"], sample(after["observation"], after["noise"]))
        target = after["reward"] + GAMMA * (1.0 - after["terminated"].double()) * future
    inputs = torch.cat([batch["observation"], batch["action"]], dim=-1)
    errors = [(critic(inputs) - target).square().mean() for critic in critics]
    action = sample(batch["observation"], batch["noise"])
    value = least([frozen(critic) for critic in critics], batch["observation"], action)
    return -value.mean(), torch.stack(errors).sum()


def clipped_objective(
    actor: Network, batch: TensorDictBase, advantage: Tensor, clip: float
) -> Tensor:
    """Return PPO's loss of the actor, for actions in [-1, 1]."""
    mean, raw_log_std = actor(batch["observation"]).chunk(2, dim=-1)
    loc = torch.tanh(mean)
    scale = truncated_normal_era(loc, raw_log_std, target_entropy=TARGET).exp()
    normal = torch.distributions.Normal(loc, scale)
    log_mass = (normal.cdf(torch.ones(())) - normal.cdf(-torch.ones(()))).log()
    log_prob = (normal.log_prob(batch["action"]) - log_mass).sum(-1)
    ratio = (log_prob - batch["action_log_prob"]).exp()[:, None]
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage).mean()


def after_adam(
    parameter: Tensor, gradient: Tensor, *, lr: float, decay: float = 0.0, eps: float = 1e-8
) -> Tensor:
    """Return a parameter after the first step of Adam; with weight decay, of AdamW."""
    mean, square = 0.1 * gradient, 0.001 * gradient**2
    unbiased, deviation = mean / (1.0 - 0.9), (square / (1.0 - 0.999)).sqrt()
    return (1.0 - lr * decay) * parameter - lr * unbiased / (deviation + eps)


def advantages(
    batch: TensorDictBase, value: Tensor, next_value: Tensor, *, gamma: float, lmbda: float
) -> Tensor:
    """Return the generalised advantage estimate; data and values have the shape (time, 1)."""
    after = batch["next"]
    advantage, backwards = torch.zeros(1), []
    for t in reversed(range(len(value))):
        future = gamma * next_value[t] * ~after["terminated"][t]
        error = after["reward"][t] + future - value[t]
        advantage = error + gamma * lmbda * advantage * ~after["done"][t]
        backwards.append(advantage)
    return torch.stack(backwards[::-1])
