"""XQCERA: batch-normalised networks and categorical critics under a policy with guaranteed entropy."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3.common.policies import BasePolicy, ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, get_actor_critic_arch
from stable_baselines3.common.type_aliases import GymEnv, ReplayBufferSamples
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.sac.policies import CnnPolicy, MultiInputPolicy, SACPolicy
from stable_baselines3.sac.sac import SAC
from torch import Tensor, nn

from era_rl.core.feasibility import check_count
from era_rl.core.head import as_number
from era_rl.networks import BatchNormMLP, CategoricalValue, RewardScale
from era_rl.networks.batch_norm import MOMENTUM, UnitRowAdam
from era_rl.networks.values import categorical_loss, least_categorical, project_categorical
from era_rl.sb3.compiling import Update
from era_rl.sb3.gradients import ActorLoss, CriticLoss, Transitions, least_value
from era_rl.sb3.policies import ERAPolicyMixin, SACERAActor, replace_q_networks
from era_rl.sb3.update import OffPolicyUpdate, ReplayTrainingMixin


class CategoricalQ(nn.Module):
    """Q(s, a) on [-bound, bound]: :class:`BatchNormMLP` -> :class:`CategoricalValue`."""

    def __init__(self, in_features: int, widths: list[int], bins: int, bound: float) -> None:
        super().__init__()
        self.body = BatchNormMLP(in_features, widths)
        self.value = CategoricalValue(widths[-1], bins, -bound, bound)

    def logits(self, x: Tensor, rows: slice) -> Tensor:
        """Return the logits, (rows, bins), of some rows of states and actions, (batch, in_features)."""
        return self.value.logits(self.body(x)[rows])

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean, (batch, 1), at states and actions, (batch, in_features)."""
        return self.value(self.body(x))


