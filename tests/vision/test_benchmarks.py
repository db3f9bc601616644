import json

import pytest
import torch

from benchmarks.vision import report, results
from benchmarks.vision.confidence import GAPS, gradient_norms
from benchmarks.vision.mixture import MixtureHead
from era_rl.core import categorical_entropy
from era_rl.runs.folder import write_json
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


@pytest.mark.parametrize("target", [0.1, 0.6, 2.0])
def test_mixtures_floors_are_attained_and_never_beaten(target):
    head = MixtureHead(10, target)
    one_hot = 40.0 * torch.eye(10, dtype=torch.float64)[0]
    # between one-hot and uniform probabilities, and noise about them
    logits = torch.linspace(0.0, 1.0, 20_001, dtype=torch.float64)[:, None] * one_hot
    out = head(torch.cat([logits, logits + 0.1 * torch.randn_like(logits)]))
    assert out.softmax(-1).amax() == pytest.approx(head.max_prob, abs=1e-3)
    assert out.softmax(-1).amax() <= head.max_prob + 1e-9
    assert categorical_entropy(out).amin() == pytest.approx(head.entropy_floor, abs=1e-3)
    assert categorical_entropy(out).amin() >= head.entropy_floor - 1e-9


def test_results_go_on_where_they_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    # as the first runs were kept, with their versions at the head
    old = {"command": "old", "versions": {"torch": "1"}, "runs": {"arm seed 0": {"top1": 0.5}}}
    write_json(tmp_path / "suite.json", old)
    again = results.Results("suite", {})
    config = {"seed": 1, "gaps": (1.0, 2.0)}
    again.complete("arm seed 0", config, lambda: pytest.fail("it is there"))
    again.complete("arm seed 1", config, lambda: {"top1": 0.7})
    content = json.loads((tmp_path / "suite.json").read_text())
    new = content["runs"].pop("arm seed 1")
    assert content == old
    assert new["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert new["command"].startswith("python ")
    again = results.Results("suite", {})
    with pytest.raises(ValueError, match=rf"folder='{tmp_path}' .*\(seed: 1, now 2\)"):
        again.complete("arm seed 1", {**config, "seed": 2}, lambda: pytest.fail("it is there"))


def test_runs_are_averaged_over_seeds():
    content = {"runs": {f"arm seed {seed}": {"top1": 0.5 + 0.2 * seed} for seed in (0, 1)}}
    assert report.spread([r["top1"] for r in content["runs"].values()]) == "0.600 [0.500, 0.700]"
    assert len(report.by_arm(content["runs"])["arm"]) == 2


def test_gradient_norms_are_shown_in_the_form_of_the_first_runs_and_in_todays():
    norms = {"1.0": 0.5, "2.0": 0.25}
    runs = {"gradient old": norms, "gradient new": {"config": {}, "norms": norms}}
    text = report.confidence({**runs, "relabel none seed 0": {"relearned": [0.1]}})
    assert "| old | 0.5 | 0.25 |\n| new | 0.5 | 0.25 |" in text
