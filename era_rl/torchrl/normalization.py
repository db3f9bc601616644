"""Observation normalisation of stacked agents, with statistics that the policy carries."""

import torch
from torch import Tensor, nn
from torchrl.envs import ClipTransform, ObservationNorm


class AgentObservationNorm(nn.Sequential):
    """Each agent's observations less their mean, over their standard deviation, within [-10, 10].

    TorchRL's ObservationNorm and ClipTransform, with statistics of all observations that :meth:`update`
    was given; before the first there is only the clipping. They are buffers, so that they travel with
    a policy, and stay as they are in evaluation. (VecNorm would keep one set for each environment, or
    one for all agents.)

    Args:
        agents: Number of stacked agents.
        observation_dim: Last dimension of the observations.
        device: Device of the statistics.
    """

    count: Tensor

    def __init__(
        self, agents: int, observation_dim: int, device: torch.device | str = "cpu"
    ) -> None:
        shape, keys = (agents, 1, observation_dim), ["observation"]
        super().__init__(
            ObservationNorm(
                torch.zeros(shape), torch.ones(shape), in_keys=keys, standard_normal=True
            ),
            ClipTransform(in_keys=keys, low=-10.0, high=10.0),
        )
        self.register_buffer("count", torch.zeros(()))
        self.to(device)

    @torch.no_grad()
    def update(self, observation: Tensor) -> None:
        """Add observations, shape (agents, n, observation_dim), to the statistics."""
        n = observation.shape[1]
        loc, scale = self[0].get_buffer("loc"), self[0].get_buffer("scale")
        variance, mean = torch.var_mean(observation, dim=1, correction=0, keepdim=True)
        new = n / (self.count + n)
        shift = mean - loc
        variance = torch.lerp(scale**2, variance, new) + shift**2 * new * (1.0 - new)
        loc.add_(shift * new)
        scale.copy_(variance.sqrt().clamp_min(1e-4))  # for observations that never change
        self.count.add_(n)
