"""EntropyMonitor: what it writes, where, and what it warns of."""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_family import BOX, MULTI_DISCRETE, small
from sb3_toys import NormalisedExtractor, TargetEnv, logging_to, read_rows, small_sacera, trained
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import SimpleMultiObsEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from era_rl.sb3 import SACERA, EntropyMonitor, GradientConflict, callbacks
from era_rl.sb3.actor_critic import ERAActorCriticPolicy
from era_rl.sb3.callbacks import ENTROPY_COLUMNS, PINNED_COLUMNS, STD_COLUMNS

COLUMNS = ("timesteps", *ENTROPY_COLUMNS, *STD_COLUMNS, "gradient_norm")


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
            assert [len(values) for values in measured] == [60, 60, 60]
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


def test_checks_count_the_steps_of_all_environments() -> None:
    """A row at the first step from ``check_freq`` on, whatever the number of environments."""
    for n_envs, expected in ((1, [8, 16, 24]), (3, [9, 18, 24])):
        monitor, conflict = EntropyMonitor(8), GradientConflict(8, 4)
        env = make_vec_env(lambda: TargetEnv(horizon=4), n_envs)
        small_sacera(env, learning_starts=6).learn(24, callback=[monitor, conflict])
        assert [row.timesteps for row in monitor.rows] == expected
        assert [row.timesteps for row in conflict.rows] == expected[: len(conflict.rows)]


@pytest.mark.parametrize(
    ("name", "space"), [("SACERA", BOX), ("PPOERA", BOX), ("MaskablePPOERA", MULTI_DISCRETE)]
)
def test_each_dimension_on_request(name: str, space: Any) -> None:
    """Means over the states of h_i and sigma_i; the h_i add up to H[pi(.|s)]."""
    monitor = EntropyMonitor(32, per_dim=True)
    model: Any = small(name, space)
    with torch.no_grad():
        parameter = model.policy.actor_parameters()[-1]
        parameter[-1 if name == "MaskablePPOERA" else -2] += (
            3.0  # dimensions, or actions, that differ
        )
    model.learn(32, callback=monitor)
    row = monitor.rows[0]._asdict()
    count = len(space.nvec) if isinstance(space, spaces.MultiDiscrete) else 2
    each = [row[f"entropy_{i}"] for i in range(count)]
    assert sum(each) == pytest.approx(row["entropy_mean"], rel=1e-5)
    assert len({round(value, 3) for value in each}) == count
    if name == "MaskablePPOERA":
        assert "std" not in row
        return
    stds = [row[f"std_{i}"] for i in range(count)]
    assert row["std"] == pytest.approx(np.mean(stds), rel=1e-5)
    assert 0.0 < row["std_min"] <= min(stds)
    assert row["share_at_log_std_min"] == 0.0


