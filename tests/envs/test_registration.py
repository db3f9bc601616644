"""Which ids exist, who owns them, and what importing the package costs."""

import sys

import gymnasium
import pytest
from dm_control import suite

import era_rl.envs
from era_rl.envs.registration import DM_CONTROL_TASKS

OURS = "era_rl.envs.dm_control:DMControlEnv"


def test_the_ids_are_the_suite():
    assert {
        domain: tuple(tasks.split()) for domain, tasks in DM_CONTROL_TASKS.items()
    } == suite.TASKS_BY_DOMAIN
    for domain, task in suite.ALL_TASKS:
        assert gymnasium.spec(f"dm_control/{domain}-{task}-v0").entry_point == OURS


def test_importing_loads_neither_the_simulator_nor_the_learners(run_python):
    result = run_python(
        "import sys, era_rl.envs\n"
        "heavy = {'torch', 'mujoco', 'dm_control', 'shimmy', 'stable_baselines3', 'torchrl'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    assert result.returncode == 0, result.stderr


def test_the_ids_replace_those_of_an_earlier_shimmy_without_a_warning(run_python):
    result = run_python(
        "import shimmy, gymnasium, warnings\n"
        "assert callable(gymnasium.spec('dm_control/dog-trot-v0').entry_point)\n"
        "warnings.simplefilter('error')\n"
        "import era_rl.envs\n"
        f"assert gymnasium.spec('dm_control/dog-trot-v0').entry_point == {OURS!r}"
    )
    assert result.returncode == 0, result.stderr


def test_the_ids_can_be_taken_back_from_a_later_shimmy(run_python):
    result = run_python(
        "import gymnasium, warnings, era_rl.envs\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    warnings.simplefilter('always')\n"
        "    import shimmy\n"
        "assert any('dm_control/dog-trot-v0' in str(warning.message) for warning in caught)\n"
        "era_rl.envs.register_dm_control()\n"
        f"assert gymnasium.spec('dm_control/dog-trot-v0').entry_point == {OURS!r}"
    )
    assert result.returncode == 0, result.stderr


def test_without_dm_control_the_ids_are_there_and_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dm_control", None)
    monkeypatch.delitem(sys.modules, "era_rl.envs.dm_control", raising=False)
    era_rl.envs.register_dm_control()
    with pytest.raises(ImportError, match="of the extra bench: pip install"):
        gymnasium.make("dm_control/walker-walk-v0")


@pytest.mark.parametrize(
    ("wrong", "close"),
    [
        ("dm_control/dog-trott-v0", "dog-trot"),
        ("dm_control/dogg-trot-v0", "dog-trot"),
        ("dm_control/dog-v0", "dog-"),
        ("dm_contrl/dog-trot-v0", "dm_control"),
    ],
)
def test_a_wrong_id_names_a_close_one(wrong, close):
    with pytest.raises(gymnasium.error.UnregisteredEnv, match=f"Did you mean: `{close}"):
        gymnasium.make(wrong)


def test_only_lqr_is_nondeterministic():
    nondeterministic = {
        env_id
        for env_id, spec in gymnasium.registry.items()
        if spec.entry_point == OURS and spec.nondeterministic
    }
    assert nondeterministic == {"dm_control/lqr-lqr_2_1-v0", "dm_control/lqr-lqr_6_2-v0"}
