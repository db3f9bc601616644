"""What one loss computation measures, and the memory it takes."""

from pathlib import Path

import pytest
import torch
from llm_helpers import batch, gradients, options, sharp_model, three_way_thresholds, trainer
from torch.utils._python_dispatch import TorchDispatchMode

from era_llm.toy import toy_model
from era_llm.trl import GRPOERAConfig, GRPOERATrainer


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
