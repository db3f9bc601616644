"""The comparison: complete records, files written once, table and figure."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_helpers import batch, options, trainer

import benchmarks.llm.toy_runs as toy_runs
from benchmarks.llm import controllers, failure_injection
from benchmarks.llm.controllers import CovConfig, CovTrainer, covariance
from benchmarks.llm.toy import toy_perplexity
from benchmarks.llm.toy_runs import ERA, compare, run, table
from era_llm.trl import GRPOERATrainer
from era_rl.runs.folder import read_json


def test_a_run_records_what_it_takes_to_repeat_it(
    toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, _ = run(toy, seed=3, steps=10, changes=ERA)
    assert set(record) == {
        "command", "seed", "config", "versions", "seconds", "initial", "final", "curves"
    }  # fmt: skip
    assert record["config"]["era_entropy_low"] == 1.5
    assert record["curves"]["step"] == [10]
    assert set(record["final"]) == set(toy_runs.MEASURES)
    monkeypatch.setattr(toy_runs, "measure", lambda model: {})
    assert run(toy, seed=3, steps=10, changes=ERA)[0]["curves"] == record["curves"]


def test_a_trained_model_can_be_trained_further(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run samples from, trains and measures the weights that it returns."""
    monkeypatch.setattr(toy_runs, "measure", lambda m: {"perplexity": toy_perplexity(m)})
    model = toy
    for seed in (3, 4):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        record, trained = run(model, seed, steps=3, changes={**ERA, "learning_rate": 1e-2})
        assert all(value.equal(before[name]) for name, value in model.state_dict().items())
        assert record["final"]["perplexity"] != record["initial"]["perplexity"]
        clean = type(trained)(trained.config)
        clean.load_state_dict(trained.state_dict())
        assert record["final"]["perplexity"] == toy_perplexity(clean)
        model = trained


def test_compare_runs_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def fake(model: Any, seed: int, steps: int, changes: dict[str, Any]) -> tuple[Any, None]:
        ran.append(seed)
        measures = {name: float(seed) for name in toy_runs.MEASURES}
        curves = {name: [0.1, 0.2] for name in ("step", *toy_runs.CURVES)}
        config = toy_runs._settings(seed, steps, changes)
        return {"config": config, "initial": measures, "final": measures, "curves": curves}, None

    monkeypatch.setattr(toy_runs, "run", fake)
    monkeypatch.setattr(toy_runs, "pretrained_toy", lambda seed: None)
    compare(tmp_path, [0], 10)
    text = compare(tmp_path, [0, 1], 10)
    assert ran == [0] * len(toy_runs.ARMS) + [1] * len(toy_runs.ARMS)
    assert (tmp_path / "table.md").read_text() == text + "\n"
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert not list(tmp_path.glob("*.part"))
    with pytest.raises(
        ValueError, match=r"grpo-seed0\.json is of other settings \(max_steps: 10, now 20\)"
    ):
        compare(tmp_path, [0, 1, 2], 20)
    assert ran.count(2) == 0


def test_the_table_of_the_failure_injection_is_written_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(*arguments: str) -> None:
        monkeypatch.setattr("sys.argv", ["", "--out", str(tmp_path), *arguments])
        failure_injection.main()

    trained: list[int] = []
    ran: list[tuple[int, int]] = []

    def fake(model: None, seed: int, steps: int, changes: dict[str, Any]) -> tuple[Any, None]:
        ran.append((seed, steps))
        return record, None

    monkeypatch.setattr(failure_injection, "pretrained_toy", trained.append)
    monkeypatch.setattr(failure_injection, "run", fake)
    with pytest.raises(ValueError, match=rf"out='{tmp_path}' has no run"):
        main("--table-only")
    for path in failure_injection.RESULTS.glob("*-seed[01].json"):
        shutil.copy(path, tmp_path)
    missing = tmp_path / "scratch-no-era-seed0.json"
    record = read_json(missing)
    missing.unlink()
    table_file = tmp_path / "table.md"
    with pytest.raises(SystemExit, match="incomplete, 18 runs of seeds") as exit_:
        main("--seeds", "0")
    assert exit_.value.code != 0
    assert (trained, ran) == ([0], [(0, 260)])
    assert not table_file.exists()
    for path in failure_injection.RESULTS.glob("*-seed2.json"):
        shutil.copy(path, tmp_path)
    main("--seeds", "0")
    assert (trained, ran) == ([0], [(0, 260)])
    assert table_file.read_text() == (failure_injection.RESULTS / "table.md").read_text()
    monkeypatch.setitem(failure_injection.STARTS, "scratch", (0, 5, {}))
    with pytest.raises(ValueError, match="max_steps: 260, now 5"):
        main("--table-only")


def test_the_table_gives_mean_and_deviation() -> None:
    runs = [
        {"initial": {}, "final": dict.fromkeys(toy_runs.MEASURES, value)} for value in (1.0, 3.0)
    ]
    assert table({"arm": runs}).splitlines()[-1].startswith("| arm | 2 | 2 ± 1.4 |")


def test_cov_arms_change_the_gradient_of_their_tokens_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clip-Cov: none for its tokens. KL-Cov: sign(log pi - log pi_old) / tokens more for its own."""
    monkeypatch.setattr(controllers, "BOUNDS", (0.0, 5.0))
    host, found = GRPOERATrainer._get_per_token_logps_and_entropies, []

    def leaves(*args: Any, **kwargs: Any) -> Any:
        logps, *others = host(*args, **kwargs)
        found.append(logps.detach().requires_grad_())
        return found[-1], *others

    monkeypatch.setattr(GRPOERATrainer, "_get_per_token_logps_and_entropies", leaves)
    inputs = {**batch(), "old_per_token_logps": torch.full((8, 10), -2.4)}
    for cov in (None, "clip", "kl"):
        common = options(tmp_path, num_iterations=2, loss_type="dapo", epsilon=20.0)
        settings = CovConfig(**common, era_enabled=False, cov=cov, cov_share=0.1)
        built = trainer(CovTrainer, settings)
        built._compute_loss(built.model, inputs).backward()
    mask = inputs["completion_mask"].bool()
    c = covariance(found[0], inputs["advantages"], mask)
    plain, clip, kl = (logps.grad for logps in found)
    clipped = (clip == 0) & (plain != 0)
    assert clipped.sum() == int(0.1 * mask.sum())
    assert ((c > 0) & (c < 5))[clipped].all()
    assert torch.equal(clip[~clipped], plain[~clipped])
    acts = c >= c.flatten().topk(int(0.1 * mask.sum())).values.min()
    more = torch.sign(found[0].detach() + 2.4) / mask.sum() * acts
    torch.testing.assert_close(kl - plain, more, rtol=0, atol=1e-7)
