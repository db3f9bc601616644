"""EntropyMonitor: what it writes, where, and what it warns of."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sb3_family import small
from sb3_toys import (
    NormalisedExtractor,
    TargetEnv,
    logging_to,
    read_rows,
    small_sacera,
    trained,
)
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from era_rl.sb3 import SACERA, EntropyMonitor, GradientConflict, callbacks
from era_rl.sb3.actor_critic import ERAActorCriticPolicy
from era_rl.sb3.callbacks import COLUMNS


def test_writes_a_row_a_check_and_one_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "new" / "entropy.csv"
    monitor = EntropyMonitor(check_freq=15, csv_path=path)
    trained(small_sacera(slack=0.3), callback=monitor)
    rows = read_rows(path)
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["timesteps"]) for row in rows] == [15, 30, 40]
    values = [{name: float(value) for name, value in row.items()} for row in rows]
    for row in values:
        assert row["floor"] == -1.0 <= row["entropy_min"]
        assert row["entropy_min"] < row["entropy_mean"] < row["entropy_max"]
        assert row["margin_min"] == pytest.approx(row["entropy_min"] - row["floor"], abs=1e-6)
    assert monitor.margin == min(row["margin_min"] for row in values)
    assert monitor.minimum == min(row["entropy_min"] for row in values)
    # there is no gradient before the first update
    assert values[0]["gradient_norm"] == 0.0 < values[1]["gradient_norm"]


def test_continues_a_file(tmp_path: Path) -> None:
    path = tmp_path / "entropy.csv"
    model = small_sacera().learn(20, callback=EntropyMonitor(10, path))
    model.learn(20, callback=EntropyMonitor(10, str(path)), reset_num_timesteps=False)
    assert [row["timesteps"] for row in read_rows(path)] == ["10", "20", "30", "40"]


def test_a_new_training_begins_a_new_file_and_another_files_columns_are_refused(
    tmp_path: Path,
) -> None:
    """A file that is continued keeps its columns, and the model is as it was."""
    path = tmp_path / "entropy.csv"
    path.write_text("timesteps,loss\n5,1.0\n")
    model = small_sacera().learn(10, callback=EntropyMonitor(10, path))
    assert [row["timesteps"] for row in read_rows(path)] == ["10"]
    path.write_text(content := "timesteps,loss\n5,1.0\n")
    with pytest.raises(
        ValueError, match=r"csv_path=.*entropy.csv' must have the columns timesteps"
    ):
        model.learn(10, callback=EntropyMonitor(10, path), reset_num_timesteps=False)
    assert path.read_text() == content


def test_keeps_few_states_and_names_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ``check_freq``, as many as ``MOST_BYTES`` hold; a row is of all that were visited."""
    monkeypatch.setattr(callbacks, "MOST_BYTES", 100)
    kept: list[int] = []

    class Note(EntropyMonitor):
        def _on_step(self) -> bool:
            kept.append(len(self._visited))
            return super()._on_step()

        def _check(self, *measured: np.ndarray) -> None:
            assert [len(values) for values in measured] == [60, 60]
            super()._check(*measured)

    monitor = Note(check_freq=60)
    small_sacera(learning_starts=1_000).learn(60, callback=monitor)
    assert max(kept) == 100 // 8  # two float32 a state
    (row,) = monitor.rows
    assert row.timesteps == 60
    assert row.entropy_min == monitor.minimum


class OwnExtractor(nn.Module):
    """What SB3 asks of an mlp_extractor, with layers of other names and one of none but the critic."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = 4
        self.shared, self.of_critic = nn.Linear(2, 4), nn.Linear(4, 4)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: torch.Tensor) -> torch.Tensor:
        return self.shared(features)

    def forward_critic(self, features: torch.Tensor) -> torch.Tensor:
        return self.of_critic(self.shared(features))


class OwnPolicy(ERAActorCriticPolicy):
    """A policy with an extractor of its own, in the way of SB3's documentation."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = OwnExtractor()  # type: ignore[assignment]


def test_measures_policies_whatever_their_networks_are_called() -> None:
    """The gradient is that of the parameters that the action depends on."""
    monitor, conflict = EntropyMonitor(16), GradientConflict(16, 8)
    model: Any = small("PPOERA", policy=OwnPolicy).learn(64, callback=[monitor, conflict])
    assert monitor.rows[-1].gradient_norm > 0.0
    assert conflict.rows
    names = {id(parameter): name for name, parameter in model.policy.named_parameters()}
    found = {names[id(parameter)] for parameter in model.policy.actor_parameters()}
    layers = ("mlp_extractor.shared", "action_net")
    assert found == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_writes_no_file_unless_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_sacera().learn(30, callback=EntropyMonitor(10))
    assert list(tmp_path.iterdir()) == []


