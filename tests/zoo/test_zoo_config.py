"""Configurations: what they may say, what they say, and what is refused."""

import math
import re
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
import yaml
from gymnasium import spaces
from sb3_contrib import TQC
from stable_baselines3 import SAC
from torch import nn

from era_rl.runs.agent import ALGORITHMS, algorithm_class
from era_rl.runs.settings import SettingsError
from era_rl.runs.yaml_files import override, parse
from era_rl.sb3 import PPOERA, SACERA, paper_preset
from era_rl.sb3.run_settings import check, config_path, entry_for, read_config, with_objects
from era_rl.zoo import cli
from era_rl.zoo.baselines import LayerNormSACPolicy, LayerNormTQCPolicy

SETTINGS = {"policy": "MlpPolicy", "n_timesteps": 1000}


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_entry_is_accepted(algo):
    for settings in read_config(config_path(algo)).values():
        check(settings, algorithm_class(algo))


@pytest.mark.parametrize(
    ("algo", "baseline"),
    [
        ("sac_era", "sac"),
        ("sac_era_paper", "sac_paper"),
        ("sac_era_simba", "sac_simba"),
        ("tqc_era", "tqc"),
        ("crossq_era", "crossq"),
        ("ppo_era", "ppo"),
        ("a2c_era", "a2c"),
        ("recurrent_ppo_era", "ppo_lstm"),
    ],
)
@pytest.mark.parametrize(
    "env_id",
    [
        *("dm_control/dog-run-v0", "dm_control/humanoid-walk-v0", "dm_control/walker-run-v0"),
        *("humanoid_bench/h1-walk-v0", "HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"),
    ],
)
def test_baselines_differ_in_the_entropy_alone(algo, baseline, env_id):
    entropy = {"floor", "target_entropy", "log_std_min", "log_std_max", "policy"}
    era, stock = (entry_for(env_id, config_path(name)) for name in (algo, baseline))
    assert "ent_coef" not in era
    # rl_zoo3's tuned settings have a small bonus, and a std to start from
    assert stock.pop("ent_coef", 0.0) <= (0.003 if baseline == "ppo" else 0.0)
    stock.get("policy_kwargs", {}).pop("log_std_init", None)
    # an argument of the ERA algorithm, and of the baseline's policy
    if baseline == "sac_simba":  # the policy's own rate and normaliser, given to stock SAC
        assert stock.pop("learning_rate") == 1e-4
        assert stock.pop("normalize") == {"norm_obs": True, "norm_reward": False}
        assert stock["policy_kwargs"].pop("normalize_obs") is False
        era.setdefault("policy_kwargs", {})
    layer_norm = {"layer_norm": True} if era.pop("layer_norm", False) else {}
    if layer_norm:
        era["policy_kwargs"] = {**era.get("policy_kwargs", {}), **layer_norm}
    assert {k: v for k, v in era.items() if k not in entropy} == {
        k: v for k, v in stock.items() if k not in entropy
    }


@pytest.mark.parametrize("algo", [algo for algo in ALGORITHMS if not algo.startswith("discrete")])
@pytest.mark.parametrize(
    "env_id", ["dm_control/dog-run-v0", "dm_control/humanoid-walk-v0", "humanoid_bench/h1-walk-v0"]
)
def test_hard_tasks_take_two_control_steps_a_decision(algo, env_id):
    """As in the recipes that solve them; the paper's code repeats actions on HumanoidBench alone."""
    settings = entry_for(env_id, config_path(algo))
    repeated = [{"era_rl.envs.wrappers.ActionRepeat": {"repeats": 2}}]
    if env_id.startswith("humanoid_bench/"):
        assert settings["env_kwargs"]["action_repeat"] == 2
    else:
        assert settings.get("env_wrapper") == (None if "paper" in algo else repeated)


def test_the_baselines_critics_are_those_of_layer_norm():
    kwargs = {"layer_norm": True, "net_arch": [8], "critic_weight_decay": 1e-4}
    stock = SAC(LayerNormSACPolicy, "Pendulum-v1", policy_kwargs=kwargs)
    era = SACERA("MlpPolicy", "Pendulum-v1", layer_norm=True, policy_kwargs=kwargs)
    assert str(stock.critic.qf0) == str(era.critic.qf0)
    assert "LayerNorm" in str(stock.critic.qf0)
    assert type(stock.critic.optimizer) is type(era.critic.optimizer)
    assert stock.critic.optimizer.defaults == era.critic.optimizer.defaults
    assert stock.actor.optimizer.defaults == era.actor.optimizer.defaults
    tqc = TQC(LayerNormTQCPolicy, "Pendulum-v1", policy_kwargs={**kwargs, "n_quantiles": 5})
    assert "LayerNorm" in str(tqc.critic.qf0)


