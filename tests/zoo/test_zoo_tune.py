"""Searches for settings: what is drawn, pruned, reported and written."""

import json
import shlex
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from gymnasium.envs.classic_control import PendulumEnv
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER
from stable_baselines3.common.logger import configure
from zoo_runs import names

from era_rl.runs.agent import ALGORITHMS, algorithm_class
from era_rl.sb3 import PPOERA, SACERA
from era_rl.sb3.run_settings import check, with_objects
from era_rl.zoo import cli
from era_rl.zoo.tune import DRAWN, register_search_spaces, sample_era

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "algo", ["sac_era", pytest.param("crossq_era", marks=SLOW), pytest.param("ppo_era", marks=SLOW)]
)
def test_tune_searches_and_reports(algo, tmp_path, capsys):
    options = ["-n", "40", "--n-trials", "1", "--n-startup-trials", "1", "--eval-episodes", "1"]
    short = ["--n-evaluations", "1", "--env-kwargs", "max_episode_steps=20", "--verbose", "0"]
    params = ["--params", "gamma=0.5", *(["learning_starts=30"] if algo != "ppo_era" else [])]
    assert cli.main(["tune", *names(tmp_path, algo), *options, *short, *params]) == 0
    shown = capsys.readouterr().out
    assert "Best trial:" in shown
    assert "target_entropy: -" in shown
    (report,) = (tmp_path / algo).glob("report_*.csv")
    assert len(report.read_text().splitlines()) == 2
    best = tmp_path / algo / "Pendulum-v1_best.yml"
    assert list((tmp_path / algo).glob("Pendulum-v1_*")) == [best]
    settings = yaml.safe_load(best.read_text())["Pendulum-v1"]
    assert settings["gamma"] == 0.5
    assert settings["n_timesteps"] == 1_000_000
    assert settings["env_kwargs"] == {"max_episode_steps": 20}
    *_, command = shown.splitlines()
    train = shlex.split(command.partition(": era-zoo ")[2])
    assert cli.main([*train, "-f", str(tmp_path), "-n", "31", "--eval-freq", "0"]) == 0


def diverging(monkeypatch: pytest.MonkeyPatch, trials: int) -> None:
    """Make the rewards of the first trials 1e30: finite, but not what they do to the networks."""
    step, made, learn = PendulumEnv.step, [], SACERA.learn

    def huge(self: Any, action: Any) -> Any:
        observation, reward, *rest = step(self, action)
        return observation, 1e30 if len(made) <= trials else reward, *rest

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        made.append(self)
        return learn(self, *args, **kwargs)

    monkeypatch.setattr(PendulumEnv, "step", huge)
    monkeypatch.setattr(SACERA, "learn", counting)


@pytest.mark.parametrize("bad", [1, 2])
def test_trials_that_diverge_are_pruned_and_finished_ones_kept(
    bad: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two: the other is the best; both: a line, and status 1."""
    diverging(monkeypatch, bad)
    options = ["-n", "120", "--n-trials", "2", "--n-startup-trials", "2", "--eval-episodes", "1"]
    short = ["--n-evaluations", "1", "--env-kwargs", "max_episode_steps=20", "--verbose", "0"]
    short += ["--storage", str(tmp_path / "study.log"), "--study-name", "study", "--seed", "1"]
    short += ["--params", "learning_starts=20"]
    status = cli.main(["tune", *names(tmp_path, "sac_era"), *options, *short])
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.log"))
    )
    states = [
        trial.state.name for trial in optuna.load_study(study_name="study", storage=storage).trials
    ]
    assert states == ["PRUNED"] * bad + ["COMPLETE"] * (2 - bad)
    assert status == (1 if bad == 2 else 0)
    if bad == 2:
        assert "era-zoo: none of 2 trials was finished" in capsys.readouterr().err


@pytest.mark.parametrize("seed", range(5))
def test_search_spaces_draw_what_the_algorithms_take(seed):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    settings = sample_era(study.ask(), 1)
    assert -1.0 <= settings["target_entropy"] <= -0.1
    for algorithm in (SACERA, PPOERA):
        model = algorithm("MlpPolicy", "Pendulum-v1", **settings)
        model.set_logger(configure(None, []))
        assert model.policy.target_entropy == pytest.approx(settings["target_entropy"])
    fraction = sample_era(study.ask(), 0)
    assert PPOERA("MlpPolicy", "CartPole-v1", **fraction).policy.target_entropy > 0.0


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_search_space_draws_settings(algo: str) -> None:
    """Accepted by the algorithm, none of which is a coefficient beside the floor; kept as data."""
    register_search_spaces({"policy": "MlpPolicy", "n_timesteps": 1}, ())
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    extra = {"using_her_replay_buffer": False, "her_kwargs": {}}
    settings = HYPERPARAMS_SAMPLER[algo](trial, 3, 1, extra)
    drawn = json.loads(json.dumps(trial.user_attrs[DRAWN]))
    assert with_objects(drawn) == settings
    policy = "MlpLstmPolicy" if algo in ("recurrent_ppo_era", "ppo_lstm") else "MlpPolicy"
    check({"policy": policy, "n_timesteps": 1, **drawn}, algorithm_class(algo))
    soft = ("sac", "fastsac", "discrete_sac", "tqc", "xqc")
    assert ("tau" in settings) == algo.startswith(soft)
    assert "era" not in algo or "ent_coef" not in trial.params | settings


def test_what_is_fixed_is_not_searched() -> None:
    """Not drawn, in whatever form rl_zoo3 draws it; what is not drawn of policy_kwargs stays."""
    settings = {"gamma": 0.5, "policy_kwargs": {"net_arch": [7], "share_features_extractor": True}}
    register_search_spaces(settings, {"gamma", "net_arch", "target_entropy"})
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
    drawn = HYPERPARAMS_SAMPLER["ppo_era"](trial, 3, 1, {})
    assert not {"gamma", "target_entropy"} & drawn.keys()
    assert {"net_arch": [7], "share_features_extractor": True}.items() <= drawn[
        "policy_kwargs"
    ].items()
    assert "learning_rate" in trial.params
    assert not {"one_minus_gamma", "net_arch", "target_entropy", "ent_coef"} & trial.params.keys()
    assert "gamma" not in trial.user_attrs
