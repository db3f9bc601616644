"""Several independent agents as one: stacked parameters, noise and replay indices, one stream an agent."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data.replay_buffers import Sampler, Storage
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.objectives import LossModule

from era_rl.torchrl.actors import ERAActor
from era_rl.torchrl.envs import derived_seed

LEARNING, EVALUATION, COLLECTION = 0, 1, 2
"""Purposes of random streams; several collectors count on from COLLECTION."""


class AgentStreams:
    """Random numbers of several agents, each from a generator of its own.

    Args:
        seeds: The seed of each agent.
        purpose: Sets apart the streams of acting, learning and each collector.
        device: Device of the numbers.
    """

    def __init__(self, seeds: Sequence[int], purpose: int, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device) for _ in seeds]
        for generator, seed in zip(self.generators, seeds, strict=True):
            generator.manual_seed(derived_seed(seed, purpose))

    def uniform(self, *shape: int) -> Tensor:
        """Return numbers in [0, 1), shape (agents, *shape)."""
        return self._stack(lambda g: torch.rand(shape, generator=g, device=self.device))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return integers in [0, high), shape (agents, *shape)."""
        return self._stack(lambda g: torch.randint(high, shape, generator=g, device=self.device))

    def permutation(self, n: int) -> Tensor:
        """Return one permutation of n an agent, shape (agents, n)."""
        return self._stack(lambda g: torch.randperm(n, generator=g, device=self.device))

    def _stack(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self.generators])

    def state_dict(self) -> dict[str, Any]:
        """Return the generators' states."""
        return {"states": [generator.get_state() for generator in self.generators]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the generators' states."""
        for generator, value in zip(self.generators, state["states"], strict=True):
            generator.set_state(value)


class StackedSampler(Sampler):
    """Draws uniform transitions of each agent from a storage of elements of shape (agents,).

    A batch has the shape (agents, batch_size); the streams are saved with the learner.
    """

    def __init__(self, streams: AgentStreams) -> None:
        self.streams = streams

    def sample(self, storage: Storage, batch_size: int) -> tuple[tuple[Tensor, Tensor], dict]:
        """Return the indices (time, agent), each (agents, batch_size)."""
        time = self.streams.integers(len(storage), batch_size)
        agent = torch.arange(time.shape[0], device=time.device)[:, None].expand_as(time)
        return (time, agent), {}

    def _empty(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state but the streams'."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing."""

    def dumps(self, path: Any) -> None:
        """Do nothing."""

    def loads(self, path: Any) -> None:
        """Do nothing."""


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
        for key, value in params[name].items(True, True):
            value.requires_grad_(".".join((name, *_path(key))) in trainable)
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
    for name in params.keys():
        loss.__dict__[name] = params[name]
    try:
        return function(*args)
    finally:
        for name in params.keys():
            del loss.__dict__[name]


def _path(key: NestedKey) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else tuple(key)


class StackedPolicy(TensorDictModuleBase):
    """Acts with stacked agents on environments of shape (agents * num_envs,), agents outermost.

    Args:
        actor: The actor, with ``noise_key="noise"``; its own parameters are not used.
        params: Its stacked parameters (agents, ...), shared with the learner.
        noise_dim: Last dimension of the noise.
        streams: Source of the noise; without it the policy can only act deterministically.
        warmup: Calls that act at random, uniformly within the bounds.
    """

    def __init__(
        self,
        actor: ERAActor,
        params: TensorDictBase,
        noise_dim: int,
        streams: AgentStreams | None = None,
        warmup: int = 0,
    ) -> None:
        super().__init__()
        self.params = TensorDictParams(params, no_convert=True)
        self.__dict__["actor"] = actor
        self.agents, self.noise_dim = params.shape[0], noise_dim
        self.streams, self.warmup, self.calls = streams, warmup, 0
        self.in_keys = [key for key in actor.in_keys if key != "noise"]
        self.out_keys = [key for key in actor.out_keys if key != "raw"]

    @property
    def stacked(self) -> TensorDictBase:
        """The parameters as they are now, without autograd."""
        return self.params.data

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the actions of all agents, and what else the actor writes, to the tensordict."""
        data = tensordict.select(*self.in_keys).view(self.agents, -1)
        deterministic = exploration_type() is ExplorationType.DETERMINISTIC
        data["noise"] = self._noise(data.shape, deterministic)
        with torch.no_grad():
            out = torch.vmap(self._act)(self.stacked, data)
        if not deterministic:
            if self.calls < self.warmup:
                out["action"] = self._uniform_action(data["noise"])
            self.calls += 1
        return tensordict.update(out.select(*self.out_keys).view(-1))

    def _act(self, params: TensorDictBase, data: TensorDictBase) -> TensorDictBase:
        with params.to_module(self.actor):
            return self.actor(data)

    def _noise(self, shape: torch.Size, deterministic: bool) -> Tensor:
        if deterministic:
            return torch.zeros(*shape, self.noise_dim, device=self.params.device)
        if self.streams is None:
            raise ValueError("a policy without streams can only act deterministically")
        return self.streams.uniform(*shape[1:], self.noise_dim)

    def _uniform_action(self, noise: Tensor) -> Tensor:
        bounds = self.actor.bounds
        return bounds["low"] + noise * (bounds["high"] - bounds["low"])

    def state_of_streams(self) -> dict[str, Any]:
        """Return what an exact resume needs besides the parameters."""
        return {"streams": self.streams.state_dict() if self.streams else None, "calls": self.calls}

    def load_state_of_streams(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_of_streams`."""
        self.calls = state["calls"]
        if self.streams:
            self.streams.load_state_dict(state["streams"])