def test_logs_under_entropy(tmp_path: Path) -> None:
    model = small_sacera()
    with logging_to(tmp_path, model, "tensorboard"):
        trained(model, callback=EntropyMonitor(5), log_interval=1)
    last = read_rows(tmp_path / "progress.csv")[-1]
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    for name in COLUMNS[1:]:
        assert np.isfinite(float(last[f"entropy/{name}"]))
        assert f"entropy/{name}" in tags
    assert events.Scalars("entropy/floor")[-1].value == -1.0


def test_measures_the_states_in_which_the_policy_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is that of the policy's own entropies at each state it acted in, one a step."""
    seen: list[np.ndarray] = []

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(np.array(self.model._last_obs))
            return True

    means: list[float] = []
    monkeypatch.setattr(callbacks, "MOST_STATES", 7)  # in parts, of which one is smaller
    model = small_sacera(
        make_vec_env(lambda: TargetEnv(horizon=4), n_envs=3), learning_starts=1_000, slack=0.3
    )
    monitor = EntropyMonitor(check_freq=10)
    model.set_logger(_Recorder(means))
    model.learn(30, callback=CallbackList([Note(), monitor]))
    with torch.no_grad():
        entropy = model.policy.entropy(torch.as_tensor(np.concatenate(seen)))
    assert len(entropy) == 30
    assert means == pytest.approx([entropy.mean().item()], rel=1e-6)
    assert monitor.minimum == pytest.approx(entropy.min().item(), rel=1e-6)


class _Recorder:
    """A logger that keeps what is recorded of the mean entropy."""

    def __init__(self, means: list[float]) -> None:
        self.means = means
        self.name_to_value: dict[str, Any] = {}

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        if key == "entropy/entropy_mean":
            self.means.append(value)

    def dump(self, step: int = 0) -> None:
        pass


def test_observes_dicts() -> None:
    env = SimpleMultiObsEnv(discrete_actions=False)
    extractor = {"features_extractor_kwargs": {"cnn_output_dim": 8}}
    model = small_sacera(env, "MultiInputPolicy", policy_kwargs=extractor, batch_size=4)
    monitor = EntropyMonitor(check_freq=7)
    model.learn(24, callback=monitor)
    assert model.policy.target_entropy <= monitor.minimum < float("inf")


def test_leaves_batch_statistics_and_the_course_of_training_alone() -> None:
    results = []
    for callback in (None, EntropyMonitor(check_freq=7)):
        model = small_sacera(policy_kwargs={"features_extractor_class": NormalisedExtractor})
        results.append(copy.deepcopy(trained(model, callback=callback).policy.state_dict()))
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


def _with_entropy(
    monkeypatch: pytest.MonkeyPatch, value: Callable[[int], torch.Tensor], **kwargs: Any
) -> SACERA:
    """Return a model whose policy reports the given entropies, one for each of n states."""
    model = small_sacera(learning_starts=1_000, **kwargs)
    monkeypatch.setattr(model.policy, "entropy", lambda obs: value(len(obs)))
    return model


def test_warns_once_of_an_entropy_that_never_leaves_the_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _with_entropy(monkeypatch, lambda n: torch.full((n,), -1.0), slack=0.3)
    with pytest.warns(UserWarning, match="at the floor on every visited state") as warned:
        model.learn(100, callback=EntropyMonitor(5))
    assert len(warned) == 1
    assert "target_entropy" in str(warned[0].message)


def test_a_pinned_entropy_is_no_cause_to_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _with_entropy(monkeypatch, lambda n: torch.full((n,), -1.0))
    model.learn(100, callback=EntropyMonitor(5))


def test_an_entropy_that_left_the_floor_is_no_cause_to_warn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = iter([-0.5] + [-1.0] * 50)
    model = _with_entropy(monkeypatch, lambda n: torch.full((n,), next(values)), slack=0.3)
    model.learn(100, callback=EntropyMonitor(5))


def test_warns_once_of_nan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = _with_entropy(monkeypatch, lambda n: torch.tensor([0.0] * (n - 1) + [torch.nan]))
    monitor = EntropyMonitor(10, tmp_path / "entropy.csv")
    with pytest.warns(UserWarning, match="NaN on a visited state") as warned:
        model.learn(40, callback=monitor)
    assert np.isnan([monitor.minimum, monitor.margin]).all()
    assert len(warned) == 1
    assert "at step 10" in str(warned[0].message)
    assert [row["entropy_min"] for row in read_rows(tmp_path / "entropy.csv")] == ["nan"] * 4


class _Spike(BaseCallback):
    """Multiplies the gradients that the last update left, at one step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            for parameter in self.model.policy.actor.parameters():
                parameter.grad.mul_(1e6)
        return True


def test_warns_of_a_spike_of_the_gradient() -> None:
    callback = CallbackList([_Spike(60), EntropyMonitor(check_freq=5)])
    with pytest.warns(UserWarning, match=r"100 times its running median.*at step 60") as warned:
        small_sacera().learn(70, callback=callback)
    assert len(warned) == 1


def test_a_usual_run_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(small_sacera(slack=0.3), callback=EntropyMonitor(check_freq=5))
