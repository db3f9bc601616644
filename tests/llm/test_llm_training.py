"""Training runs of the TRL trainers: what they log, resume and learn."""

from pathlib import Path
from typing import Any

import pytest
import torch
from llm_helpers import NEVER, options, trainer
from trl import GRPOConfig, GRPOTrainer

from era_llm import threshold
from era_llm.trl import GRPOERAConfig, GRPOERATrainer, RLOOERAConfig, RLOOERATrainer

TIMES = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}


def _untimed(log: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in log.items() if name not in TIMES}


@pytest.mark.parametrize(
    ("changes", "bonus"),
    [
        ({}, 0.0),
        ({"era_tokens": "random"}, 0.0),
        ({"era_enabled": False}, 0.0),
        ({"era_enabled": False}, 0.1),
    ],
    ids=["era", "random tokens", "off", "off+bonus"],
)
def test_a_run_that_scales_nothing_logs_what_stock_grpo_logs(
    tmp_path: Path, toy: Any, changes: dict[str, Any], bonus: float
) -> None:
    common = options(tmp_path, max_steps=3, entropy_coef=bonus)
    stock = trainer(GRPOTrainer, GRPOConfig(**common), toy)
    stock.train()
    era = trainer(GRPOERATrainer, GRPOERAConfig(**common, **NEVER, **changes), toy)
    era.train()
    assert max(log.get("grad_norm", 0.0) for log in stock.state.log_history) > 0
    assert len(stock.state.log_history) == 4
    for expected, log in zip(stock.state.log_history, era.state.log_history, strict=True):
        added = set(log) - set(expected)
        assert all(name.startswith("era/") for name in added)
        assert _untimed({name: log[name] for name in expected}) == _untimed(expected)
    assert "era/h_resp" in era.state.log_history[0]


def test_num_iterations_reuses_the_frozen_scales_in_training(tmp_path: Path, toy: Any) -> None:
    args = GRPOERAConfig(
        **options(tmp_path, num_iterations=3, max_steps=3, learning_rate=3e-2), era_entropy_low=2.2
    )
    era = trainer(GRPOERATrainer, args, toy)
    era.train()
    logs = [log for log in era.state.log_history if "era/h_resp" in log]
    assert len({log["era/h_resp"] for log in logs}) == 3
    assert len({log["era/frac_sharpened"] for log in logs}) == 1
    assert logs[0]["era/frac_sharpened"] > 0


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
        # of the whole run against that of the part after resuming
        left.pop("train_loss", None), right.pop("train_loss", None)
        assert _untimed(left) == _untimed(right)


def test_an_automatic_threshold_is_a_quantile_of_what_was_seen_and_resumes(
    tmp_path: Path, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """low = q(10%) of H_resp over the first steps, -inf before them, the same when resumed."""
    monkeypatch.setattr(threshold, "STEPS", 3)

    def build(**changes: Any) -> Any:
        common = options(tmp_path, max_steps=5, lr_scheduler_type="constant", **changes)
        return trainer(GRPOERATrainer, GRPOERAConfig(**common, era_entropy_low="auto"), toy)

    whole = build(save_strategy="steps", save_steps=2)
    whole.train()
    seen = torch.tensor(whole._running_low.seen)
    assert len(seen) == 3 * whole.args.per_device_train_batch_size
    logs = [log for log in whole.state.log_history if "era/h_resp" in log]
    assert "era/entropy_low" not in logs[0]
    assert logs[0]["era/frac_sharpened"] == 0
    lows = [log["era/entropy_low"] for log in logs[1:]]
    expected = [seen[: 8 * n].quantile(0.1).item() for n in (1, 2, 3, 3)]
    assert lows == pytest.approx(expected)
    resumed = build()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed._running_low.seen == whole._running_low.seen
    again = [log for log in resumed.state.log_history if "era/h_resp" in log]
    assert [log["era/entropy_low"] for log in again[1:]] == lows
    card = (tmp_path / "README.md").read_text()
    for part in ("GRPO-ERA", "2510.08549", "- `era_entropy_low`: auto", "- `era_k`: 2.0"):
        assert part in card


def test_an_automatic_threshold_needs_a_checkpoint_of_one(tmp_path: Path, toy: Any) -> None:
    """After a run with a number it would never sharpen: its first steps were not seen."""

    def build(low: Any) -> Any:
        saved = options(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
        return trainer(GRPOERATrainer, GRPOERAConfig(**saved, era_entropy_low=low), toy)

    build(0.45).train()
    with pytest.raises(ValueError, match=r"'auto' cannot go on from .*checkpoint-1, which"):
        build("auto").train(resume_from_checkpoint=True)


def test_an_automatic_threshold_stays_below_the_high_one() -> None:
    running = threshold.RunningLow()
    assert running.value(3.0) == float("-inf")
    running.add(torch.tensor([4.0, 5.0, float("nan")]), step=0)
    running.add(torch.tensor([1.0]), step=threshold.STEPS)
    assert running.seen == [4.0, 5.0]
    assert 2.999 < running.value(3.0) < 3.0


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
