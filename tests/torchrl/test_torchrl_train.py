"""The trainer's command and its settings: refused by name and value, and the presets."""

import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium import spaces

from era_rl.sb3 import paper_preset
from era_rl.torchrl.config import PRESETS, SACConfig
from era_rl.torchrl.train import main

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def test_the_command_prints_the_returns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "sac --env Toy-v0 --seeds 2 -n 20 --learning-starts 20 --hidden 8 --eval-episodes 1"
    assert main([*arguments.split(), "--out", str(tmp_path)]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["steps"] == 20
    assert set(summary["returns"]) == {"0", "1"}


@pytest.mark.usefixtures("no_evaluation")
def test_a_preset_and_options_of_networks_are_read(tmp_path: Path) -> None:
    arguments = "sac --preset xqc --env Toy-v0 -n 20 --hidden 8 8 --actor-hidden 4 --batch-size 8"
    options = "--learning-starts 10 --normalize-observations --no-progress"
    assert main([*f"{arguments} {options}".split(), "--out", str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sac", "--gamma", "1.5"], "--gamma: '1.5' must be a number in [0, 1]"),
        (["sac", "--total-steps", "9"], "--total-steps is now --steps"),
        (["sac", "--num-envs=2"], "--num-envs is now --n-envs"),
        (["sac", "--env-kwargs", "g"], "'env_kwargs.g' must be key=value"),
        (["ppo", "--minibatches", "7"], "minibatches=7 must divide"),
        (
            ["sac", "--hidden", "0"],
            "--hidden: '0' must be a list, each a whole number of at least 1",
        ),
        (["sac", "--target-entropy", "9"], "target_entropy=9"),
        (["sac", "--network", "batchnorm", "--batch-size", "1"], "batch_size=1 must be at least 2"),
        (["sac", "-n", "999"], "learning_starts=1000 must be at most steps=999"),
        (["sac", "--nats-per-dim", "0", "9"], "target_entropy=9"),
        (["sac", "--nats-per-dim", "0", "1", "2"], "end_fraction=2.0 must be in (0, 1]"),
        (["sac", "--delta", "0.1"], "delta=0.1 needs floor"),
        (["sac", "--delta", "auto"], "delta='auto' needs floor='gaussian', not 'exact'"),
        (["sac", "--device", "floppy"], "device='floppy' must be a usable torch device"),
        (["sac", "--env", "Nope-v1"], "env='Nope-v1' cannot be made: Environment `Nope`"),
        (["sac", "--env", "dm_control/walker"], "env='dm_control/walker' cannot be made"),
        (
            ["ppo", "--env", "FrozenLake-v1"],
            "env='FrozenLake-v1' must have an 'observation' that is",
        ),
    ],
    ids=[
        *(
            "gamma",
            "old-steps",
            "old-envs",
            "env-kwargs",
            "minibatches",
            "hidden",
            "infeasible",
            "batch-of-one",
            "nothing-trained",
            "infeasible-end",
            "no-schedule",
            "delta",
            "learned-delta",
            "device",
        ),
        *("gym-env", "dm-env", "observation"),
    ],
)
def test_bad_settings_end_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        status = main([*arguments, "--out", str(tmp_path)])
    except SystemExit as error:  # of argparse
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


class _MatrixActions(gymnasium.Env):
    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Box(-1.0, 1.0, (2, 3))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_actions_that_are_no_vector_are_refused(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their first dimension was taken for a batch: its rows shared loc and scale."""
    gymnasium.register("era-tests/Matrix-v0", lambda **_: _MatrixActions())
    try:
        assert main([algorithm, "--env", "era-tests/Matrix-v0", "--out", str(tmp_path)]) == 2
    finally:
        del gymnasium.registry["era-tests/Matrix-v0"]
    assert "must have actions that are one vector, not of shape (2, 3)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("n_envs", 2.0), ("seeds", True), ("updates", None), ("lr", "0.1"), ("resume", 1)),
        *(("out", 1), ("hidden", 64), ("hidden", (64.0,)), ("hidden", "64"), ("env_kwargs", "g=9")),
    ],
)
def test_settings_of_another_type_are_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r} must be")):
        SACConfig(**{name: value})


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_are_settings(name: str) -> None:
    config = SACConfig(**PRESETS[name])
    assert all(getattr(config, key) == value for key, value in PRESETS[name].items())


def test_the_papers_preset_is_that_of_sb3() -> None:
    config = SACConfig(**PRESETS["paper"])
    other = paper_preset(spaces.Box(-1.0, 1.0, (6,)))
    options = config.policy_options()
    assert options.bounded_head(6).target_entropy == other["target_entropy"]
    assert (options.floor, options.log_std_min) == (other["floor"], other["log_std_min"])
    kwargs = other["policy_kwargs"]
    assert list(config.hidden) == kwargs["net_arch"]
    assert config.critic_weight_decay == kwargs["critic_weight_decay"]
    assert config.updates == other["gradient_steps"]
    assert config.learning_starts == other["learning_starts"]
    assert config.layer_norm == other["layer_norm"]
