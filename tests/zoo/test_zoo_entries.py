"""Every entry of every configuration builds its model and takes gradient steps."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_sb3 import EnvironmentName
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file

from era_rl.runs.agent import ALGORITHMS, algorithm_class
from era_rl.sb3.run_settings import config_path, entry_for, read_config
from era_rl.zoo import cli

pytestmark = pytest.mark.filterwarnings("ignore:the policy's entropy is:UserWarning")  # Eq. 11's

SUITES = [
    *(f"dm_control/dog-{task}-v0" for task in ("stand", "walk", "trot", "run")),
    *(f"dm_control/humanoid-{task}-v0" for task in ("stand", "walk", "run")),
    *("dm_control/walker-walk-v0", "dm_control/walker-run-v0", "dm_control/cheetah-run-v0"),
    *("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"),
]


BOUNDED = [algo for algo in ALGORITHMS if not algo.startswith("discrete")]


@pytest.fixture
def fake_humanoid_bench(monkeypatch):
    """The stand-in for the package, in the place of one that is installed."""
    before = {name: module for name, module in sys.modules.items() if _is_humanoid_bench(name)}
    for name in before:
        monkeypatch.delitem(sys.modules, name)
    path = Path(__file__).parents[1] / "envs" / "fake_humanoid_bench"
    monkeypatch.syspath_prepend(str(path))
    yield
    for name in [name for name in sys.modules if _is_humanoid_bench(name)]:
        del sys.modules[name]


def _is_humanoid_bench(name: str) -> bool:
    return name.split(".")[0] == "humanoid_bench"


def small(pattern: str, algo: str) -> str:
    """A small environment of the suite that a pattern is for."""
    if algo.startswith("discrete"):
        return "CartPole-v1"
    if pattern.startswith("dm_control/"):
        return "dm_control/cartpole-balance-v0"
    if pattern.startswith("humanoid_bench/"):
        return "humanoid_bench/h1-walk-v0"
    return "Pendulum-v1" if "*" in pattern else pattern


def train_a_little(algo: str, env_id: str, settings: dict[str, Any], folder: Path) -> int:
    """Train with a short random phase, small batches and no compiler; return the updates taken."""
    n_envs = settings.get("n_envs", 1)
    if issubclass(algorithm_class(algo), OffPolicyAlgorithm):
        params = {"learning_starts": 4 * n_envs, "batch_size": 32}
    else:
        params = {"n_steps": 8, **({"batch_size": 8} if "ppo" in algo else {})}
    if "compile" in settings:
        params["compile"] = False
    config = folder / "entry.yml"
    config.write_text(yaml.safe_dump({env_id: {**settings, **params}}))
    names = ["--algo", algo, "--env", env_id, "--config", str(config), "-f", str(folder)]
    options = ["-n", str(8 * n_envs), "--eval-freq", "-1", "--verbose", "0"]
    assert cli.main(["train", *names, *options]) == 0
    name = EnvironmentName(env_id)
    run = max(folder.glob(f"{algo}/{name}_*"), key=lambda path: int(path.name.split("_")[-1]))
    data, _, _ = load_from_zip_file(run / f"{name}.zip")
    assert data is not None
    return data["_n_updates"]


# the rest have the same entries; they are tried with the slow tests
DEFAULT = ("sac_era", "sac_era_paper", "fastsac_era", "tqc_era", "ppo_era", "sac")


@pytest.mark.parametrize(
    "algo",
    [pytest.param(a, marks=() if a in DEFAULT else pytest.mark.slow, id=a) for a in ALGORITHMS],
)
def test_every_entry_trains(algo, tmp_path, fake_humanoid_bench):
    """On a small environment of its suite; entries that say the same are tried once."""
    tried = []
    for pattern, settings in read_config(config_path(algo)).items():
        if "target_entropy" in settings:  # a sum over the dimensions of the entry's robot
            settings = {**settings, "target_entropy": 0.25}
        env_id = small(pattern, algo)
        if (env_id, settings) not in tried:
            tried.append((env_id, settings))
            assert train_a_little(algo, env_id, settings, tmp_path) > 0


@pytest.mark.slow
@pytest.mark.parametrize("env_id", SUITES)
@pytest.mark.parametrize("algo", BOUNDED)
def test_every_task_trains_with_its_own_entry(algo, env_id, tmp_path):
    assert train_a_little(algo, env_id, entry_for(env_id, config_path(algo)), tmp_path) > 0


@pytest.mark.slow
@pytest.mark.parametrize("robot", ["h1", "h1hand", "g1"])
@pytest.mark.parametrize("algo", BOUNDED)
def test_humanoid_bench_trains_with_its_own_entry(algo, robot, tmp_path):
    pytest.importorskip("humanoid_bench.tasks", reason="humanoid_bench is not installed")
    env_id = f"humanoid_bench/{robot}-walk-v0"
    assert train_a_little(algo, env_id, entry_for(env_id, config_path(algo)), tmp_path) > 0