@pytest.mark.parametrize(
    ("env_id", "action_dim"),
    [
        ("dm_control/dog-trot-v0", 38),
        ("dm_control/humanoid-run-v0", 21),
        ("dm_control/walker-run-v0", 6),
        ("dm_control/cheetah-run-v0", 6),
        ("humanoid_bench/h1-walk-v0", 19),
        ("humanoid_bench/h1hand-walk-v0", 61),
        ("humanoid_bench/g1-walk-v0", 37),
        ("HalfCheetah-v5", 6),
        ("Hopper-v5", 3),
        ("Walker2d-v5", 6),
        ("Ant-v5", 8),
    ],
)
def test_the_papers_entries_are_its_preset(env_id, action_dim):
    settings = with_objects(entry_for(env_id, config_path("sac_era_paper")))
    preset = paper_preset(spaces.Box(-1.0, 1.0, (action_dim,)))
    assert {key: settings[key] for key in preset} == preset
    rest = set(settings) - set(preset)
    assert rest <= {"policy", "n_timesteps", "env_kwargs", "env_wrapper"}
    if not env_id.startswith("humanoid_bench"):
        assert gymnasium.make(env_id).action_space.shape == (action_dim,)


def test_the_first_pattern_that_matches_counts(tmp_path):
    path = tmp_path / "some.yml"
    path.write_text("a/b-*: {gamma: 0.1}\na/*: {gamma: 0.2}\n")
    assert entry_for("a/b-v0", path) == {"gamma": 0.1}
    assert entry_for("a/c-v0", path) == {"gamma": 0.2}
    with pytest.raises(
        SettingsError, match=r"no entry of .*some.yml matches 'b-v0'; .* a/b-\*, a/\*"
    ):
        entry_for("b-v0", path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1e-3", 1e-3), ("1e6", 1e6), ("-2.5E+2", -250.0), ("1_000", 1000), ("[1, 2]", [1, 2])),
        *(("true", True), ("null", None), ("auto", "auto"), ("1e", "1e"), ("lin_3e-4", "lin_3e-4")),
    ],
)
def test_yaml_reads_numbers_as_written(text, value):
    assert parse(text) == value
    assert type(parse(text)) is type(value)


def test_overrides_reach_into_mappings_and_leave_the_original_alone():
    settings = {"policy_kwargs": {"net_arch": [64, 64]}, "gamma": 0.9}
    changed = override(settings, ["policy_kwargs.net_arch=[8]", "gamma:0.5", "env_kwargs.a.b=x=y"])
    assert changed == {
        "policy_kwargs": {"net_arch": [8]},
        "gamma": 0.5,
        "env_kwargs": {"a": {"b": "x=y"}},
    }
    assert settings == {"policy_kwargs": {"net_arch": [64, 64]}, "gamma": 0.9}
    with pytest.raises(SettingsError, match="'gamma' must be key=value"):
        override(settings, ["gamma"])
    with pytest.raises(SettingsError, match="gamma is not a mapping"):
        override(settings, ["gamma.x=1"])


