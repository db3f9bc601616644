"""The gradients of the TRL trainers, against the paper's explicit loss on full logits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_helpers import (
    NEVER,
    FunctionalGRPO,
    PaperForm,
    PaperGRPO,
    PaperRLOO,
    batch,
    difference_from_paper,
    gradients,
    largest_difference,
    options,
    papers_gradients,
    sharp_model,
    three_way_thresholds,
    trainer,
)
from peft import LoraConfig, get_peft_model
from torch._dynamo.testing import CompileCounter
from trl import GRPOConfig, GRPOTrainer, RLOOConfig
from trl.experimental.gmpo import GMPOConfig, GMPOTrainer

from era_llm.options import ERAOptions
from era_llm.trl import ERAMixin, GRPOERAConfig, GRPOERATrainer, RLOOERAConfig, RLOOERATrainer

every_loss = pytest.mark.parametrize(
    "loss_type", ["grpo", "dapo", "dr_grpo", "bnpo", "cispo", "sapo", "luspo", "vespo"]
)
every_level = pytest.mark.parametrize("level", ["token", "sequence"])


def _thresholds(model: Any = None) -> dict[str, float]:
    return three_way_thresholds(sharp_model() if model is None else model, batch())


@every_level
@every_loss
def test_on_policy_gradient_equals_the_papers_loss(
    tmp_path: Path, loss_type: str, level: str
) -> None:
    """Stock TRL on log softmax(s z) and A / s from full logits, against the fused head."""
    common = options(tmp_path, loss_type=loss_type, importance_sampling_level=level)
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **_thresholds()))
    assert difference_from_paper(era, trainer(PaperGRPO, GRPOConfig(**common))) < 1e-6

    stock = gradients(trainer(GRPOTrainer, GRPOConfig(**common)), batch())
    assert largest_difference(gradients(era, batch()), stock) > 1e-3


@every_level
@every_loss
def test_functional_form_equals_the_papers_loss_in_float64(
    tmp_path: Path, loss_type: str, level: str
) -> None:
    common = options(tmp_path, loss_type=loss_type, importance_sampling_level=level)
    choices = torch.tensor([1.7, 1.0, 1.0, 1 / 1.7, 1.7, 1.0, 1.0, 1 / 1.7], dtype=torch.float64)
    scale = choices[:, None].expand(8, 10)
    inputs = {**batch(), "advantages": batch()["advantages"].double()}
    functional, paper = (
        trainer(form, GRPOConfig(**common), sharp_model().double())
        for form in (FunctionalGRPO, PaperGRPO)
    )
    functional.scale = scale
    found = gradients(functional, inputs)
    assert {gradient.dtype for gradient in found.values()} == {torch.float64}
    assert largest_difference(found, papers_gradients(paper, inputs, scale)) < 1e-12


@pytest.mark.parametrize(
    "changes",
    [
        {"era_k": 3.0},
        {"era_k": 4.0},
        {"era_apply_to": "forking"},
        {
            "era_tokens": "random",
            "era_apply_to": "forking",
            "era_entropy_low": 0.2,
            "era_entropy_high": 0.6,
        },
        {"temperature": 0.7, "era_entropy_low": 0.25, "era_entropy_high": 0.3},
        {"era_advantage_scale": False},
    ],
    ids=["k", "k of a power of two", "forking", "random", "temperature", "unscaled-advantages"],
)
def test_variants_equal_the_papers_loss(tmp_path: Path, changes: dict[str, Any]) -> None:
    era = trainer(
        GRPOERATrainer, GRPOERAConfig(**options(tmp_path, **{**_thresholds(), **changes}))
    )
    plain = {name: value for name, value in changes.items() if not name.startswith("era_")}
    paper = trainer(PaperGRPO, GRPOConfig(**options(tmp_path, **plain)))
    assert difference_from_paper(era, paper) < 1e-6


def test_random_tokens_are_others_in_every_step(tmp_path: Path) -> None:
    changes = {"era_tokens": "random", "era_apply_to": "forking", "era_entropy_low": 98.0}
    era = trainer(
        GRPOERATrainer, GRPOERAConfig(**options(tmp_path), **changes, era_entropy_high=99.0)
    )

    def scales(step: int) -> torch.Tensor:
        era.state.global_step = step
        era._compute_loss(era.model, inputs := batch())
        return inputs["era_scale"]

    assert torch.equal(scales(0), scales(0))
    assert not torch.equal(scales(0), scales(1))


def test_rloo_gradient_equals_the_papers_loss(tmp_path: Path) -> None:
    common = options(tmp_path)
    inputs = batch()
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)

    def on_policy(built: Any) -> dict[str, torch.Tensor]:
        """RLOO needs old log-probabilities; the ratio of a whole response overflows off-policy."""
        with torch.no_grad():
            logps = built._get_per_token_logps_and_entropies(built.model, ids, mask, 10)[0]
        return {**batch(), "old_logps": (logps * inputs["completion_mask"]).sum(1)}

    era = trainer(RLOOERATrainer, RLOOERAConfig(**common, **_thresholds()))
    found = gradients(era, responses := on_policy(era))
    paper = trainer(PaperRLOO, RLOOConfig(**common))
    paper.scale = scale = responses["era_scale"]
    assert set(scale.flatten().tolist()) == {0.5, 1.0, 2.0}
    assert largest_difference(found, papers_gradients(paper, on_policy(paper), scale)) < 1e-6


def test_the_mixin_fits_trls_gmpo(tmp_path: Path) -> None:
    @dataclass
    class GMPOERAConfig(ERAOptions, GMPOConfig):
        pass

    class GMPOERATrainer(ERAMixin, GMPOTrainer):
        config_class = GMPOERAConfig

    class PaperGMPO(PaperForm, GMPOTrainer):
        pass

    common = options(tmp_path)
    era = trainer(GMPOERATrainer, GMPOERAConfig(**common, **_thresholds()))
    assert difference_from_paper(era, trainer(PaperGMPO, GMPOConfig(**common))) < 1e-6


def test_lora_gradient_equals_the_papers_loss(tmp_path: Path) -> None:
    def adapted() -> Any:
        torch.manual_seed(3)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        return get_peft_model(sharp_model(), config)

    common = options(tmp_path)
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **_thresholds(adapted())), adapted())
    paper = trainer(PaperGRPO, GRPOConfig(**common), adapted())
    assert difference_from_paper(era, paper) < 1e-6
    trained = {name for name, p in era.model.named_parameters() if p.grad is not None}
    assert trained == {name for name in trained if "lora" in name} != set()


def test_off_policy_the_first_scales_stay_and_ratios_are_those_of_the_policy(
    tmp_path: Path,
) -> None:
    common = options(tmp_path, num_iterations=2, epsilon=0.9)
    inputs = batch()
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **_thresholds()))
    gradients(era, inputs)
    first = inputs["era_scale"].clone()
    moved = sharp_model(1)
    moved.lm_head.weight.data.lerp_(sharp_model().lm_head.weight, 0.9)
    era.model.load_state_dict(moved.state_dict())
    old = {"old_per_token_logps": torch.full((8, 10), -2.4)}
    found = gradients(era, {**inputs, **old})
    assert torch.equal(inputs["era_scale"], first)

    functional = trainer(FunctionalGRPO, GRPOConfig(**common), moved)
    functional.scale = first
    assert largest_difference(found, gradients(functional, {**batch(), **old})) < 1e-6


def test_gradient_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    thresholds = _thresholds()
    whole = trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path), **thresholds))
    halves = options(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    parts = trainer(GRPOERATrainer, GRPOERAConfig(**halves, **thresholds))
    parts.current_gradient_accumulation_steps = 2
    for half in (slice(0, 4), slice(4, 8)):
        piece = {k: v if v.ndim == 0 else v[half] for k, v in batch().items()}
        parts._compute_loss(parts.model, piece).backward()
    found = {n: p.grad for n, p in parts.model.named_parameters()}
    assert largest_difference(found, gradients(whole, batch())) < 1e-6


def with_reference(seed: int = 5) -> dict[str, torch.Tensor]:
    """Return a batch with log-probabilities of a reference policy."""
    generator = torch.Generator().manual_seed(seed)
    return {**batch(), "ref_per_token_logps": -torch.rand(8, 10, generator=generator) * 4 - 0.5}


def check_kl_gradient(common: dict[str, Any]) -> None:
    """grad(ERA with beta) = grad(ERA without) + (grad(stock with beta) - grad(stock without))."""
    thresholds = _thresholds()

    def found(era: bool, beta: float) -> dict[str, torch.Tensor]:
        config = GRPOERAConfig(**common, **thresholds) if era else GRPOConfig(**common)
        built = trainer(GRPOERATrainer if era else GRPOTrainer, config)
        built.beta = beta  # set in the configuration, it would load a reference model too
        return gradients(built, with_reference())

    era, plain, penalised, stock = (
        found(*case) for case in ((True, 0.3), (True, 0.0), (False, 0.3), (False, 0.0))
    )
    expected = {name: plain[name] + penalised[name] - stock[name] for name in plain}
    assert largest_difference(era, expected) < 1e-6
    assert largest_difference(era, plain) > 1e-3


@pytest.mark.parametrize("corrected", [True, False], ids=["bias correction", ""])
@every_loss
def test_a_kl_term_keeps_the_gradient_of_the_plain_policy(
    tmp_path: Path, loss_type: str, corrected: bool
) -> None:
    check_kl_gradient(options(tmp_path, loss_type=loss_type, use_bias_correction_kl=corrected))


def test_a_kl_term_keeps_its_gradient_beside_ratios_of_responses(tmp_path: Path) -> None:
    sequence = {"importance_sampling_level": "sequence", "use_bias_correction_kl": False}
    check_kl_gradient(options(tmp_path, **sequence))


@pytest.mark.parametrize(
    ("changes", "beta"),
    [({}, 0.0), ({"entropy_coef": 0.1}, 0.0), ({}, 0.3), ({"use_adaptive_entropy": True}, 0.3)],
    ids=["", "bonus", "KL", "adaptive bonus and KL"],
)
def test_where_nothing_is_scaled_the_gradient_is_stocks_bit_for_bit(
    tmp_path: Path, changes: dict[str, Any], beta: float
) -> None:
    found = []
    for trainer_class, config in (
        (GRPOTrainer, GRPOConfig(**options(tmp_path, **changes))),
        (GRPOERATrainer, GRPOERAConfig(**options(tmp_path, **changes), **NEVER)),
    ):
        built = trainer(trainer_class, config)
        built.beta = beta
        found.append(gradients(built, with_reference()))
    assert largest_difference(*found) == 0.0


def test_an_entropy_bonus_has_its_gradient_whatever_trl_calls_it(tmp_path: Path) -> None:
    """The entropies carry a gradient for any loss that differentiates them, on scaled rows too."""

    class OwnBonus(GRPOTrainer):
        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
            logps, entropies, _ = self._get_per_token_logps_and_entropies(
                model, ids, mask, 10, compute_entropy=True
            )
            return (entropies * inputs["completion_mask"]).sum() + 0.0 * logps.sum()

    class ERAOwnBonus(ERAMixin, OwnBonus):
        config_class = GRPOERAConfig

    common = options(tmp_path)
    stock = gradients(trainer(OwnBonus, GRPOConfig(**common)), batch())
    era = trainer(ERAOwnBonus, GRPOERAConfig(**common, **_thresholds()))
    found = gradients(era, inputs := batch())
    assert (inputs["era_scale"] != 1).any()
    assert largest_difference(found, stock) < 1e-5


# Dynamo asks what it stands before for its .grad
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_the_gradient_is_the_same_and_steps_compile_once(tmp_path: Path) -> None:
    """Dynamo traces the model around the head, which runs as it is; without inductor, which is slow."""
    built = trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path), **_thresholds()))
    eager = gradients(built, batch())
    torch._dynamo.reset()
    compiled = torch.compile(built.model, backend=(counter := CompileCounter()))
    for _ in range(3):
        built.model.zero_grad()
        built._compute_loss(compiled, inputs := batch()).backward()
        graphs = counter.frame_count
    assert (inputs["era_scale"] != 1).any()
    found = {n: p.grad.clone() for n, p in built.model.named_parameters() if p.grad is not None}
    assert largest_difference(found, eager) < 1e-6
    built._compute_loss(compiled, batch())
    assert counter.frame_count == graphs > 0


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


def test_stock_trainers_are_untouched_after_an_era_loss(tmp_path: Path) -> None:
    common = options(tmp_path)
    stock = trainer(GRPOTrainer, GRPOConfig(**common))
    before = gradients(stock, batch())
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, era_entropy_low=2.4))
    gradients(era, batch())
    assert largest_difference(before, gradients(stock, batch())) == 0.0
