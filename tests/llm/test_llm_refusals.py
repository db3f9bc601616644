"""What the configurations and trainers refuse, each with an error that names it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.utils
from accelerate.parallelism_config import ParallelismConfig
from llm_helpers import FunctionalGRPO, batch, options, trainer
from peft import PromptTuningConfig
from trl import GRPOConfig
from trl.experimental.gmpo import GMPOConfig

import era_llm.fused_head as fused_head
from era_llm.options import ERAOptions
from era_llm.trl import ERAMixin, GRPOERAConfig, GRPOERATrainer, RLOOERAConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"beta": 0.04, "importance_sampling_level": "sequence"},
            r"use_bias_correction_kl must be False with ERA, beta=0\.04",
        ),
        ({"era_entropy_low": "automatic"}, "must be a number of nats or 'auto', got 'automatic'"),
        ({"era_k": 1.0}, "k must be above 1"),
        ({"era_k": float("inf")}, "k must be above 1 and at most 1e\\+06, got inf"),
        ({"era_k": "2"}, "era_k must be a number, got '2'"),
        ({"era_top_ratio": "all"}, "era_top_ratio must be a number, got 'all'"),
        ({"era_entropy_low": None}, "must be a number of nats or 'auto', got None"),
        ({"era_entropy_low": 3.0}, "low must be below high"),
        ({"era_top_ratio": 0.0}, "ratio must lie in"),
        ({"era_tokens": "middle"}, "tokens must be one of"),
        ({"era_apply_to": "token"}, "era_apply_to must be one of"),
        ({"era_patience": 0}, "era_patience must be at least 1"),
        ({"era_patience": float("nan")}, "era_patience must be at least 1, got nan"),
        ({"era_enabled": "no"}, "era_enabled='no' must be True or False"),
        ({"era_advantage_scale": 0}, "era_advantage_scale=0 must be True or False"),
        ({"era_entropy_low": False}, "must be a number of nats or 'auto', got False"),
    ],
    ids=str,
)
def test_refused_options_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRPOERAConfig(**options(tmp_path, **changes))


def test_options_are_checked_in_any_configuration(tmp_path: Path) -> None:
    @dataclass
    class GMPOERAConfig(ERAOptions, GMPOConfig):
        pass

    with pytest.raises(ValueError, match="era_patience must be at least 1"):
        GMPOERAConfig(**options(tmp_path, era_patience=0))


def test_rloo_keeps_its_kl_penalty_and_a_disabled_era_refuses_nothing(tmp_path: Path) -> None:
    assert RLOOERAConfig(**options(tmp_path, beta=0.05)).beta == 0.05
    sequence = options(tmp_path, beta=0.05, importance_sampling_level="sequence")
    assert GRPOERAConfig(**sequence, era_enabled=False).beta == 0.05
    assert GRPOERAConfig(**sequence, use_bias_correction_kl=False).beta == 0.05


def test_a_second_entropy_controller_draws_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    GRPOERAConfig(**options(tmp_path))
    assert "two controllers" not in caplog.text
    GRPOERAConfig(**options(tmp_path, use_adaptive_entropy=True))
    assert "two controllers" in caplog.text


def test_args_of_another_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="args must be a GRPOERAConfig, got GRPOConfig"):
        trainer(GRPOERATrainer, GRPOConfig(**options(tmp_path)))


def test_prompt_learning_adapters_are_refused(tmp_path: Path) -> None:
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="peft_config of type"):
        trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path)), peft_config=prompt)


@pytest.mark.parametrize("config", [GRPOERAConfig, RLOOERAConfig])
@pytest.mark.parametrize("name", ["cp_size", "sp_size"])
def test_split_sequences_are_refused(tmp_path: Path, config: Any, name: str) -> None:
    parallel = ParallelismConfig(**{name: 2})
    with pytest.raises(ValueError, match=f"parallelism_config.{name} > 1"):
        config(**options(tmp_path, parallelism_config=parallel))


@pytest.mark.parametrize("name", ["cp_size", "sp_size"])
def test_split_sequences_that_only_the_launcher_knows_of_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    class Launched(GRPOERATrainer):
        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            parallel = ParallelismConfig(**{name: 2})
            monkeypatch.setattr(self.accelerator.state, "parallelism_config", parallel)

    with pytest.raises(ValueError, match=f"parallelism_config with {name}=2 is not supported"):
        trainer(Launched, GRPOERAConfig(**options(tmp_path)))


@pytest.mark.parametrize(
    ("owner", "name", "other"),
    [
        (trl.trainer.utils, "_ChunkedLogProbFunction", object()),
        (fused_head.ChunkedLogProbFunction, "forward", staticmethod(lambda ctx, hidden: hidden)),
    ],
    ids=["kernel", "signature"],
)
def test_another_kernel_of_trl_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, other: Any
) -> None:
    monkeypatch.setattr(owner, name, other)
    with pytest.raises(RuntimeError, match="computes log-probabilities in another way"):
        trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path)))


@pytest.mark.parametrize("name", ["_compute_loss", "_get_per_token_logps_and_entropies"])
def test_a_trainer_without_the_overridden_methods_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delattr(trl.GRPOTrainer, name)
    with pytest.raises(RuntimeError, match=f"lacks {name}, which ERA overrides"):
        trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path)))


@pytest.mark.parametrize("version", ["1.15.2", "1.17.0", "1.160.0"])
def test_a_version_of_trl_that_was_not_tried_is_refused(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr(trl, "__version__", version)
    with pytest.raises(RuntimeError, match=rf"in trl {version}\. Install trl>=1\.16,<1\.17"):
        fused_head.check_kernel()


def test_a_kernel_that_keeps_other_tensors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature is the same, but what stands in the place of log Z is not it."""
    forward = fused_head.ChunkedLogProbFunction.forward

    def changed(
        ctx, hidden, weight, bias, targets, temperature, chunk_size, final_logit_softcapping,
        logit_scale, outputs,
    ):  # fmt: skip
        result = forward(
            ctx, hidden, weight, bias, targets, temperature, chunk_size,
            final_logit_softcapping, logit_scale, outputs,
        )  # fmt: skip
        *tensors, log_z, entropy = ctx.saved_tensors
        ctx.saved_tensors = (*tensors, entropy, log_z)
        return result

    monkeypatch.setattr(fused_head.ChunkedLogProbFunction, "forward", staticmethod(changed))
    with pytest.raises(RuntimeError, match="computes log-probabilities in another way"):
        fused_head.check_kernel()


def test_a_forward_that_bypasses_the_head_is_an_error_not_the_stock_loss(tmp_path: Path) -> None:
    class Bypass(ERAMixin, FunctionalGRPO):
        config_class = GRPOERAConfig
        scale = torch.ones(8)

    built = trainer(Bypass, GRPOERAConfig(**options(tmp_path)))
    with pytest.raises(RuntimeError, match="called the log-probability head 0 times"):
        built._compute_loss(built.model, batch())