def test_words_stand_for_classes():
    settings = {"policy_kwargs": {"activation_fn": "elu", "net_arch": [8]}}
    assert with_objects(settings)["policy_kwargs"]["activation_fn"] is nn.ELU
    assert settings["policy_kwargs"]["activation_fn"] == "elu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1}, "setting 'learning_rat' is unknown; close: learning_rate"),
        ({"target_entropie": 1}, "'target_entropie' is unknown; close: target_entropy"),
        ({"seed": 1}, "setting 'seed' is unknown"),
        ({"policy": "MlpPolice"}, "policy 'MlpPolice' is unknown; close: MlpPolicy"),
        (
            {"policy_kwargs": {"net_arc": [8]}},
            "policy_kwargs 'net_arc' is unknown; close: net_arch",
        ),
        (
            {"policy_kwargs": {"activation_fn": "eluu"}},
            "activation_fn 'eluu' is unknown; close: elu",
        ),
        ({"policy_kwargs": "dict(net_arch=[8])"}, "must be a mapping: a config is data"),
        ({"env_kwargs": "dict()"}, "env_kwargs='dict.*must be a mapping"),
        ({"normalize": "dict(norm_obs=True)"}, "normalize='dict.*must be true, false or a mapping"),
        ({"replay_buffer_class": "HerReplayBuffer"}, "replay_buffer_class 'HerReplayBuffer'"),
        ({"env_wrapper": "os.system"}, "env_wrapper='os.system' must be a class of era_rl.envs"),
        (
            {"env_wrapper": ["gymnasium.wrappers.TimeLimi"]},
            "'TimeLimi' is unknown; close: TimeLimit",
        ),
        ({"env_wrapper": {"gymnasium.wrappers.vector": {}}}, "'vector' is unknown"),
        ({"callback": "subprocess.Popen"}, "callback='subprocess.Popen' must be a class of"),
        ({"vec_env_wrapper": "builtins.exec"}, "vec_env_wrapper='builtins.exec' must be"),
        ({"policy": "os.path"}, "policy='os.path' must be a class of era_rl.sb3"),
        ({"gamma": 1.5}, r"gamma=1.5 must be a number in \[0, 1\]"),
        ({"tau": "abc"}, r"tau='abc' must be a number in \[0, 1\]"),
        ({"learning_rate": "abc"}, "learning_rate='abc' must be a finite number of at least 0, or"),
        ({"learning_rate": "lin_-1"}, "learning_rate='lin_-1' must be a finite number of at least"),
        ({"learning_rate": "lin_inf"}, "learning_rate='lin_inf' must be a finite number of at"),
        (
            {"learning_rate": math.inf},
            "learning_rate=inf must be a finite number of at least 0, or",
        ),
        ({"n_timesteps": "abc"}, "n_timesteps='abc' must be a whole number of at least 1"),
        ({"n_timesteps": 1.5}, "n_timesteps=1.5 must be a whole number of at least 1"),
        ({"n_envs": 0}, "n_envs=0 must be a whole number of at least 1"),
        ({"frame_stack": True}, "frame_stack=True must be a whole number of at least 1"),
        ({"learning_starts": -1}, "learning_starts=-1 must be a whole number of at least 0"),
        ({"learning_starts": math.nan}, "learning_starts=nan must be a whole number"),
        ({"gradient_steps": -2}, "gradient_steps=-2 must be a whole number of at least -1"),
        ({"train_freq": 0}, "train_freq=0 must be a whole number of at least 1, or"),
        ({"train_freq": [1, "year"]}, r"train_freq=\[1, 'year'\] must be"),
        ({"noise_std": 0.1}, "noise_type and noise_std must be given together"),
        ({"noise_type": "normal"}, "noise_type and noise_std must be given together"),
        ({"policy_kwargs": {"net_arch": "abc"}}, "net_arch='abc' must be a list of widths"),
        ({"policy_kwargs": {"net_arch": {"pi": [0]}}}, "net_arch=.* must be a list of widths"),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(SettingsError, match=message):
        check({**SETTINGS, **changes}, SACERA)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_timesteps": 1e6, "learning_rate": "lin_3e-4", "gradient_steps": -1},
        {"train_freq": [1, "episode"], "gamma": 1, "learning_starts": 0},
        {"noise_type": "normal", "noise_std": 0.1},
        {"policy_kwargs": {"net_arch": {"pi": [4], "qf": []}}},
    ],
)
def test_settings_at_the_end_of_their_range_are_accepted(changes):
    check({**SETTINGS, **changes}, SACERA)


def test_settings_of_the_own_algorithm_are_known_and_of_others_are_not():
    check({**SETTINGS, "distribution": "normal", "ent_coef": 0.01, "n_envs": 2}, PPOERA)
    check({**SETTINGS, "slack": 0.1, "tau": 0.1, "policy_kwargs": {"n_critics": 3}}, SACERA)
    with pytest.raises(SettingsError, match="'tau'"):
        check({**SETTINGS, "tau": 0.1}, PPOERA)
    with pytest.raises(SettingsError, match="'policy' is missing"):
        check({"n_timesteps": 1}, SACERA)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yml", "a: !!python/object/apply:os.mkdir [{}]", "not plain YAML"),
        ("a.yml", "a: [", "not plain YAML"),
        ("a.yml", "- 1", "must be a mapping of names to values"),
        ("a.py", "hyperparams = {}", r"must be a .yml or .yaml file: a configuration is data"),
    ],
)
def test_files_that_are_refused_do_nothing(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text.format(tmp_path / "made"))
    with pytest.raises(SettingsError, match=message):
        read_config(path)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


