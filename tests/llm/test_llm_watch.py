"""Warnings: given once, with their remedy, and only on cause."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from llm_helpers import options, trainer
from transformers import TrainerControl, TrainerState

from era_llm.trl import GRPOERAConfig, GRPOERATrainer, RLOOERAConfig, RLOOERATrainer
from era_llm.watch import ERAWatch

HEALTHY = {
    "era/h_resp": 1.2,
    "era/frac_sharpened": 0.1,
    "era/frac_flattened": 0.0,
    "era/frac_positive": 0.5,
    "frac_reward_zero_std": 0.5,
    "era/entropy": 0.7,
    "loss": 0.01,
    "grad_norm": 0.4,
}


def _feed(watch: ERAWatch, steps: range, enabled: bool = True, **changes: Any) -> None:
    args: Any = SimpleNamespace(era_enabled=enabled)
    for step in steps:
        state = TrainerState(global_step=step, is_world_process_zero=True)
        watch.on_log(args, state, TrainerControl(), logs={**HEALTHY, **changes})


def test_healthy_training_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    _feed(ERAWatch(10), range(1, 100))
    assert caplog.text == ""


def test_nothing_scaled_warns_once_a_patience(caplog: pytest.LogCaptureFixture) -> None:
    watch = ERAWatch(10)
    _feed(watch, range(1, 10), **{"era/frac_sharpened": 0.0})
    assert caplog.text == ""
    _feed(watch, range(10, 20), **{"era/frac_sharpened": 0.0})
    assert caplog.text.count("no response was scaled") == 1
    assert "era-llm calibrate" in caplog.text
    _feed(watch, range(20, 21), **{"era/frac_sharpened": 0.0})
    assert caplog.text.count("no response was scaled") == 2
    caplog.clear()
    _feed(ERAWatch(10), range(1, 40), enabled=False, **{"era/frac_sharpened": 0.0})
    assert caplog.text == ""


def test_patience_starts_where_training_resumes(caplog: pytest.LogCaptureFixture) -> None:
    watch, args = ERAWatch(10), SimpleNamespace(era_enabled=True)
    watch.on_train_begin(args, TrainerState(global_step=500), TrainerControl())  # pyright: ignore
    _feed(watch, range(501, 509), **{"era/frac_sharpened": 0.0})
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        ({"frac_reward_zero_std": 1.0}, "no gradient", "num_generations"),
        ({"era/entropy": 0.01}, "collapsed to 0.010 nats", "era_entropy_low"),
        ({"grad_norm": float("nan")}, "grad_norm is nan", "learning_rate"),
        ({"loss": float("inf")}, "loss is inf", "learning_rate"),
        ({"grad_norm": 40.0}, "grad_norm rose to 40", "learning_rate"),
        ({"loss": -5.0}, "loss rose to 5", "learning_rate"),
    ],
    ids=str,
)
def test_each_cause_names_its_remedy(
    caplog: pytest.LogCaptureFixture, changes: dict[str, float], message: str, remedy: str
) -> None:
    watch = ERAWatch(10)
    _feed(watch, range(1, 30))
    _feed(watch, range(30, 35), **changes)
    assert caplog.text.count(message) == 1
    assert remedy in caplog.text


@pytest.mark.parametrize(
    "changes",
    [{"frac_reward_zero_std": 1.0}, {"era/entropy": 0.01}, {"grad_norm": 40.0}, {"loss": -5.0}],
    ids=str,
)
def test_what_passes_by_draws_no_warning(
    caplog: pytest.LogCaptureFixture, changes: dict[str, float]
) -> None:
    watch = ERAWatch(10)
    _feed(watch, range(1, 30))
    for start in range(30, 60, 3):
        _feed(watch, range(start, start + 2), **changes)
        _feed(watch, range(start + 2, start + 3))
    assert caplog.text == ""


def test_batches_without_a_gradient_are_no_measure_of_it(caplog: pytest.LogCaptureFixture) -> None:
    """Else their zeros were the median, and the next gradient a spike; nor could they be scaled."""
    watch, idle = ERAWatch(10), {"grad_norm": 0.0, "loss": 0.0, "era/frac_positive": 0.0}
    idle |= {"era/frac_sharpened": 0.0}
    for start in range(1, 60, 2):
        _feed(watch, range(start, start + 1), **idle, frac_reward_zero_std=1.0)
        _feed(watch, range(start + 1, start + 2), grad_norm=4.0)
    _feed(watch, range(60, 80), **idle)
    assert caplog.text == ""


def test_completions_without_a_token_are_no_collapsed_entropy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All truncated and masked: TRL logs entropy 0, and era/h_resp is not there."""
    watch = ERAWatch(10)
    unmeasured = {**HEALTHY, "entropy": 0.0}
    del unmeasured["era/h_resp"], unmeasured["era/entropy"]
    args: Any = SimpleNamespace(era_enabled=True)
    for step in range(1, 5):
        state = TrainerState(global_step=step, is_world_process_zero=True)
        watch.on_log(args, state, TrainerControl(), logs=dict(unmeasured))
    assert caplog.text.count("no token was measured") == 1
    assert "max_completion_length" in caplog.text
    assert "collapsed" not in caplog.text


def test_batches_without_a_token_are_no_collapsed_entropy(caplog: pytest.LogCaptureFixture) -> None:
    """Most truncated and masked, in micro-batches of one: zeros in TRL.s mean, not in era/entropy."""
    _feed(ERAWatch(10), range(1, 20), entropy=0.02, **{"era/entropy": 0.16})
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("trainer_class", "config_class"),
    [(GRPOERATrainer, GRPOERAConfig), (RLOOERATrainer, RLOOERAConfig)],
)
def test_a_trainer_watches_with_the_patience_of_its_settings(
    tmp_path: Path, trainer_class: Any, config_class: Any
) -> None:
    built = trainer(trainer_class, config_class(**options(tmp_path), era_patience=7))
    watches = [c for c in built.callback_handler.callbacks if isinstance(c, ERAWatch)]
    assert [watch.patience for watch in watches] == [7]


def test_logs_of_evaluation_and_of_other_processes_are_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch, args = ERAWatch(10), SimpleNamespace(era_enabled=True)
    other = TrainerState(global_step=1, is_world_process_zero=False)
    bad = {**HEALTHY, "era/entropy": 0.0}
    watch.on_log(args, other, TrainerControl(), logs=bad)  # pyright: ignore
    main = TrainerState(global_step=1, is_world_process_zero=True)
    watch.on_log(args, main, TrainerControl(), logs={"eval_entropy": 0.0})  # pyright: ignore
    watch.on_log(args, main, TrainerControl(), logs=None)  # pyright: ignore
    assert caplog.text == ""
