"""A trained policy as one file for other runtimes; ONNX needs the extra ``export``."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, distributions, nn

from era_rl.core import Head, categorical_sample
from era_rl.core.portable import DECOMPOSITIONS
from era_rl.networks.moments import standardise
from era_rl.runs.folder import in_one_piece, write_json
from era_rl.runs.record import provenance
from era_rl.runs.settings import SettingsError
from era_rl.sb3.floored import FlooredPolicyMixin

CHECKED = 128
PACKAGES = ("era-rl", "torch", "stable-baselines3", "sb3-contrib", "onnx", "onnxscript")
REFUSED = {
    RecurrentActorCriticPolicy: "its policy carries a state from step to step",
    MaskableActorCriticPolicy: "its policy takes action masks",
}


@torch.no_grad()
def export_policy(
    model: BaseAlgorithm,
    path: str | Path,
    *,
    stochastic: bool = False,
    normalize: VecNormalize | None = None,
) -> float:
    """Write a policy as a function from an environment's observations to the actions that it takes.

    The normalisation of observations and the scaling of actions to their bounds are inside; batches
    are of any size. Before it is written it is compared on random observations with ``model.predict``,
    and where actions are sampled, with the policy at the same noise. ``<path>.json`` beside it has
    inputs, outputs, shapes, units, floor and versions.

    Args:
        model: A model of this package, or of their hosts.
        path: File to write: ``.onnx``, or ``.pt2`` for ``torch.export.load``.
        stochastic: Whether actions are sampled, by a further input, "noise"; else they are the
            deterministic ones.
        normalize: What observations are normalised by; None for the model's own environment's, if any.

    Returns:
        The largest difference of an action, in units of half its range; of discrete actions the share
        that differs.

    Raises:
        ValueError: For another suffix, a recurrent or maskable policy, gSDE, or statistics of other
            observations than the policy's.
        ArithmeticError: If the difference is above 1e-4, or 1% of discrete actions: nothing is written.
    """
    path = Path(path)
    _refuse(model, path)
    graph = ExportedPolicy(model, normalize or model.get_vec_normalize_env())
    differences = [graph.difference(graph.predicted(model), graph(*graph.example()))]
    graph.stochastic = stochastic
    program, write = _program(graph, path.suffix)
    for batch in (graph.example(), tuple(value[:1] for value in graph.example())):
        differences.append(graph.difference(graph(*batch), program(*batch)))
    worst = float(np.max(differences))
    if not worst <= graph.tolerance:
        raise ArithmeticError(
            f"the exported actions differ from predict's by {worst:.2g}, above {graph.tolerance:g}: "
            f"{path} is not written"
        )
    with in_one_piece(path) as part, part.open("wb") as file:
        write(file)
    write_json(path.with_name(f"{path.name}.json"), graph.manifest(model, worst))
    return worst


class ExportedPolicy(nn.Module):
    """A model's policy, copied to the CPU, as a function of tensors to actions.

    They are observations, and noise if ``stochastic``.
    """

    low: Tensor
    high: Tensor

    def __init__(self, model: Any, normalize: VecNormalize | None) -> None:
        super().__init__()
        model.policy.set_training_mode(False)
        self.policy = copy.deepcopy(model.policy).to("cpu").requires_grad_(False)
        for name in {"critic", "critic_target"} & dict(self.policy.named_children()).keys():
            delattr(self.policy, name)  # a .pt2 file has every parameter
        self.floored = isinstance(self.policy, FlooredPolicyMixin)
        self.normalize, self.stochastic = normalize, False
        self.space, space = model.action_space, model.observation_space
        self.is_dict = isinstance(space, spaces.Dict)
        self.parts: dict[str, Any] = dict(space.spaces) if self.is_dict else {"obs": space}
        self.norms = nn.ModuleList(_norm(n, s, normalize) for n, s in self.parts.items())
        self.bounded = isinstance(self.space, spaces.Box)
        self.tolerance = 1e-4 if self.bounded else 0.01
        if self.bounded:
            self.register_buffer("low", torch.as_tensor(self.space.low))
            self.register_buffer("high", torch.as_tensor(self.space.high))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the actions, (batch, ...), in the environment's units."""
        parts = [norm(value) for norm, value in zip(self.norms, inputs, strict=False)]
        obs: Any = dict(zip(self.parts, parts, strict=True)) if self.is_dict else parts[0]
        if not self.stochastic:
            actions = self.policy._predict(obs, deterministic=True)
        elif self.floored:
            params = self.policy.dist_params(self.policy.raw_params(obs))
            actions = self.policy.head.sample(params, inputs[-1])
        else:
            actions = _sample_of_host(self.policy, obs, inputs[-1])
        actions = actions.reshape(-1, *self.space.shape)
        if not self.bounded:
            return actions.long()
        if self.policy.squash_output:
            actions = self.low + 0.5 * (actions + 1.0) * (self.high - self.low)
        return actions.clamp(self.low, self.high)

    @property
    def uniform(self) -> bool:
        """Whether the noise is uniform on [0, 1), not standard normal."""
        if self.floored:
            return type(self.policy.head).draw_noise is Head.draw_noise
        return not self.bounded

    def example(self) -> tuple[Tensor, ...]:
        """Return random observations, drawn where statistics say that they are, and noise."""
        found, generator = [], torch.Generator().manual_seed(0)
        for norm, space in zip(self.norms, map(copy.deepcopy, self.parts.values()), strict=True):
            space.seed(0)
            values = torch.as_tensor(np.stack([space.sample() for _ in range(CHECKED)]))
            if isinstance(norm, _Norm):
                noise = torch.randn(values.shape, generator=generator)
                values = norm.mean + 3.0 * norm.var.sqrt() * noise
            found.append(values.float() if values.is_floating_point() else values)
        if self.stochastic:
            draw = torch.rand if self.uniform else torch.randn
            noise = draw(CHECKED, get_action_dim(self.space), generator=generator)
            if self.uniform:
                noise[:2] = torch.tensor([[0.0], [1.0 - 2.0**-24]])  # its ends
            found.append(noise)
        return tuple(found)

    def predicted(self, model: Any) -> np.ndarray:
        """Return what the model itself does at the random observations."""
        obs: Any = {n: v.numpy() for n, v in zip(self.parts, self.example(), strict=True)}
        obs = obs if self.is_dict else obs["obs"]
        obs = obs if self.normalize is None else self.normalize.normalize_obs(obs)
        return model.predict(obs, deterministic=True)[0]

    def difference(self, expected: Any, found: Any) -> float:
        """Return the largest difference of actions, as :func:`export_policy` does; NaN if one is."""
        expected, found = np.asarray(expected), np.asarray(found)
        if not self.bounded:
            return float((expected != found).mean())
        half = 0.5 * (self.space.high - self.space.low)
        return float(np.abs((expected - found) / np.where(np.isfinite(half), half, 1.0)).max())

    def names(self) -> list[str]:
        """Return the names of the inputs."""
        return [*self.parts, *(["noise"] if self.stochastic else [])]

    def manifest(self, model: Any, difference: float) -> dict[str, Any]:
        """Return what a user of the file needs to know."""
        example, units = self.example(), dict.fromkeys(self.parts, "as the environment gives them")
        units["noise"] = "uniform on [0, 1)" if self.uniform else "standard normal"
        inputs = zip(self.names(), example, strict=True)
        output = {**_described("action", self(*example)), "units": "as the environment takes them"}
        if self.bounded:
            output |= {"low": self.space.low.tolist(), "high": self.space.high.tolist()}
        over = "action dimensions, normalised to [-1, 1]" if self.bounded else "components"
        return {
            "algorithm": type(model).__name__,
            "inputs": [{**_described(n, value), "units": units[n]} for n, value in inputs],
            "outputs": [output],
            "target_entropy": self.policy.target_entropy if self.floored else None,
            "target_entropy_units": f"nats, summed over {over}",
            "max_difference": difference,
            "versions": provenance(PACKAGES)["versions"],
        }


