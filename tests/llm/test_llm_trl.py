"""The TRL trainers: ERA's gradient under every loss, and nothing else changed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from llm_helpers import (
    FunctionalGRPO,
    PaperForm,
    PaperGRPO,
    PaperRLOO,
    batch,
    gradients,
    largest_difference,
    options,
    sharp_model,
    three_way_thresholds,
    trainer,
)
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

import era_llm.fused_head as fused_head
from era_llm.options import ERAOptions
from era_llm.toy import toy_model
from era_llm.trl import (
    ERAMixin,
    GRPOERAConfig,
    GRPOERATrainer,
    RLOOERAConfig,
    RLOOERATrainer,
)

LOSSES = ["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
TIMES = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


def _scaled_both_ways(scale: torch.Tensor) -> bool:
    return bool((scale > 1).any() and (scale < 1).any() and (scale == 1).any())


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSSES)
def test_on_policy_gradient_equals_the_papers_loss(
    tmp_path: Path, loss_type: str, level: str
) -> None:
    """Stock TRL on log softmax(s z) and A / s from full logits, against the fused head."""
    common = options(tmp_path, loss_type=loss_type, importance_sampling_level=level)
    inputs = batch()
    thresholds = three_way_thresholds(sharp_model(), inputs)
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **thresholds))
    found = gradients(era, inputs)
    scale = inputs["era_scale"]
    assert _scaled_both_ways(scale)

    paper = trainer(PaperGRPO, GRPOConfig(**common))
    paper.scale = scale
    advantages = inputs["advantages"] / scale[:, 0]
    expected = gradients(paper, {**batch(), "advantages": advantages})
    assert largest_difference(found, expected) < 1e-6

    stock = trainer(GRPOTrainer, GRPOConfig(**common))
    assert largest_difference(found, gradients(stock, batch())) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"era_k": 3.0},
        {"era_apply_to": "forking"},
        {"era_tokens": "random", "era_apply_to": "forking"},
        {"temperature": 0.7},
    ],
    ids=str,
)
def test_variants_equal_the_papers_loss(tmp_path: Path, changes: dict[str, Any]) -> None:
    common = options(tmp_path, temperature=changes.get("temperature", 1.0))
    inputs = batch()
    settings = {**three_way_thresholds(sharp_model(), inputs), **changes}
    settings.pop("temperature", None)
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **settings))
    found = gradients(era, inputs)
    paper = trainer(PaperGRPO, GRPOConfig(**common))
    paper.scale = inputs["era_scale"]
    assert (paper.scale > 1).any()
    advantages = inputs["advantages"][:, None] / paper.scale
    expected = gradients(paper, {**batch(), "advantages": advantages})
    assert largest_difference(found, expected) < 1e-6


def test_rloo_gradient_equals_the_papers_loss(tmp_path: Path) -> None:
    inputs = batch()
    thresholds = three_way_thresholds(sharp_model(), inputs)
    # RLOO multiplies the log-probabilities of a response, so ratios overflow unless on-policy.
    common = options(tmp_path)
    era = trainer(RLOOERATrainer, RLOOERAConfig(**common, **thresholds))
    paper = trainer(PaperRLOO, RLOOConfig(**common))
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)

    def old_logps(built: Any) -> torch.Tensor:
        with torch.no_grad():
            logps = built._get_per_token_logps_and_entropies(built.model, ids, mask, 10)[0]
        return (logps * inputs["completion_mask"]).sum(1)

    found = gradients(era, inputs := {**inputs, "old_logps": old_logps(era)})
    paper.scale = inputs["era_scale"]
    assert _scaled_both_ways(paper.scale)
    advantages = inputs["advantages"] / paper.scale[:, 0]
    expected = gradients(
        paper, {**batch(), "advantages": advantages, "old_logps": old_logps(paper)}
    )
    assert largest_difference(found, expected) < 1e-5


def test_the_mixin_fits_trls_gmpo(tmp_path: Path) -> None:
    @dataclass
    class GMPOERAConfig(ERAOptions, GMPOConfig):
        pass

    class GMPOERATrainer(ERAMixin, GMPOTrainer):
        config_class = GMPOERAConfig

    class PaperGMPO(PaperForm, GMPOTrainer):
        pass

    inputs = batch()
    common = options(tmp_path)
    thresholds = three_way_thresholds(sharp_model(), inputs)
    found = gradients(trainer(GMPOERATrainer, GMPOERAConfig(**common, **thresholds)), inputs)
    paper = trainer(PaperGMPO, GMPOConfig(**common))
    paper.scale = inputs["era_scale"]
    assert _scaled_both_ways(paper.scale)
    advantages = inputs["advantages"] / paper.scale[:, 0]
    assert largest_difference(found, gradients(paper, {**batch(), "advantages": advantages})) < 1e-6


def test_off_policy_the_first_scales_stay_and_ratios_are_those_of_the_policy(
    tmp_path: Path,
) -> None:
    common = options(tmp_path, num_iterations=2, epsilon=0.9, learning_rate=1e-2)
    inputs = batch()
    era = trainer(
        GRPOERATrainer, GRPOERAConfig(**common, **three_way_thresholds(sharp_model(), inputs))
    )
    gradients(era, inputs)
    first = inputs["era_scale"].clone()
    moved = sharp_model(1)
    moved.lm_head.weight.data.lerp_(sharp_model().lm_head.weight, 0.9)
    era.model.load_state_dict(moved.state_dict())
    inputs["old_per_token_logps"] = torch.full((8, 10), -2.4)
    found = gradients(era, inputs)
    assert torch.equal(inputs["era_scale"], first)

    plain = trainer(FunctionalGRPO, GRPOConfig(**common), model=moved)
    plain.scale = first
    expected = gradients(plain, {**batch(), "old_per_token_logps": torch.full((8, 10), -2.4)})
    assert largest_difference(found, expected) < 1e-5


def test_num_iterations_reuses_the_frozen_scales_in_training(tmp_path: Path, toy: Any) -> None:
    args = GRPOERAConfig(
        **options(tmp_path, num_iterations=3, max_steps=3, learning_rate=3e-2),
        era_entropy_low=2.2,
    )
    era = trainer(GRPOERATrainer, args, toy)
    era.train()
    logs = [log for log in era.state.log_history if "era/h_resp" in log]
    assert len({log["era/h_resp"] for log in logs}) == 3
    assert len({log["era/frac_sharpened"] for log in logs}) == 1
    assert logs[0]["era/frac_sharpened"] > 0


def test_lora_gradient_equals_the_papers_loss(tmp_path: Path) -> None:
    def adapted() -> Any:
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        return get_peft_model(sharp_model(), config)

    inputs = batch()
    common = options(tmp_path)
    thresholds = three_way_thresholds(adapted(), inputs)
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **thresholds), model=adapted())
    found = gradients(era, inputs)
    assert all("lora" in name for name in found)
    paper = trainer(PaperGRPO, GRPOConfig(**common), model=adapted())
    paper.scale = inputs["era_scale"]
    assert _scaled_both_ways(paper.scale)
    advantages = inputs["advantages"] / paper.scale[:, 0]
    expected = gradients(paper, {**batch(), "advantages": advantages})
    assert largest_difference(found, expected) < 1e-6


@pytest.mark.parametrize(
    ("enabled", "bonus"), [(True, 0.0), (False, 0.0), (False, 0.1)], ids=["era", "off", "off+bonus"]
)
def test_a_run_that_scales_nothing_logs_what_stock_grpo_logs(
    tmp_path: Path, toy: Any, enabled: bool, bonus: float
) -> None:
    common = options(tmp_path, max_steps=4, entropy_coef=bonus)
    stock = trainer(GRPOTrainer, GRPOConfig(**common), toy)
    stock.train()
    never = {"era_entropy_low": -1.0, "era_entropy_high": 99.0, "era_enabled": enabled}
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **never), toy)
    era.train()
    assert max(log.get("grad_norm", 0.0) for log in stock.state.log_history) > 0
    assert len(stock.state.log_history) == len(era.state.log_history) == 5
    for expected, log in zip(stock.state.log_history, era.state.log_history, strict=True):
        assert {k: log[k] for k in expected if k not in TIMES} == {
            k: v for k, v in expected.items() if k not in TIMES
        }
    added = set(era.state.log_history[0]) - set(stock.state.log_history[0])
    assert {name for name in added if not name.startswith("era/")} == set()
    assert "era/h_resp" in added


def test_with_an_entropy_bonus_an_unscaled_gradient_equals_stocks_to_rounding(
    tmp_path: Path,
) -> None:
    """The bonus differentiates the first pass and the loss the second; their sum rounds apart."""
    common = options(tmp_path, entropy_coef=0.1)
    stock = gradients(trainer(GRPOTrainer, GRPOConfig(**common)), batch())
    never = {"era_entropy_low": -1.0, "era_entropy_high": 99.0}
    era = gradients(trainer(GRPOERATrainer, GRPOERAConfig(**common, **never)), batch())
    assert largest_difference(era, stock) < 1e-6


def test_random_tokens_leave_the_sampling_of_completions_alone(tmp_path: Path, toy: Any) -> None:
    common = options(tmp_path, max_steps=3)
    stock = trainer(GRPOTrainer, GRPOConfig(**common), toy)
    stock.train()
    settings = {"era_entropy_low": -1.0, "era_entropy_high": 99.0, "era_tokens": "random"}
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **settings), toy)
    era.train()
    rewards = [[log.get("reward") for log in t.state.log_history] for t in (stock, era)]
    assert rewards[0] == rewards[1]


def test_gradient_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    inputs = batch()
    thresholds = three_way_thresholds(sharp_model(), inputs)
    whole = trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path), **thresholds))
    expected = gradients(whole, inputs)
    args = GRPOERAConfig(
        **options(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2),
        **thresholds,
    )
    parts = trainer(GRPOERATrainer, args)
    parts.current_gradient_accumulation_steps = 2
    for half in (slice(0, 4), slice(4, 8)):
        piece = {k: v if v.ndim == 0 else v[half] for k, v in batch().items()}
        parts._compute_loss(parts.model, piece).backward()
    found = {n: p.grad for n, p in parts.model.named_parameters()}
    assert largest_difference(found, expected) < 1e-6


@pytest.mark.parametrize(
    ("trainer_class", "config_class"),
    [(GRPOERATrainer, GRPOERAConfig), (RLOOERATrainer, RLOOERAConfig)],
)
def test_training_resumes_from_a_checkpoint_as_if_never_stopped(
    tmp_path: Path, toy: Any, trainer_class: Any, config_class: Any
) -> None:
    def build(**changes: Any) -> Any:
        common = options(tmp_path, max_steps=4, lr_scheduler_type="constant", **changes)
        return trainer(trainer_class, config_class(**common, era_entropy_low=2.2), toy)

    whole = build(save_strategy="steps", save_steps=2)
    whole.train()
    resumed = build()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert whole.state.log_history[0]["era/frac_sharpened"] > 0
    for left, right in zip(whole.state.log_history, resumed.state.log_history, strict=True):
        assert {k: v for k, v in left.items() if k not in TIMES | {"train_loss"}} == {
            k: v for k, v in right.items() if k not in TIMES | {"train_loss"}
        }


def test_metrics_count_the_responses(tmp_path: Path) -> None:
    inputs = batch()
    era = trainer(
        GRPOERATrainer,
        GRPOERAConfig(**options(tmp_path), **three_way_thresholds(sharp_model(), inputs)),
    )
    gradients(era, inputs)
    log = {k: v[0] for k, v in era._metrics["train"].items() if k.startswith("era/")}
    scale, advantages = inputs["era_scale"][:, 0], inputs["advantages"]
    assert log["era/frac_sharpened"] == pytest.approx((scale > 1).float().mean().item())
    assert log["era/frac_flattened"] == pytest.approx((scale < 1).float().mean().item())
    assert log["era/frac_positive"] == pytest.approx(6 / 8)
    mass = advantages.clamp(min=0).sum() / advantages.abs().sum()
    assert log["era/positive_mass"] == pytest.approx(mass.item())
    shares = [log[f"era/frac_{name}"] for name in ("low", "mid", "high")]
    assert sum(shares) == pytest.approx(1.0)
    assert log["era/h_resp"] > log["era/h_rest"]


def test_tool_tokens_do_not_count_for_the_response_entropy(tmp_path: Path) -> None:
    inputs = batch()
    tool_mask = torch.ones_like(inputs["completion_mask"])
    tool_mask[:, 3:] = 0
    short = {**inputs, "completion_mask": inputs["completion_mask"] * tool_mask}
    logs = []
    for given in ({**inputs, "tool_mask": tool_mask}, short):
        era = trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path)))
        era._compute_loss(era.model, given)
        logs.append(era._metrics["train"]["era/h_resp"])
    assert logs[0] == pytest.approx(logs[1])


def test_evaluation_is_trls_loss(tmp_path: Path) -> None:
    common = options(tmp_path)
    losses = []
    for built in (
        trainer(GRPOERATrainer, GRPOERAConfig(**common, era_entropy_low=2.4)),
        trainer(GRPOTrainer, GRPOConfig(**common)),
    ):
        built.model.eval()
        inputs = {**batch(), "old_per_token_logps": torch.full((8, 10), -2.4)}
        losses.append(built._compute_loss(built.model, inputs))
        assert "era_scale" not in inputs
    assert torch.equal(*losses)


def test_the_loss_step_makes_no_tensor_as_wide_as_the_vocabulary(tmp_path: Path) -> None:
    vocabulary = 70_001
    widths = set()

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for value in result if isinstance(result, (tuple, list)) else (result,):
                if isinstance(value, torch.Tensor) and value.ndim:
                    widths.add(value.shape[-1])
            return result

    model = toy_model(0, vocabulary)
    era = trainer(
        GRPOERATrainer,
        GRPOERAConfig(**options(tmp_path, era_entropy_low=50, era_entropy_high=99)),
        model,
    )
    inputs = batch()
    with Shapes():
        era._compute_loss(era.model, inputs).backward()
    assert (inputs["era_scale"] > 1).any()
    assert widths
    assert vocabulary not in widths
    assert vocabulary - 1 not in widths


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.04}, "beta must be 0"),
        ({"torch_compile": True}, "torch_compile=True"),
        ({"era_k": 1.0}, "k must be above 1"),
        ({"era_entropy_low": 3.0}, "low must be below high"),
        ({"era_top_ratio": 0.0}, "ratio must lie in"),
        ({"era_tokens": "middle"}, "tokens must be one of"),
        ({"era_apply_to": "token"}, "era_apply_to must be one of"),
        ({"era_patience": 0}, "era_patience must be at least 1"),
    ],
    ids=str,
)
def test_refused_options_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GRPOERAConfig(**options(tmp_path, **changes))


def test_rloo_keeps_its_kl_penalty_and_a_disabled_era_refuses_nothing(tmp_path: Path) -> None:
    assert RLOOERAConfig(**options(tmp_path, beta=0.05)).beta == 0.05
    assert GRPOERAConfig(**options(tmp_path, beta=0.05), era_enabled=False).beta == 0.05


def test_a_second_entropy_controller_draws_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    GRPOERAConfig(**options(tmp_path))
    assert "two controllers" not in caplog.text
    GRPOERAConfig(**options(tmp_path, use_adaptive_entropy=True))
    assert "two controllers" in caplog.text


def test_refused_at_construction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = GRPOERAConfig(**options(tmp_path))
    with pytest.raises(TypeError, match="args must be a GRPOERAConfig, got GRPOConfig"):
        trainer(GRPOERATrainer, GRPOConfig(**options(tmp_path)))
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="peft_config of type"):
        trainer(GRPOERATrainer, args, peft_config=prompt)
    monkeypatch.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", object())
    with pytest.raises(RuntimeError, match="computes log-probabilities in another way"):
        trainer(GRPOERATrainer, args)


def test_a_changed_kernel_signature_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        fused_head.ChunkedLogProbFunction, "forward", staticmethod(lambda ctx, hidden: hidden)
    )
    with pytest.raises(RuntimeError, match="computes log-probabilities in another way"):
        trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path)))


def test_a_forward_that_bypasses_the_head_is_an_error_not_the_stock_loss(tmp_path: Path) -> None:
    class Bypass(ERAMixin, FunctionalGRPO):
        config_class = GRPOERAConfig
        scale = torch.ones(8)

    built = trainer(Bypass, GRPOERAConfig(**options(tmp_path)))
    with pytest.raises(RuntimeError, match="called the log-probability head 0 times"):
        built._compute_loss(built.model, batch())


def test_stock_trainers_are_untouched_after_an_era_loss(tmp_path: Path) -> None:
    common = options(tmp_path)
    stock = trainer(GRPOTrainer, GRPOConfig(**common))
    before = gradients(stock, batch())
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, era_entropy_low=2.4))
    gradients(era, batch())
    assert largest_difference(before, gradients(stock, batch())) == 0.0


def test_training_learns(tmp_path: Path, toy: Any) -> None:
    args = GRPOERAConfig(
        **options(tmp_path, max_steps=25, per_device_train_batch_size=32, learning_rate=3e-3),
        era_entropy_low=1.5,
    )
    era = trainer(GRPOERATrainer, args, toy)
    era.reward_funcs = [lambda completions, **_: [float(c.startswith("3")) for c in completions]]
    era.train()
    rewards = [log["reward"] for log in era.state.log_history if "reward" in log]
    assert sum(rewards[-5:]) / 5 > 0.3 + sum(rewards[:5]) / 5


def test_rloo_trains_and_scales(tmp_path: Path, toy: Any) -> None:
    common = options(tmp_path, max_steps=2, beta=0.0)
    era = trainer(RLOOERATrainer, RLOOERAConfig(**common, era_entropy_low=2.4), toy)
    era.train()
    assert isinstance(era, RLOOTrainer)
    assert era.state.log_history[0]["era/frac_sharpened"] > 0