class XQCCritic(ContinuousCritic):
    """SB3's critics with :class:`CategoricalQ` networks; called, they give the means."""

    def __init__(self, *args: Any, net_arch: list[int], bins: int, bound: float, **kwargs: Any):
        super().__init__(*args, net_arch=[], **kwargs)
        replace_q_networks(self, lambda q: CategoricalQ(q[0].in_features, net_arch, bins, bound))

    def logits(self, obs: Tensor, actions: Tensor, rows: slice) -> Tensor:
        """Return each critic's logits, (critics, rows, bins), of some rows; statistics are of all."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.share_features_extractor):
            features = self.extract_features(obs, self.features_extractor)
        x = torch.cat([features, actions], dim=1)
        return torch.stack([q_net.logits(x, rows) for q_net in self.q_networks])  # type: ignore[operator]


def xqc_critic_loss(
    critic: Any, target_critic: Any, data: Transitions, next_actions: Tensor
) -> Tensor:
    """Return sum_j of the mean cross-entropy of Z_j(s, a) against r + gamma Z'(s', a') on the bins.

    Z' is the target critic with the smaller mean. (s, a) and (s', a') go through critics and target
    critics in one pass each, whose batch statistics are those of both.

    Source: XQC, arXiv 2509.25174; without its entropy term.
    """
    obs = _joined(data.obs, data.next_obs)
    actions, size = torch.cat([data.actions, next_actions]), len(next_actions)
    z = critic.q_networks[0].value.z
    with torch.no_grad():
        following = target_critic.logits(obs, actions, slice(size, None))
        target = project_categorical(least_categorical(following, z), data.targets(z), z)
    logits = critic.logits(obs, actions, slice(size))
    return categorical_loss(logits, target).mean(dim=1).sum()


def _joined(obs: Any, next_obs: Any) -> Any:
    if isinstance(obs, dict):
        return {key: torch.cat([value, next_obs[key]]) for key, value in obs.items()}
    return torch.cat([obs, next_obs])


class XQCERAPolicy(ERAPolicyMixin, SACPolicy):
    """``MlpPolicy`` of XQCERA; the others differ from it in their extractor of features alone.

    Args:
        *args: Arguments of SB3's ``SACPolicy``.
        net_arch: Widths of the layers, by default four of 256, on any device.
        bins: Number of bins of the critics, at least 2.
        bound: Bins lie on [-bound, bound], within which rewards are scaled to keep returns.
        optimizer_class: By default Adam with weights of unit norm.
        **kwargs: Arguments of SB3's ``SACPolicy``.

    Raises:
        ValueError: For an ``activation_fn`` other than ReLU or ``layer_norm``: there is BatchNorm; for
            a ``net_arch`` without a layer, and ``bins`` or a ``bound`` out of range.
    """

    actor_class = SACERAActor
    algorithm_defaults: ClassVar[dict[str, Any]] = {
        "learning_rate": LinearSchedule(3e-4, 3e-5, 1.0),
        "learning_starts": 5_000,
        "gradient_steps": 2,
    }

    def __init__(
        self,
        *args: Any,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        bins: int = 101,
        bound: float = 5.0,
        optimizer_class: type[torch.optim.Optimizer] = UnitRowAdam,
        layer_norm: bool = False,
        **kwargs: Any,
    ) -> None:
        if layer_norm:
            raise ValueError(
                f"layer_norm={layer_norm!r} must be False: XQCERA's networks are batch-normalised"
            )
        if (activation := kwargs.get("activation_fn", nn.ReLU)) is not nn.ReLU:
            raise ValueError(f"activation_fn={activation!r} must be left out: XQCERA's is ReLU")
        net_arch = [256] * 4 if net_arch is None else net_arch
        if not all(get_actor_critic_arch(net_arch)):
            raise ValueError(
                f"net_arch={net_arch} must have one layer or more for actor and critics each"
            )
        check_count("bins", bins, 2)
        if not 0.0 < as_number("bound", bound) < math.inf:
            raise ValueError(f"bound={bound} must be positive and finite")
        self.bins, self.bound = bins, bound
        super().__init__(*args, net_arch=net_arch, optimizer_class=optimizer_class, **kwargs)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Any:
        """Return the actor (SB3's hook)."""
        actor = super().make_actor(features_extractor)
        actor.latent_pi = BatchNormMLP(actor.features_dim, actor.net_arch)
        return actor.to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> XQCCritic:
        """Return the critics (SB3's hook)."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return XQCCritic(**kwargs, bins=self.bins, bound=self.bound).to(self.device)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        return {**data, "bins": self.bins, "bound": self.bound}


class XQCERACnnPolicy(XQCERAPolicy, CnnPolicy):
    """``CnnPolicy`` of XQCERA, for images."""


class XQCERAMultiInputPolicy(XQCERAPolicy, MultiInputPolicy):
    """``MultiInputPolicy`` of XQCERA, for Dict observations."""


class XQCERA(ReplayTrainingMixin, SAC):  # pyright: ignore[reportIncompatibleVariableOverride]
    """XQC in which the policy's entropy is held by the actor's head, not by the losses.

    H[pi(.|s)] >= H0 for every state. Two critics give distributions of the return on 101 bins, which
    learn r / c + gamma Z(s', a') by cross-entropy, c the running scale of rewards that keeps returns
    within the bins; the actor maximises min_j E[Z_j(s, a)] at every third update. There is no entropy
    term, so the bins bound the return alone. All networks are batch-normalised, their weights have
    rows of unit norm. The arguments are those of :class:`SACERA`, but for these and their defaults.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a policy class derived from theirs;
            ``policy_kwargs`` have ``bins`` and ``bound`` besides (:class:`XQCERAPolicy`).
        env: Environment or its id; the action space must be a bounded Box.
        *args: SAC's arguments by position.
        policy_delay: Updates of the critics to one of the actor, at least 1.
        **kwargs: As of :class:`SACERA`. By default ``learning_rate`` falls from 3e-4 to 3e-5 within
            ``learn``, ``learning_starts`` is 5,000 and ``gradient_steps`` 2; ``gamma`` = .99 suits
            episodes of 500 decisions.

    Raises:
        ValueError: As :class:`SACERA`, for ``layer_norm`` and for ``policy_delay`` below 1.

    Source: XQC, arXiv 2509.25174.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": XQCERAPolicy,
        "CnnPolicy": XQCERACnnPolicy,
        "MultiInputPolicy": XQCERAMultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        *args: Any,
        policy_delay: int = 3,
        **kwargs: Any,
    ) -> None:
        check_count("policy_delay", policy_delay)
        self.policy_delay = policy_delay
        super().__init__(policy, env, *args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        # the actor's statistics follow its weights as the critics' do theirs, though it waits
        for module in self.actor.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = 1.0 - (1.0 - MOMENTUM) ** self.policy_delay
        self.reward_scale = RewardScale(self.gamma, self.policy.bound, self.n_envs)  # type: ignore[arg-type]

    def _setup_learn(self, *args: Any, **kwargs: Any) -> Any:
        before = self._last_obs
        found = super()._setup_learn(*args, **kwargs)
        if self._last_obs is not before:  # the environments have begun new episodes
            self.reward_scale.returns.zero_()
        return found

    def _make_update(self) -> Update:
        losses = CriticLoss(self.policy, xqc_critic_loss), ActorLoss(self.policy, least_value)
        return OffPolicyUpdate(self.policy, *losses, joint=True)

    def _return_scale(self) -> float:
        return self.reward_scale().item()

    def _transitions(self, data: ReplayBufferSamples) -> Transitions:
        return super()._transitions(data._replace(rewards=data.rewards / self._return_scale()))

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        self.reward_scale.update(torch.as_tensor(reward), torch.as_tensor(dones))

    def dump_logs(self, *args: Any, **kwargs: Any) -> None:
        """Log the rewards' scale besides (SB3's hook)."""
        self.logger.record("train/reward_scale", self._return_scale())
        super().dump_logs(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "reward_scale"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "reward_scale"], tensors
