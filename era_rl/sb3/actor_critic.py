"""SB3's actor-critic policies with an ERA head; everything else is the host policy's."""

import copy
from typing import Any, ClassVar

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import (
    MaskableCategoricalDistribution,
    MaskableDistribution,
    MaskableMultiCategoricalDistribution,
    MaybeMasks,
)
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn
from torch.distributions import Categorical

from era_rl.core import MultiCategoricalHead, OnPolicyOptions
from era_rl.core.compiling import compiled
from era_rl.sb3.distributions import (
    HeadDistribution,
    UncheckedCategorical,
    UncheckedMultiCategorical,
    make_head,
)
from era_rl.sb3.floored import CompiledPassesMixin, FlooredPolicyMixin


class ActorCriticMixin(FlooredPolicyMixin):
    """What the actor-critic policies share: a head between action layer and distribution."""

    options_class = OnPolicyOptions
    action_net: nn.Module
    mlp_extractor: Any
    pi_features_extractor: Any

    def _new_distribution(self) -> Distribution:
        """Return a distribution of the head's outputs, to throw away: it would keep a graph."""
        raise NotImplementedError

    def _build(self, lr_schedule: Schedule) -> None:
        self.head = make_head(self.action_space, self.options)
        # the host's own network for so many logits: one linear layer, and no log_std beside it
        self.action_dist: Any = CategoricalDistribution(self.head.raw_dim)
        super()._build(lr_schedule)  # type: ignore[misc]
        self.action_dist = self._new_distribution()

    def _get_action_dist_from_latent(self, latent_pi: Tensor) -> Any:
        params = self.dist_params(self.action_net(latent_pi))
        return self._new_distribution().proba_distribution(*params)

    def raw_params(self, obs: PyTorchObs) -> Tensor:
        """Return the raw outputs, shape (batch, head.raw_dim), of observations."""
        features = BasePolicy.extract_features(self, obs, self.pi_features_extractor)  # type: ignore[arg-type]
        return self.action_net(self.mlp_extractor.forward_actor(features))

    def actor_parameters(self) -> list[nn.Parameter]:
        """Return the parameters, but for frozen ones, that the policy's distribution depends on."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        mode = self.training
        self.set_training_mode(False)
        obs, _ = self.obs_to_tensor(copy.deepcopy(self.observation_space).sample())
        with torch.enable_grad():
            raw = self.raw_params(obs).sum()
        self.set_training_mode(mode)
        if not raw.requires_grad:
            return []
        gradients = torch.autograd.grad(raw, parameters, allow_unused=True)
        return [
            p for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None
        ]


class UnmaskedMixin(ActorCriticMixin):
    """The distributions of actor-critic policies without masks, on Box and discrete action spaces.

    A Box takes a truncated or squashed normal, its actions normalised to [-1, 1], or an unbounded one,
    whose actions the host clips. Discrete, MultiDiscrete and MultiBinary take categoricals
    (:class:`MultiCategoricalHead`).
    """

    @property
    def _normalised(self) -> bool:
        """Whether the head's actions are in [-1, 1], whatever the environment's bounds."""
        return isinstance(self.action_space, spaces.Box) and self.options.distribution != "normal"

    def _new_distribution(self) -> Any:
        if isinstance(self.action_space, spaces.Box):
            return HeadDistribution(self.head, self.options)
        if isinstance(self.action_space, spaces.Discrete):
            return UncheckedCategorical(self.head.raw_dim)
        return UncheckedMultiCategorical(self.head.num_actions)


class ERAActorCriticMixin(CompiledPassesMixin, UnmaskedMixin):
    """Gives SB3's actor-critic policies an entropy floor (:class:`UnmaskedMixin`)."""

    def _build(self, lr_schedule: Schedule) -> None:
        self._squash_output = self._normalised
        super()._build(lr_schedule)

    def compile_passes(self) -> None:
        """Compile ``forward``, as rollouts call it; it stays eager where that fails."""
        forward = super().forward  # type: ignore[misc]
        self._compiled = compiled(forward, "the policy's forward", forward)

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions, values and log-probabilities of the actions (SB3's)."""
        if self._compiled is not None and self._sampling() and not deterministic:
            return self._compiled(obs)
        return super().forward(obs, deterministic)  # type: ignore[misc]

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        """Return actions, shape (batch, action_dim) (SB3's hook)."""
        if deterministic:
            raw = self.raw_params(observation)
            if not isinstance(self.action_space, spaces.Box):
                Categorical(logits=raw)  # refuses logits that are NaN, which would have a mode too
                return self._new_distribution().proba_distribution(raw).mode()  # the floor's too
            return self.head.deterministic(raw, self.options.deterministic_action)
        return super()._predict(observation, deterministic)  # type: ignore[misc]


class ERAActorCriticPolicy(ERAActorCriticMixin, ActorCriticPolicy):
    """``MlpPolicy`` of PPOERA and A2CERA."""


class ERAActorCriticCnnPolicy(ERAActorCriticMixin, ActorCriticCnnPolicy):
    """``CnnPolicy`` of PPOERA and A2CERA."""


class ERAMultiInputActorCriticPolicy(ERAActorCriticMixin, MultiInputActorCriticPolicy):
    """``MultiInputPolicy`` of PPOERA and A2CERA, for Dict observations."""


class _ScaledDistribution(HeadDistribution):
    """A head's distribution with actions in the environment's units.

    Densities and entropies stay those of actions in [-1, 1]. Actions have the dtype of the bounds, in
    which rollout buffers keep them: of finer ones the densities would be others when trained on.

    Args:
        head: A head of actions in [-1, 1].
        options: As of :class:`HeadDistribution`.
        low: Lower bounds, shape (action_dim,).
        high: Upper bounds.
    """

    def __init__(self, head: Any, options: Any, low: Tensor, high: Tensor) -> None:
        super().__init__(head, options)
        self.dtype = low.dtype
        low, high = (
            bound.to(torch.promote_types(self.dtype, torch.float32)) for bound in (low, high)
        )
        self.low, self.range = low, high - low

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log density of the normalised actions, shape (batch,)."""
        return super().log_prob((2.0 * (actions - self.low) / self.range - 1.0).clamp(-1.0, 1.0))

    def get_actions(self, deterministic: bool = False) -> Tensor:
        """Return samples, or the mode or the mean (SB3's)."""
        actions = self.low + 0.5 * (super().get_actions(deterministic) + 1.0) * self.range
        return actions.to(self.dtype)


class ERARecurrentMixin(UnmaskedMixin):
    """Gives sb3-contrib's recurrent policies an entropy floor (:class:`UnmaskedMixin`).

    The floor holds for every observation and every state of the LSTM. RecurrentPPO clips actions to
    their bounds but does not scale them, so distributions are in the environment's units here.
    """

    lstm_actor: nn.LSTM
    _low: Tensor
    _high: Tensor

    def _build(self, lr_schedule: Schedule) -> None:
        if self._normalised:
            for name in ("low", "high"):
                bound = torch.as_tensor(getattr(self.action_space, name)).flatten()
                self.register_buffer(f"_{name}", bound, persistent=False)
        super()._build(lr_schedule)

    def _new_distribution(self) -> Any:
        if self._normalised:
            return _ScaledDistribution(self.head, self.options, self._low, self._high)
        return super()._new_distribution()

    def raw_params(
        self,
        obs: PyTorchObs,
        lstm_states: tuple[Tensor, Tensor] | None = None,
        episode_starts: Tensor | None = None,
    ) -> Tensor:
        """Return the raw outputs, shape (batch, head.raw_dim), of observations.

        Args:
            obs: Observations, (batch, ...).
            lstm_states: The actor's states before them, each (layers, sequences, units); None for the
                zeros with which an episode begins, one for each observation.
            episode_starts: Which observations begin an episode, (batch,); None for no other.
        """
        features: Any = BasePolicy.extract_features(self, obs, self.pi_features_extractor)  # type: ignore[arg-type]
        if lstm_states is None:
            lstm = self.lstm_actor
            zeros = features.new_zeros(lstm.num_layers, len(features), lstm.hidden_size)
            lstm_states = (zeros, zeros)
        starts = features.new_zeros(len(features)) if episode_starts is None else episode_starts
        latent, _ = RecurrentActorCriticPolicy._process_sequence(
            features, lstm_states, starts, self.lstm_actor
        )
        return self.action_net(self.mlp_extractor.forward_actor(latent))

    def entropy(self, obs: PyTorchObs, *memory: Any) -> Tensor:
        """Return the policy's own entropy in nats, (batch,); arguments as :meth:`raw_params`."""
        return self.head.entropy(self.dist_params(self.raw_params(obs, *memory)))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        names = ("shared_lstm", "enable_critic_lstm", "lstm_kwargs")  # the host saves none of them
        return {
            **super()._get_constructor_parameters(),
            **{name: getattr(self, name) for name in names},
            "lstm_hidden_size": self.lstm_actor.hidden_size,
            "n_lstm_layers": self.lstm_actor.num_layers,
        }


class ERARecurrentPolicy(ERARecurrentMixin, RecurrentActorCriticPolicy):
    """``MlpLstmPolicy`` of RecurrentPPOERA."""


class ERARecurrentCnnPolicy(ERARecurrentMixin, RecurrentActorCriticCnnPolicy):
    """``CnnLstmPolicy`` of RecurrentPPOERA."""


class ERARecurrentMultiInputPolicy(ERARecurrentMixin, RecurrentMultiInputActorCriticPolicy):
    """``MultiInputLstmPolicy`` of RecurrentPPOERA, for Dict observations."""


class _MaskedFloorMixin(MaskableDistribution):
    """Meets the floor after masking, where the host only masks."""

    of_torch: ClassVar[str]
    """Under which name the host has torch's distributions."""

    def __init__(self, head: MultiCategoricalHead, *args: Any) -> None:
        super().__init__(*args)
        self.head = head

    def __getattr__(self, name: str) -> Any:
        """Meet the floor without masks where the distributions are asked for before any are applied."""
        if name != self.of_torch or "raw_logits" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        super().proba_distribution(self.head(self.raw_logits))
        return vars(self)[name]

    def proba_distribution(self, action_logits: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Set the raw logits, shape (batch, sum n_i), unmasked."""
        self.raw_logits = action_logits
        vars(self).pop(self.of_torch, None)
        return self

    def apply_masking(self, masks: MaybeMasks) -> None:
        """Mask actions, shape (batch, sum n_i), then meet the floor of those left."""
        self.proba_distribution(self.raw_logits)
        if masks is not None:
            mask = torch.as_tensor(masks, dtype=torch.bool, device=self.raw_logits.device)
            logits = self.head(self.raw_logits, mask.reshape(self.raw_logits.shape))
            super().proba_distribution(logits)
            super().apply_masking(masks)


class ERAMaskableCategorical(_MaskedFloorMixin, MaskableCategoricalDistribution):
    """sb3-contrib's masked categorical with a floor on what the mask leaves."""

    of_torch = "distribution"


class ERAMaskableMultiCategorical(_MaskedFloorMixin, MaskableMultiCategoricalDistribution):
    """sb3-contrib's masked categoricals with floors on what the masks leave."""

    of_torch = "distributions"


class ERAMaskableMixin(ActorCriticMixin):
    """Gives sb3-contrib's maskable policies an entropy floor, on discrete action spaces."""

    def _new_distribution(self) -> Any:
        if isinstance(self.action_space, spaces.Discrete):
            return ERAMaskableCategorical(self.head, self.head.raw_dim)
        return ERAMaskableMultiCategorical(self.head, self.head.num_actions)

    def dist_params(self, raw: Tensor, /) -> tuple[Tensor, ...]:
        """Return the raw logits, shape (batch, head.raw_dim)."""
        return (raw,)  # the distribution meets the floor, after the mask

    def entropy(self, obs: PyTorchObs, action_masks: MaybeMasks = None) -> Tensor:
        """Return the policy's entropy in nats under the masks, shape (batch,)."""
        return self.get_distribution(obs, action_masks).entropy()  # type: ignore[attr-defined]


class ERAMaskablePolicy(ERAMaskableMixin, MaskableActorCriticPolicy):
    """``MlpPolicy`` of MaskablePPOERA."""


class ERAMaskableCnnPolicy(ERAMaskableMixin, MaskableActorCriticCnnPolicy):
    """``CnnPolicy`` of MaskablePPOERA."""


class ERAMaskableMultiInputPolicy(ERAMaskableMixin, MaskableMultiInputActorCriticPolicy):
    """``MultiInputPolicy`` of MaskablePPOERA, for Dict observations."""