def test_the_share_of_dimensions_without_noise_of_their_own() -> None:
    """log_std_i = log_std_min in one of two dimensions of every state."""
    model = small_sacera(learning_starts=1_000, log_std_min=-3.0)
    with torch.no_grad():
        model.actor.log_std.bias[0] += 1e4
    monitor = EntropyMonitor(20)
    model.learn(20, callback=monitor)
    assert monitor.rows[0].share_at_log_std_min == 0.5
    assert monitor.rows[0].std_min == pytest.approx(np.exp(-3.0), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("SACERA", {}),
        ("SACERA", {"slack": 0.3, "min_entropy_per_dim": -1.0}),
        ("SACERA", {"floor": "gaussian"}),
        ("PPOERA", {"distribution": "normal"}),
        ("MaskablePPOERA", {}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:the policy's entropy is")
def test_each_state_is_held_to_the_floor_in_force_when_it_acted(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """H[pi(.|s_t)] and H0 at s_t are those of the floor at step t, though measured later together."""
    space = MULTI_DISCRETE if name == "MaskablePPOERA" else BOX
    model: Any = small(name, space, target_entropy=0.5, **options)
    head, seen, found = model.policy.head, [], []

    class Fall(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(head.target_entropy)
            model.target_entropy = 0.5 - 0.01 * self.num_timesteps
            return True

    monitor = EntropyMonitor(32)
    check = monitor._check
    monkeypatch.setattr(
        monitor, "_check", lambda *measured: (found.append(measured), check(*measured))
    )
    model.learn(16 if name == "SACERA" else 32, callback=CallbackList([monitor, Fall()]))
    floors, entropies = found[0][:2]
    if name != "MaskablePPOERA":  # its floor is that of the actions the mask leaves
        assert floors == pytest.approx(np.array(seen))
    if head.holds_own_entropy:
        assert monitor.margin >= -1e-6
    if head.holds_own_entropy and not head.may_rise:
        assert entropies.sum(-1) == pytest.approx(floors, abs=1e-4)
    assert head._target_entropy.dim() == 0


@pytest.mark.parametrize(
    "options", [{"floor": "gaussian"}, {"floor": "gaussian", "distribution": "tanh"}], ids=str
)
def test_warns_once_of_an_entropy_below_the_floor_asked_for(options: dict[str, Any]) -> None:
    """Eq. 11 and tanh hold that of the normal before, which the log's name says."""
    model = small_sacera(target_entropy=1.0, **options)
    with pytest.warns(UserWarning, match="nats below the floor asked for on a visited") as warned:
        model.learn(40, callback=EntropyMonitor(5), log_interval=1)
    assert len(warned) == 1
    assert "before it is truncated or squashed" in str(warned[0].message)


def test_writes_no_file_unless_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_sacera().learn(30, callback=EntropyMonitor(10))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slack", [None, 0.3])
def test_logs_under_entropy_what_changes(slack: float | None, tmp_path: Path) -> None:
    """A pinned entropy's mean, largest and floor are one number, and in the CSV file alone."""
    model = small_sacera(slack=slack)
    with logging_to(tmp_path, model, "tensorboard"):
        trained(model, callback=EntropyMonitor(5), log_interval=1)
    last = read_rows(tmp_path / "progress.csv")[-1]
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    shown = {name for name in COLUMNS[1:] if f"entropy/{name}" in tags}
    assert shown == {*COLUMNS[1:]} - (set() if slack else PINNED_COLUMNS)
    for name in shown:
        assert np.isfinite(float(last[f"entropy/{name}"]))


def test_measures_the_states_in_which_the_policy_acts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is that of the policy's own entropies at each state it acted in, one a step."""
    seen: list[np.ndarray] = []

    class Note(BaseCallback):
        def _on_step(self) -> bool:
            seen.append(np.array(self.model._last_obs))
            return True

    monkeypatch.setattr(callbacks, "MOST_STATES", 7)  # in parts, of which one is smaller
    model = small_sacera(
        make_vec_env(lambda: TargetEnv(horizon=4), n_envs=3), learning_starts=1_000, slack=0.3
    )
    monitor = EntropyMonitor(check_freq=30)
    model.learn(30, callback=CallbackList([Note(), monitor]))
    with torch.no_grad():
        entropy = model.policy.entropy(torch.as_tensor(np.concatenate(seen)))
    assert len(entropy) == 30
    means = [row.entropy_mean for row in monitor.rows]
    assert means == pytest.approx([entropy.mean().item()], rel=1e-6)
    assert monitor.minimum == pytest.approx(entropy.min().item(), rel=1e-6)


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
    entropies = lambda params: value(len(params[0])).unsqueeze(-1)  # noqa: E731
    monkeypatch.setattr(model.actor.head, "entropies", entropies)
    return model


def test_warns_once_of_an_entropy_that_never_leaves_the_floor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = _with_entropy(monkeypatch, lambda n: torch.full((n,), -1.0), slack=0.3)
    with pytest.warns(UserWarning, match="at the floor on every visited state") as warned:
        model.learn(100, callback=EntropyMonitor(5), reset_num_timesteps=False)
    assert len(warned) == 1
    assert "target_entropy" in str(warned[0].message)


@pytest.mark.parametrize(
    ("first", "slack"), [(-1.0, None), (-0.5, 0.3)], ids=["pinned", "left the floor"]
)
def test_what_is_at_the_floor_by_right_is_no_cause_to_warn(
    first: float, slack: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([first] + [-1.0] * 50)
    model = _with_entropy(monkeypatch, lambda n: torch.full((n,), next(values)), slack=slack)
    model.learn(100, callback=EntropyMonitor(5))


def test_warns_once_of_nan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = _with_entropy(monkeypatch, lambda n: torch.tensor([0.0] * (n - 1) + [torch.nan]))
    monitor = EntropyMonitor(10, tmp_path / "entropy.csv")
    with pytest.warns(UserWarning, match="NaN on a visited state") as warned:
        model.learn(40, callback=monitor, reset_num_timesteps=False)
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
