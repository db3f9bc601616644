import json

import pytest
import torch
from PIL import Image

from benchmarks.vision import emoji, report, results
from benchmarks.vision.confidence import GAPS, gradient_norms
from benchmarks.vision.mixture import MixtureHead
from era_rl.core import categorical_entropy
from era_rl.runs.folder import write_json
from era_vision import Config, ERAHead, load_data


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


def emoji_entry(index, category):
    tones = {
        tone: {"image": f"{index}-{tone}.png", "has_img_google": True}
        for tone in ("1F3FB", "1F3FC")
    }
    return {
        "unified": f"1F{index:03}",
        "image": f"{index}.png",
        "category": category,
        "has_img_google": True,
        "skin_variations": tones,
    }


def test_emoji_keep_their_skin_tones_on_one_side_and_stand_on_white(tmp_path):
    icons = tmp_path / "package" / "img" / "google" / "64"
    icons.mkdir(parents=True)
    entries = [emoji_entry(i, "Objects" if i % 2 else "Activities") for i in range(20)]
    entries.append(emoji_entry(99, "Component"))
    (tmp_path / "package" / "emoji.json").write_text(json.dumps(entries))
    for entry in entries:
        for image in (entry, *entry["skin_variations"].values()):
            picture = Image.new("RGBA", (4, 4), (int(entry["unified"][2:]), 0, 0, 255))
            picture.putpixel((0, 0), (10, 20, 30, 0))
            picture.save(icons / image["image"])
    emoji.write(tmp_path / "package", tmp_path / "data")
    data = load_data(Config(data=f"imagefolder:{tmp_path / 'data'}"))
    assert data.classes == ("Activities", "Objects")
    sides = []
    for part in ("train", "val"):
        pictures = {
            path: Image.open(path).convert("RGB")
            for path in sorted((tmp_path / "data" / part).rglob("*.png"))
        }
        assert all(picture.getpixel((0, 0)) == (255, 255, 255) for picture in pictures.values())
        sides.append([picture.getpixel((1, 1))[0] for picture in pictures.values()])
    assert len(sides[0] + sides[1]) == 60
    assert not set(sides[0]) & set(sides[1])