PENDULUM = ["--algo", "sac_era", "--env", "Pendulum-v1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--algo", "sac_erra", "--env", "Pendulum-v1"], "'sac_erra' is unknown; close: sac_era"),
        (
            ["--algo", "sac_era", "--env", "dm_control/dog-trott-v0"],
            "close: dm_control/dog-trot-v0",
        ),
        (
            [*PENDULUM, "--params", "learning_ratee=1"],
            "setting 'learning_ratee' is unknown; close: learning_rate",
        ),
        (
            ["--algo", "sac_era_paper", "--env", "Pendulum-v1"],
            "no entry of .* matches 'Pendulum-v1'",
        ),
        ([*PENDULUM, "--config", "no.yml"], "there is no file"),
        ([*PENDULUM, "--params", "slack=2"], "slack=2"),
        (
            [*PENDULUM, "--gym-packages", "nopackage"],
            "gym_packages nopackage: No module named 'nopackage'",
        ),
        (
            [*PENDULUM, "--params", "policy_kwargs.activation_fn=[relu]"],
            r"activation_fn \['relu'\] is unknown",
        ),
        (
            [*PENDULUM, "--params", "normalize={norm_ob: no}"],
            "normalize 'norm_ob' is unknown; close: norm_obs",
        ),
        (["--algo", "sac_era"], "--algo and --env must be given"),
        (["--resume", "nowhere"], "leave out --out"),
        (["--resume", "nowhere", "--seed", "9"], "leave out --out, --seed"),
        ([*PENDULUM, "--env-kwargs", "foo=1"], "sac_era on Pendulum-v1: .*'foo'"),
        (
            [*PENDULUM, "--params", "env_wrapper=era_rl.envs.wrappers.ActionRepeat"],
            "sac_era on Pendulum-v1: .*'repeats'",
        ),
    ],
)
def test_typos_end_with_exit_code_2_and_what_is_close(arguments, message, capsys, tmp_path):
    assert cli.main(["train", *arguments, "-f", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("era-zoo: ")
    assert error.count("\n") == 1
    assert re.search(message, error), error
    assert not any(tmp_path.rglob("*_1"))


def test_what_is_resumed_must_be_a_run(capsys):
    assert cli.main(["train", "--resume", "nowhere"]) == 2
    assert "nowhere is not a run's folder" in capsys.readouterr().err


def test_studies_need_an_address_that_optuna_knows(capsys):
    assert cli.main(["tune", *PENDULUM, "--storage", "foo://bar"]) == 2
    assert re.search(r"^era-zoo: --storage foo://bar: .*\n$", capsys.readouterr().err)


@pytest.mark.parametrize("seed", ["-1", "4294967296"])
def test_seeds_are_numpys(seed, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", *PENDULUM, "--seed", seed])
    assert f"'{seed}' must be a whole number in [0, 4294967295]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("tune", "--n-startup-trials"),
        ("train", "--save-freq"),
        ("train", "-n"),
        ("train", "--n-envs"),
        ("evaluate", "--episodes"),
    ],
)
@pytest.mark.parametrize(
    ("value", "message"),
    [(value, f"'{value}' must be a whole number of at least 1") for value in ("0", "x")],
)
def test_counts_are_at_least_one(command, option, value, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main([command, *PENDULUM, option, value])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("train", "--n-timesteps", "--steps"),
        ("train", "--log-folder", "--out"),
        ("tune", "--num-threads", "--threads"),
        ("enjoy", "--log-folder", "--runs"),
        ("record-video", "--output-folder", "--out"),
        ("plot", "--output", "--out"),
    ],
)
def test_options_of_before_are_refused_with_their_new_names(
    command: str, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """OLD is now NEW, with status 2."""
    with pytest.raises(SystemExit, match="2"):
        cli.main([command, *PENDULUM, old, "5"])
    assert f"{old} is now {new}" in capsys.readouterr().err


def test_a_wrong_name_costs_no_slow_imports():
    code = (
        "import sys; from era_rl.zoo.cli import main\n"
        "assert main(['train', '--algo', 'sac_erra', '--env', 'x']) == 2\n"
        "assert not {'torch', 'stable_baselines3', 'rl_zoo3', 'mujoco'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_list_names_every_algorithm_and_pattern(capsys):
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    for algo in ALGORITHMS:
        assert f"{algo} (" in shown
        for pattern in yaml.safe_load(config_path(algo).read_text()):
            assert f"  {pattern}\n" in shown
