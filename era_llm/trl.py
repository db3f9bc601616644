"""ERA for the trainers of TRL: GRPO with any of its losses, and RLOO.

    trainer = GRPOERATrainer(model, reward_funcs, args=GRPOERAConfig(...), train_dataset=dataset)

The mixin fits other trainers of the same build, for example TRL's experimental GMPO:
`class GMPOERATrainer(ERAMixin, GMPOTrainer)` with `config_class` set to a configuration that
derives from `ERAOptions` and `GMPOConfig`.
"""

from dataclasses import dataclass, fields
from math import inf, isnan
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from era_llm.fused_head import ScaledHead, check_kernel, installed
from era_llm.loss_call import LossCall
from era_llm.options import ERAOptions, check_grpo_options
from era_llm.threshold import RunningLow
from era_llm.watch import ERAWatch
from era_rl.runs.folder import read_json, write_json

# The mixin precedes a trainer among the bases; which one, it does not know.
_Trainer: Any = object
_HOOKS = ("_compute_loss", "_get_per_token_logps_and_entropies")
_RUNNING = "era_entropy_low.json"
_PAPER = {
    "title": "Entropy Regularizing Activation",
    "id": "2510.08549",
    "citation": "@article{era2025, title = {Entropy Regularizing Activation}, "
    "year = 2025, eprint = {arXiv:2510.08549}}",
}


@dataclass
class GRPOERAConfig(ERAOptions, GRPOConfig):
    """TRL's GRPOConfig with the era_* options.

    Raises:
        ValueError: If an era_* option is out of range, or the KL term of beta is multiplied by the
            importance ratio of a whole response.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check_grpo_options(self)


@dataclass
class RLOOERAConfig(ERAOptions, RLOOConfig):
    """TRL's RLOOConfig with the era_* options; beta is allowed, since it acts on the reward.

    Raises:
        ValueError: If an era_* option is out of range.
    """


class ERAMixin(_Trainer):
    """Puts ERA's gradient under a TRL trainer's loss, and its metrics into the logs.

    The scale of a response is decided in its first pass and kept with it, so that it stays fixed
    over num_iterations. Evaluation computes TRL's loss.
    """

    config_class: ClassVar[type[Any]]
    _paper = _PAPER
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
        self._running_low = RunningLow()
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
        options, active = self.args, self.args.era_enabled and self.model.training
        low, auto = options.era_entropy_low, options.era_entropy_low == "auto"
        low = self._running_low.value(options.era_entropy_high) if auto else low
        seed = options.seed + self.state.global_step
        self._era_call = call = LossCall(options, active, dict(inputs), low, seed)
        try:
            loss = super()._compute_loss(model, call.inputs)
        finally:
            self._era_call = None
        if active:
            inputs["era_scale"] = call.scale
        if auto and active:
            self._running_low.add(self.accelerator.gather(call.h_resp), self.state.global_step)
        self._log_era({} if low == -inf else {"era/entropy_low": low} if auto else {}, call.sums())
        return loss

    def _log_era(self, values: dict[str, float], sums: dict[str, Tensor]) -> None:
        """Add metrics to TRL's; what nothing counts for is left out, since loggers take no None."""
        total = self.accelerator.reduce(torch.stack([*sums.values()]), reduction="sum")
        means = (total[:, 0] / total[:, 1]).tolist()
        log = self._metrics["train" if self.model.training else "eval"]
        for name, value in {**values, **dict(zip(sums, means, strict=True))}.items():
            if not isnan(value):
                log[name].append(value)

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return TRL's log-probabilities and entropies; inside the loss, with ERA's gradient."""
        call, score = self._era_call, super()._get_per_token_logps_and_entropies
        if call is None:
            return score(model, input_ids, *args, **kwargs)
        if not call.active:
            result = score(model, input_ids, *args, **kwargs)
            call.observe(result[1])
            return result
        with installed(ScaledHead(call, input_ids.size(1))):
            result = score(model, input_ids, *args, **kwargs)
        call.keep_kl(result[0], self._kl_is_corrected())
        return result

    def _kl_is_corrected(self) -> bool:
        """Return whether the loss multiplies its KL term by the importance ratio of the token."""
        return False

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save TRL's checkpoint, and what a running threshold has seen."""
        super()._save_checkpoint(model, trial)
        if self.args.era_entropy_low == "auto" and self.args.should_save:
            folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            path = Path(self._get_output_dir(trial=trial)) / folder / _RUNNING
            write_json(path, self._running_low.seen)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on from TRL's checkpoint, and from what a running threshold had seen.

        Raises:
            ValueError: If the threshold is "auto" and the checkpoint is of a run with a number.
        """
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.args.era_entropy_low == "auto" and checkpoint is not None:
            seen = Path(checkpoint) / _RUNNING
            if not seen.exists():
                raise ValueError(
                    f"era_entropy_low='auto' cannot go on from {checkpoint}, which has none of what "
                    "its first steps saw: give the number that the run began with"
                )
            self._running_low.seen = read_json(seen)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write TRL's model card, and below it the options of ERA."""
        super().create_model_card(*args, **kwargs)
        path = Path(self.args.output_dir) / "README.md"
        if self.is_world_process_zero() and path.exists():
            options = [f"- `{f.name}`: {getattr(self.args, f.name)}" for f in fields(ERAOptions)]
            text = "\n".join(["", "## Options of ERA", "", *options, ""])
            path.write_text(path.read_text() + text)


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
    _name = "GRPO-ERA"
    config_class = GRPOERAConfig

    def _kl_is_corrected(self) -> bool:
        return self.args.use_bias_correction_kl


class RLOOERATrainer(ERAMixin, RLOOTrainer):
    """TRL's RLOOTrainer whose updates have ERA's gradient: see `GRPOERATrainer` for its arguments.

    args is an `RLOOERAConfig`. The KL term of RLOO sits in the reward, so beta may be set.
    """

    _tag_names = ["trl", "rloo", "era"]  # noqa: RUF012
    _name = "RLOO-ERA"
    config_class = RLOOERAConfig