class _Norm(nn.Module):
    """What a VecNormalize does to observations, in float64 as there."""

    mean: Tensor
    var: Tensor

    def __init__(self, moments: Any, eps: float, clip: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(moments.mean))
        self.register_buffer("var", torch.as_tensor(moments.var))
        self.eps, self.clip = eps, clip

    def forward(self, x: Tensor) -> Tensor:
        return standardise(x.double(), self.mean, self.var, eps=self.eps, clip=self.clip).float()


def _refuse(model: Any, path: Path) -> None:
    if path.suffix not in (".pt2", ".onnx"):
        raise SettingsError(f"path={str(path)!r} must end in .pt2 (torch.export) or .onnx")
    for kind, reason in REFUSED.items():
        if isinstance(model.policy, kind):
            raise SettingsError(f"model={type(model).__name__} cannot be exported: {reason}")
    if getattr(model, "use_sde", False):
        raise SettingsError("use_sde=True cannot be exported: gSDE's steps share their noise")


def _norm(name: str, space: Any, normalize: VecNormalize | None) -> nn.Module:
    if normalize is None or not normalize.norm_obs:
        return nn.Identity()
    moments: Any = normalize.obs_rms
    if isinstance(moments, dict) and (moments := moments.get(name)) is None:
        return nn.Identity()
    if moments.mean.shape != space.shape:
        raise SettingsError(
            f"normalize has statistics of shape {moments.mean.shape}, the policy observations of "
            f"{space.shape}: frames that are stacked after they are normalised cannot be exported"
        )
    return _Norm(moments, normalize.epsilon, normalize.clip_obs)


def _sample_of_host(policy: Any, obs: Any, noise: Tensor) -> Tensor:
    if hasattr(policy, "actor"):
        loc, log_std, _ = policy.actor.get_action_dist_params(obs)
        return torch.tanh(loc + log_std.exp() * noise)
    found = policy.get_distribution(obs).distribution
    if isinstance(found, distributions.Normal):
        return found.loc + found.scale * noise
    if isinstance(found, distributions.Bernoulli):
        return noise < found.probs
    components = found if isinstance(found, list) else [found]
    columns = zip(components, noise.unbind(-1), strict=True)
    return torch.stack([categorical_sample(c.logits, u) for c, u in columns], dim=-1)


def _described(name: str, value: Tensor) -> dict[str, Any]:
    dtype = str(value.dtype).removeprefix("torch.")
    return {"name": name, "shape": ["batch", *value.shape[1:]], "dtype": dtype}


def _program(graph: ExportedPolicy, suffix: str) -> tuple[Any, Any]:
    """Return the exported program as a function, and what writes it to a file."""
    shapes = {"inputs": tuple({0: torch.export.Dim("batch")} for _ in graph.names())}
    checks = distributions.Distribution._validate_args
    distributions.Distribution.set_default_validate_args(False)  # a branch on values, of the hosts'
    try:
        program = torch.export.export(graph, graph.example(), dynamic_shapes=shapes)
    finally:
        distributions.Distribution.set_default_validate_args(checks)
    if suffix == ".pt2":
        return program.module(), lambda file: torch.export.save(program, file)
    program = program.run_decompositions(DECOMPOSITIONS)
    onnx: Any = torch.onnx.export(
        program, input_names=graph.names(), output_names=["action"], verbose=False
    )
    return (
        lambda *inputs: onnx(*inputs)[0],
        lambda file: file.write(onnx.model_proto.SerializeToString()),
    )
