"""A floor that changes while training: followed, logged, saved, gone on with, and replaced."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from sb3_family import BOX, FAMILY, REPLAY, small, some_states, space_of
from sb3_toys import logging_to, read_rows, small_sacera, trained
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from era_rl.core import EntropySchedule
from era_rl.runs.yaml_files import parse
from era_rl.sb3 import PPOERA, SACERA, run_settings

LINE = EntropySchedule(0.5, 0.1, 0.75)


class Floors(BaseCallback):
    """Notes the floor in force at each step, and the progress at the last update before it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def _on_step(self) -> bool:
        self.seen.append(self.model.policy.head.target_entropy)  # type: ignore[union-attr, operator]
        return True


@pytest.mark.parametrize("name", FAMILY)
def test_every_algorithm_follows_a_schedule(name: str, tmp_path: Path) -> None:
    """H[pi(.|s)] >= H0(p), p as of the last update, and the log has that floor."""
    model: Any = small(name, space_of(name), target_entropy=LINE)
    assert model.target_entropy == 0.5
    floors = Floors()
    with logging_to(tmp_path, model):
        model.learn(128, callback=floors, log_interval=1)
    assert floors.seen[0] == 0.5
    assert len(set(floors.seen)) > 2
    assert floors.seen == sorted(floors.seen, reverse=True)
    assert model.target_entropy == model.policy.target_entropy == 0.1
    obs = torch.as_tensor(some_states(model, 50))
    model.policy.set_training_mode(False)
    if model.policy.entropy_may_rise:  # else it is far above any floor yet
        last = model.actor.mu if name in REPLAY else model.policy.action_net
        last.weight.data.mul_(1e6)
    assert 0.1 - 1e-6 <= model.policy.entropy(obs).min().item() < 0.5
    logged = [row["train/entropy_floor"] for row in read_rows(tmp_path / "progress.csv")]
    assert float(logged[-1]) == pytest.approx(0.1)
    assert len(set(logged) - {""}) > 1


@pytest.mark.parametrize("name", sorted(FAMILY.keys() - REPLAY.keys()))
def test_a_schedule_ends_where_progress_is_zero(name: str) -> None:
    """SB3's progress falls below 0 in a last rollout that passes the end; the floor stays that at 0."""
    model: Any = small(name, space_of(name), target_entropy=lambda p: 0.1 + 0.2 * p)
    model.learn(model.n_steps + 1)
    assert model._current_progress_remaining < 0.0
    assert model.policy.head.target_entropy == pytest.approx(0.1)


def test_the_floor_moves_with_the_learning_rate() -> None:
    """At each update both have the remaining progress 1 - t / T."""
    floors = Floors()
    trained(small_sacera(target_entropy=lambda p: -2.0 + p), 100, callback=floors)
    expected = [-1.0] * 21 + [-1.0 - t / 100 for t in range(21, 100)]
    assert floors.seen == pytest.approx(expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_compiled_policies_follow_a_schedule(name: str, traced: None) -> None:
    """Samples of the compiled policy narrow with the floor, from sigma .38 to .03, traced once."""
    model: Any = small(name, BOX, compile=True, nats_per_dim=EntropySchedule(0.4, -2.0))
    model.policy.set_training_mode(False)
    model.learn(64, callback=(floors := Floors()))
    assert floors.seen[0] == 0.8
    assert model.target_entropy == -4.0
    model.policy.set_training_mode(False)
    obs = torch.as_tensor(some_states(model, 50))
    with torch.no_grad():
        samples = torch.stack([model.policy._predict(obs) for _ in range(50)])
    assert samples.std(0).median().item() < 0.06
    assert model._compiled


@pytest.mark.parametrize(
    "options",
    [{"target_entropy": lambda p: -1.0 + p}, {"nats_per_dim": {"start": 0.0, "end": -0.5}}],
    ids=["function", "line"],
)
def test_a_loaded_model_goes_on_with_the_schedule(options: dict[str, Any], tmp_path: Path) -> None:
    """The floor is that of the whole training's progress; a policy alone has the last."""
    model: Any = small("PPOERA", BOX, **options).learn(64)
    model.learn(64, reset_num_timesteps=False, callback=(whole := Floors()))
    half: Any = small("PPOERA", BOX, **options).learn(64)
    half.save(tmp_path / "model")
    half.policy.save(tmp_path / "policy")
    loaded: Any = PPOERA.load(tmp_path / "model", env=half.get_env(), device="cpu")
    last = half.target_entropy
    assert loaded.target_entropy == last == PPO.load(tmp_path / "model").policy.head.target_entropy  # type: ignore[union-attr, operator]
    assert type(half.policy).load(tmp_path / "policy").target_entropy == last
    loaded.learn(64, reset_num_timesteps=False, callback=(resumed := Floors()))
    assert resumed.seen == whole.seen
    assert loaded.target_entropy == model.target_entropy == pytest.approx(-1.0)


def test_what_is_set_takes_the_place_of_a_schedule(tmp_path: Path) -> None:
    model = small_sacera(target_entropy=LINE).learn(30)
    model.target_entropy = -1.0
    model.learn(30)
    model.save(tmp_path / "model")
    assert model.target_entropy == SACERA.load(tmp_path / "model").target_entropy == -1.0
    model.target_entropy = EntropySchedule(0.0, -2.0)
    model.learn(30)
    assert model.target_entropy == -2.0
    with pytest.raises(ValueError, match=r"target_entropy=1\.5 must be below"):
        model.target_entropy = EntropySchedule(0.0, 1.5)
    assert model.options.target_entropy == EntropySchedule(0.0, -2.0)


def test_a_configuration_has_a_schedule_as_data() -> None:
    """What YAML and the command line's ``-p nats_per_dim={start: 0, end: -1.5}`` say, without code."""
    text = (
        "policy: MlpPolicy\nn_timesteps: 64\nnats_per_dim: {start: 0, end: -1.5, end_fraction: 0.5}"
    )
    settings = parse(text)
    run_settings.check(settings, PPOERA)
    given = run_settings.with_objects(settings)
    model = small("PPOERA", BOX, nats_per_dim=given["nats_per_dim"])
    assert model.options.nats_per_dim == EntropySchedule(0.0, -1.5, 0.5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", [-1.0, 1.5])
def test_both_ends_are_checked_at_construction(first: float) -> None:
    with pytest.raises(ValueError, match=r"target_entropy=1\.5 must be below"):
        small_sacera(target_entropy=EntropySchedule(first, 1.5 if first < 0.0 else -1.0))


def test_a_floor_between_that_cannot_be_held_ends_the_training() -> None:
    model = small_sacera(target_entropy=lambda p: -1.0 if p in (0.0, 1.0) else math.nan)
    with pytest.raises(ValueError, match="target_entropy=nan must be below"):
        model.learn(30)


@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_a_learned_delta_makes_room_for_a_higher_floor(name: str) -> None:
    """delta <= D (log_std_max + c) - H0, also where it was at that bound before H0 rose."""
    options: dict[str, Any] = {"floor": "gaussian", "delta": "auto", "log_std_max": -0.7}
    model: Any = small(name, BOX, target_entropy=EntropySchedule(-1.0, 1.3), **options)
    model.delta_learner.parameter.data.fill_(100.0)
    model.learn(128)
    assert model.target_entropy == 1.3
    delta = model.policy.head.delta.item()
    assert 0.0 < delta <= model.delta_learner.delta_max < 0.2
