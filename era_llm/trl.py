"""ERA for the trainers of TRL: GRPO with any of its losses, and RLOO.

    trainer = GRPOERATrainer(model, reward_funcs, args=GRPOERAConfig(...), train_dataset=dataset)

The mixin fits other trainers of the same build, for example TRL's experimental GMPO:
`class GMPOERATrainer(ERAMixin, GMPOTrainer)` with `config_class` set to a configuration that
derives from `ERAOptions` and `GMPOConfig`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from era_llm.fused_head import ERAHead, check_kernel, installed
from era_llm.loss_call import LossCall, metrics
from era_llm.options import ERAOptions, check_grpo_options, check_options
from era_llm.watch import ERAWatch

# The mixin precedes a trainer among the bases; which one, it does not know.
_Trainer: Any = object
_HOOKS = ("_compute_loss", "_get_per_token_logps_and_entropies")


@dataclass
class GRPOERAConfig(ERAOptions, GRPOConfig):
    """TRL's GRPOConfig with the era_* options.

    Raises:
        ValueError: If an era_* option is out of range, or beta or torch_compile is set.
    """

    def __post_init__(self) -> None:
        """Check the options after TRL's own checks."""
        super().__post_init__()
        check_options(self)
        check_grpo_options(self)


@dataclass
class RLOOERAConfig(ERAOptions, RLOOConfig):
    """TRL's RLOOConfig with the era_* options; beta is allowed, since it acts on the reward.

    Raises:
        ValueError: If an era_* option is out of range, or torch_compile is set.
    """

    def __post_init__(self) -> None:
        """Check the options after TRL's own checks."""
        super().__post_init__()
        check_options(self)


class ERAMixin(_Trainer):
    """Puts ERA's gradient under a TRL trainer's loss, and its metrics into the logs.

    The scale of a response is decided in its first pass and kept with it, so that it stays fixed
    over num_iterations. Evaluation computes TRL's loss.
    """

    config_class: ClassVar[type[Any]]
    _era_call: LossCall | None = None

    def __init__(
        self, model: Any, reward_funcs: Any = None, args: Any = None, *rest: Any, **kwargs: Any
    ) -> None:
        """Take what the TRL trainer takes, with `args` an instance of `config_class`.

        Raises:
            TypeError: If args is of another class.
            ValueError: If the model or the launch is one that ERA does not support.
            RuntimeError: If TRL's internals are not those of the supported versions.
        """
        args = self.config_class("era") if args is None else args
        if not isinstance(args, ERAOptions):
            raise TypeError(
                f"args must be a {self.config_class.__name__}, got {type(args).__name__}"
            )
        if args.era_enabled:
            self._check_trl()
        super().__init__(model, reward_funcs, args, *rest, **kwargs)
        if args.era_enabled:
            self._refuse_unsupported()
        self.add_callback(ERAWatch(args.era_patience))

    def _check_trl(self) -> None:
        """Raise RuntimeError unless TRL has what ERA overrides: its loss would be used unchanged."""
        check_kernel()
        host = super()
        if missing := [name for name in _HOOKS if not hasattr(host, name)]:
            raise RuntimeError(
                f"This TRL's trainer lacks {', '.join(missing)}, which ERA overrides. "
                "Install a supported trl, or set era_enabled=False."
            )

    def _refuse_unsupported(self) -> None:
        """Raise ValueError for prompt-learning adapters and for split sequences."""
        adapter = getattr(self.model, "active_peft_config", None)
        if adapter is not None and adapter.is_prompt_learning:
            raise ValueError(f"peft_config of type {adapter.peft_type} is not supported with ERA")
        parallel = self.accelerator.parallelism_config
        for name in ("cp_size", "sp_size"):
            if (size := getattr(parallel, name, 1)) > 1:
                raise ValueError(f"parallelism_config with {name}={size} is not supported with ERA")

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """Compute TRL's loss with ERA's gradient, freeze the scales and add the metrics."""
        scored = inputs["completion_mask"]
        active = self.args.era_enabled and self.model.training
        call = LossCall(
            options=self.args,
            active=active,
            mask=scored * inputs["tool_mask"] if "tool_mask" in inputs else scored,
            scored=scored,
            advantages=inputs["advantages"],
            scale=inputs.get("era_scale"),
            seed=self.args.seed + self.state.global_step,
        )
        self._era_call = call
        try:
            loss = super()._compute_loss(model, inputs)
        finally:
            self._era_call = None
        if active:
            inputs["era_scale"] = call.scale
        log = self._metrics["train" if self.model.training else "eval"]
        for name, value in metrics(self.accelerator.reduce(call.sums(), reduction="sum")).items():
            log[name].append(value)
        return loss

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return TRL's log-probabilities and entropies; inside the loss, with ERA's gradient."""
        call, score = self._era_call, super()._get_per_token_logps_and_entropies
        if call is None:
            return score(model, input_ids, *args, **kwargs)
        if call.active:
            bonus = getattr(self, "_entropy_bonus_enabled", False)
            with installed(ERAHead(call, input_ids.size(1), entropy_gradient=bonus)):
                return score(model, input_ids, *args, **kwargs)
        result = score(model, input_ids, *args, **kwargs)
        call.observe(result[1])
        return result


class GRPOERATrainer(ERAMixin, GRPOTrainer):
    """TRL's GRPOTrainer whose updates have ERA's gradient, A (e_y - softmax(s z)).

    Only the backward pass differs, see `era_llm.functional`: sampling, log-probabilities, ratios,
    clipping, importance weights and evaluation are TRL's, for every loss_type and num_iterations.

    Args:
        model: A causal language model, or its name.
        reward_funcs: Reward functions, as TRL takes them.
        args: A `GRPOERAConfig`; its era_* options are those of ERA.
        *rest: TRL's further arguments, by position.
        **kwargs: TRL's further arguments, such as train_dataset and processing_class.

    Raises:
        TypeError: If args is of another class.
        ValueError: If the model or the launch is one that ERA does not support.
        RuntimeError: If TRL's internals are not those of the supported versions.
    """

    _tag_names = ["trl", "grpo", "era"]  # noqa: RUF012
    config_class = GRPOERAConfig


class RLOOERATrainer(ERAMixin, RLOOTrainer):
    """TRL's RLOOTrainer whose updates have ERA's gradient: see `GRPOERATrainer` for its arguments.

    args is an `RLOOERAConfig`. The KL term of RLOO sits in the reward, so beta may be set.
    """

    _tag_names = ["trl", "rloo", "era"]  # noqa: RUF012
    config_class = RLOOERAConfig
