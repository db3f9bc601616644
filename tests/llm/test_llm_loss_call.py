"""What one loss computation measures, and the memory it takes."""

from pathlib import Path

import pytest
import torch
from llm_helpers import (
    batch,
    completion_logits,
    gradients,
    options,
    sharp_model,
    three_way_thresholds,
    trainer,
)
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.llm.toy import toy_model
from era_llm.functional import selected_logps, token_entropies, top_entropy_mean
from era_llm.trl import GRPOERAConfig, GRPOERATrainer


def test_metrics_count_the_responses(tmp_path: Path) -> None:
    """Shares of responses; H_resp of each sign; KL(p_s || p), estimated by w log w - w + 1."""
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
    share = ((scale > 1) & (advantages > 0)).sum() / (advantages > 0).sum()
    assert log["era/frac_positive_sharpened"] == pytest.approx(share.item())
    mask = inputs["completion_mask"].bool()
    logits = completion_logits(era.model, inputs).detach()
    h_resp = top_entropy_mean(token_entropies(logits), mask)
    expected = token_entropies(logits)[mask].mean().item()
    assert log["era/entropy"] == pytest.approx(expected, rel=1e-5)
    for name, chosen in (("positive", advantages > 0), ("negative", advantages < 0)):
        expected = h_resp[chosen & ~h_resp.isnan()].mean()
        assert log[f"era/h_resp_{name}"] == pytest.approx(expected.item(), rel=1e-5)
    targets, scaled = inputs["completion_ids"], mask & (scale != 1)[:, None]
    ratio = selected_logps(logits * scale[:, None, None], targets) - selected_logps(logits, targets)
    kl = (ratio.exp() * ratio - ratio.exp() + 1)[scaled].mean()
    assert log["era/kl"] == pytest.approx(kl.item(), rel=1e-4)
    shares = [log[f"era/frac_{name}"] for name in ("low", "mid", "high")]
    assert sum(shares) == pytest.approx(1.0)
    assert log["era/h_resp"] > log["era/h_rest"]


def test_what_nothing_counts_for_is_left_out(tmp_path: Path) -> None:
    """A logger such as TensorBoard takes no None, which is what TRL makes of NaN."""
    inputs = batch()
    inputs["completion_mask"] = torch.zeros_like(inputs["completion_mask"])
    era = trainer(GRPOERATrainer, GRPOERAConfig(**options(tmp_path)))
    era._compute_loss(era.model, inputs)
    found = {name for name in era._metrics["train"] if name.startswith("era/")}
    shares = {"sharpened", "flattened", "positive", "positive_sharpened"}
    assert found == {f"era/frac_{name}" for name in shares}
    era.log(logs := {})
    assert None not in {logs[name] for name in found}


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
