"""Several independent agents as one: stacked parameters, and one random stream an agent."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.objectives import LossModule

from era_rl.networks.moments import RunningNorm, standardise
from era_rl.torchrl.actors import ERAActor
from era_rl.torchrl.envs import derived_seed


class AgentStreams:
    """Random numbers of several agents, each from a generator of its own.

    Args:
        seeds: The seed of each agent.
        device: Device of the numbers.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device) for _ in seeds]
        for generator, seed in zip(self.generators, seeds, strict=True):
            generator.manual_seed(derived_seed(seed))

    def draw(self, sample: Callable[..., Tensor], *args: Any) -> Tensor:
        """Return what torch.rand, randint or randperm gives for the arguments, (agents, ...)."""
        return torch.stack(
            [sample(*args, generator=g, device=self.device) for g in self.generators]
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the generators' states."""
        return {"states": [generator.get_state() for generator in self.generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the generators' states."""
        for generator, value in zip(self.generators, state["states"], strict=True):
            generator.set_state(value)


class AgentNorm(RunningNorm):
    """Standardises each agent's observations, (agents, n, observation_dim), by its own moments."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardised observations, shape of x."""
        mean, var = self.mean.unsqueeze(-2), self.var.unsqueeze(-2)
        return standardise(x, mean, var, eps=self.eps, clip=self.clip)


def stack_losses(
    build: Callable[[], LossModule],
    seeds: Iterable[int],
    trained: Sequence[str],
    kept: Sequence[str] = (),
) -> tuple[LossModule, TensorDict]:
    """Build a loss module a seed and stack their parameters in a new first dimension.

    Args:
        build: Builds a loss module from torch's global random state.
        seeds: The seed of each agent.
        trained: Names of the module's parameter sets that are trained.
        kept: Names of those that are not, such as target parameters.

    Returns:
        The first module, as the function to call with :func:`call_with`, and the stacked parameters
        (agents, ...), the trained ones as leaves of autograd.
    """
    losses = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(derived_seed(seed))
            losses.append(build())
    params = torch.stack(
        [TensorDict.from_module(loss).select(*trained, *kept).data.clone() for loss in losses]
    )
    trainable = {name for name, _ in losses[0].named_parameters()}
    for name in trained:
        for key, value in params[name].flatten_keys(".").items():
            value.requires_grad_(f"{name}.{key}" in trainable)
    return losses[0], params


def leaves(params: TensorDictBase) -> list[Tensor]:
    """Return the tensors that are trained."""
    return [value for value in params.values(True, True) if value.requires_grad]


def call_with(
    loss: LossModule, function: Callable[..., Any], params: TensorDictBase, *args: Any
) -> Any:
    """Return function(*args), which calls the loss module, with other parameter sets in their place.

    The sets shadow the module's own in its ``__dict__``, which torch.compile traces in one graph
    (``params.to_module(loss)`` it does not).
    """
    names = list(params.keys())
    for name in names:
        loss.__dict__[name] = params[name]
    try:
        return function(*args)
    finally:
        for name in names:
            del loss.__dict__[name]


class StackedPolicy(TensorDictModuleBase):
    """Acts with stacked agents on environments of shape (agents * num_envs,), agents outermost.

    A function of ``observation`` and ``noise``, without a random state.

    Args:
        actor: The actor, with ``noise_key="noise"``; its own parameters are not used.
        params: Its stacked parameters (agents, ...), shared with the learner.
    """

    uniform: Tensor
    """While set, bounded actions are uniformly random; a buffer, which collectors in other processes
    receive with the parameters."""

    def __init__(self, actor: ERAActor, params: TensorDictBase) -> None:
        super().__init__()
        self.params = TensorDictParams(params, no_convert=True)
        device = next(iter(params.values(True, True))).device  # params.device is None
        self.register_buffer("uniform", torch.tensor(False, device=device))
        self.normalize: nn.Module = nn.Identity()
        self.__dict__["actor"] = actor
        self.agents = params.shape[0]
        self.in_keys = list(actor.in_keys)
        self.out_keys = [key for key in actor.out_keys if key != "raw"]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the actions of all agents, and what else the actor writes, to the tensordict."""
        environment_device = tensordict["noise"].device
        data = tensordict.select(*self.in_keys).view(self.agents, -1).to(self.uniform.device)
        data["observation"] = self.normalize(data["observation"])
        out = torch.vmap(self._act)(self.params.data, data)
        return tensordict.update(out.select(*self.out_keys).reshape(-1).to(environment_device))

    def _act(self, params: TensorDictBase, data: TensorDictBase) -> TensorDictBase:
        with params.to_module(self.actor):
            data = self.actor(data)
        if self.actor.bounds and exploration_type() is not ExplorationType.DETERMINISTIC:
            low, high = self.actor.bounds["low"], self.actor.bounds["high"]
            at_random = low + data["noise"] * (high - low)
            data["action"] = torch.where(self.uniform, at_random, data["action"])
        return data

    def own_state(self) -> dict[str, Tensor]:
        """Return the buffers beside the actor's parameters, by name."""
        return {"uniform": self.uniform, **dict(self.normalize.named_buffers("normalize"))}
