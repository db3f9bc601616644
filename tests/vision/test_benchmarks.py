import json

import pytest
import torch

from benchmarks.vision import report, results
from benchmarks.vision.confidence import GAPS, gradient_norms
from benchmarks.vision.mixture import MixtureHead
from era_rl.core import categorical_entropy
from era_vision import ERAHead


@pytest.mark.parametrize("target", [0.1, 0.6, 2.0])
def test_mixture_holds_the_floor_and_is_the_identity_above_it(target):
    head = MixtureHead(10, target)
    logits = torch.randn(500, 10) * torch.logspace(-3, 3, 500)[:, None]
    logits.requires_grad_()
    out = head(logits)
    assert categorical_entropy(out).min() >= target - 1e-5
    above = categorical_entropy(logits) > target
    torch.testing.assert_close(out.exp()[above], logits.softmax(-1)[above])
    out.sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_temperature_keeps_a_gradient_where_the_others_lose_it():
    norms = {m: gradient_norms(ERAHead(10, 0.6, method=m)) for m in ("lambert", "temperature")}
    mixture = gradient_norms(MixtureHead(10, 0.6))
    far = str(GAPS[-1])
    assert norms["temperature"][far] > 0.1
    assert max(norms["lambert"][far], mixture[far]) < 1e-3


def test_results_go_on_where_they_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.Results("suite", {}).add("arm seed 0", {"top1": 0.5})
    again = results.Results("suite", {})
    assert "arm seed 0" in again
    again.add("arm seed 1", {"top1": 0.7})
    content = json.loads((tmp_path / "suite.json").read_text())
    assert content["runs"].keys() == {"arm seed 0", "arm seed 1"}
    assert "torch" in content["versions"]
    assert report.spread([r["top1"] for r in content["runs"].values()]) == "0.600 [0.500, 0.700]"
    assert len(report.by_arm(content["runs"])["arm"]) == 2
