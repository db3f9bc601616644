"""Several independent agents as one: stacked parameters, and one random stream an agent."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, exploration_type
from torchrl.objectives import LossModule

from era_rl.envs.wrappers import derived_seed
from era_rl.torchrl.actors import ERAActor


class AgentStreams:
    """Random numbers of several agents, each from a generator of its own, seeded by its seed."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(derived_seed(s)) for s in seeds]

    def draw(self, sample: Callable[..., Tensor], *args: Any) -> Tensor:
        """Return what torch.rand, randint or randperm gives for the arguments, (agents, ...)."""
        return torch.stack(
            [sample(*args, generator=g, device=self.device) for g in self.generators]
        )


def stack_losses(
    build: Callable[[], LossModule],
    seeds: Iterable[int],
    trained: Sequence[str],
    kept: Sequence[str] = (),
) -> tuple[LossModule, TensorDict]:
    """Build a loss module a seed, from torch's global random state, and stack their parameters.

    Returns:
        The first module, as the function to call with :func:`call_with`, and the parameter sets
        (agents, ...): of those ``trained`` what is trained as leaves of autograd, and those ``kept``.
    """
    losses = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(derived_seed(seed))
            losses.append(build())
    sets = [TensorDict.from_module(loss).select(*trained, *kept).data.clone() for loss in losses]
    params = torch.stack(sets)
    trainable = {name for name, _ in losses[0].named_parameters()}
    for name in trained:
        for key, value in params[name].flatten_keys(".").items():
            value.requires_grad_(f"{name}.{key}" in trainable)
    return losses[0], params


def leaves(params: TensorDictBase) -> list[Tensor]:
    """Return the tensors that are trained."""
    return [value for value in params.values(True, True) if value.requires_grad]


def refuse_nonfinite(data: TensorDictBase) -> None:
    """Raise FloatingPointError where what environments gave, of which data has some, is not finite."""
    for key, name in _GIVEN.items():
        value = data.get(key, None)
        if value is not None and not value.isfinite().all():
            raise FloatingPointError(
                f"the {name} must be finite: some are not. Nothing has been trained on them, and the "
                "checkpoint before stays"
            )


_GIVEN: dict[Any, str] = {
    "observation": "observations",
    ("next", "observation"): "observations",
    ("next", "reward"): "rewards",
}


def call_with(
    loss: LossModule, function: Callable[..., Any], params: TensorDictBase, *args: Any
) -> Any:
    """Return function(*args), which calls the loss module, with other parameter sets in their place.

    The sets shadow the module's own in its ``__dict__``, which torch.compile traces in one graph
    (``params.to_module(loss)`` it does not).
    """
    loss.__dict__.update(params.items())
    try:
        return function(*args)
    finally:
        for name in params.keys():  # noqa: SIM118 (a TensorDict)
            del loss.__dict__[name]


class StackedPolicy(TensorDictModuleBase):
    """Acts with stacked agents on environments of shape (agents * n_envs,), agents outermost.

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
        self.in_keys = list(actor.in_keys)
        self.out_keys = [key for key in actor.out_keys if key != "raw"]

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the actions of all agents, and what else the actor writes, to the tensordict.

        Raises:
            FloatingPointError: If an action, or what discrete ones are drawn from, is not finite: it
                says whether observations or the network are to blame.
        """
        environment_device = tensordict["noise"].device
        data = tensordict.select(*self.in_keys).view(len(self.params), -1).to(self.uniform.device)
        data["observation"] = self.normalize(data["observation"])
        out = torch.vmap(self._act)(self.params.data, data).select(*self.out_keys)
        out = out.reshape(-1).to(environment_device)
        # where the environments are: what goes there anyway costs no wait for a GPU
        if not out["action" if self.actor.bounds else "logits"].isfinite().all():
            refuse_nonfinite(tensordict)
            raise FloatingPointError(
                "the policy's actions are not finite: its network has diverged"
            )
        return tensordict.update(out)

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
