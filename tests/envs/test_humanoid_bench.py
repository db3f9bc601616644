"""The shim on a stand-in with the package's surface, and on the package where it is installed."""

import importlib.util
import sys
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
import rl_zoo3  # noqa: F401 (replaces gymnasium's TimeLimit, as in the zoo)
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import era_rl.envs  # noqa: F401 (registers the ids)
from era_rl.envs import humanoid_bench
from era_rl.envs.registration import HUMANOID_BENCH_TASKS

INSTALLED = importlib.util.find_spec("humanoid_bench") is not None
WALK = "humanoid_bench/h1-walk-v0"


def rollout(env: gymnasium.Env, steps: int) -> np.ndarray:
    action = np.full(env.action_space.shape, 0.5, np.float32)
    return np.stack([env.step(action)[0] for _ in range(steps)])


def test_the_ids_are_there_before_the_package_is():
    ids = [name for name in gymnasium.registry if name.startswith("humanoid_bench/")]
    assert len(ids) == sum(len(tasks.split()) for tasks in HUMANOID_BENCH_TASKS.values()) == 108
    assert WALK in ids
    with pytest.raises(gymnasium.error.UnregisteredEnv, match="Did you mean: `h1-walk`"):
        gymnasium.spec("humanoid_bench/h1-wlak-v0")


def test_without_the_package_the_error_says_how_to_install_it(fake_humanoid_bench, monkeypatch):
    monkeypatch.setitem(sys.modules, "humanoid_bench", None)
    line = r'pip install --no-deps -e "git\+https://github.com/\S+@791405f\w+#egg=humanoid_bench"'
    with pytest.raises(ImportError, match=line):
        gymnasium.make(WALK)


def test_what_current_packages_break_is_mended(fake_humanoid_bench, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda x: None if x == "jax" else find(x))
    package = humanoid_bench.load()
    sizes = package.env.dmc_sizes.array_sizes
    model = {"body_mass": ("nbody",), "flex_evpair": ("nflexevpair", 2)}
    model = {name: size for name, size in model.items() if hasattr(mujoco.MjModel, name)}
    assert "body_mass" in model
    assert sizes == {"mjmodel": model, "mjdata": {"qpos": ("nq",)}}
    # the stand-in for jax is gone, so that nobody takes it for jax
    assert "jax" not in sys.modules
    assert humanoid_bench.load() is package


def test_an_installed_jax_is_left_alone(fake_humanoid_bench, monkeypatch, tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("")
    (tmp_path / "jax" / "numpy.py").write_text("array = 'the real one'")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert humanoid_bench.load().env.convert_weights == "the real one"
    assert "jax" in sys.modules
    assert sys.modules["jax"].__file__ == str(tmp_path / "jax" / "__init__.py")


def test_types_spaces_and_bars(fake_humanoid_bench):
    env = gymnasium.make(WALK)
    observation, info = env.reset(seed=0)
    assert (observation.dtype, info) == (np.float32, {})
    assert env.observation_space == gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    observation, reward, terminated, truncated, info = env.step(np.full(2, 0.5, np.float32))
    assert observation in env.observation_space
    assert (type(reward), reward) == (float, 2.0)
    assert (type(terminated), type(truncated)) == (bool, bool)
    assert info == {"at": 1}
    assert env.get_wrapper_attr("success_bar") == 700.0
    assert env.unwrapped.render_mode is None
    assert env.render() is None


def test_frames(fake_humanoid_bench):
    env = gymnasium.make(WALK, render_mode="rgb_array", action_repeat=2)
    env.reset(seed=0)
    assert env.render().shape == (256, 256, 3)
    assert env.metadata["render_fps"] == 25
    with pytest.raises(ValueError, match="render_mode='depth_array' must be"):
        humanoid_bench.make("h1", "walk", "depth_array")


@pytest.mark.parametrize(
    ("kwargs", "length", "ends"),
    [
        ({}, 6, (True, False)),
        ({"terminate": False}, 20, (False, True)),
        ({"terminate": False, "action_repeat": 2}, 10, (False, True)),
        ({"action_repeat": 4}, 2, (True, False)),
    ],
)
def test_the_papers_wrappers(fake_humanoid_bench, kwargs, length, ends):
    env = gymnasium.make(WALK, **kwargs)
    env.reset(seed=0)
    repeats = kwargs.get("action_repeat", 1)
    for count in range(1, length + 1):
        _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
        assert (terminated, truncated) == (ends if count == length else (False, False))
        assert info["at"] == min(count * repeats, 6 if ends[0] else 20)
    assert reward == info["at"] - (length - 1) * repeats


def test_a_tasks_own_arguments_and_limit(fake_humanoid_bench):
    env = gymnasium.make("humanoid_bench/g1-push-v0", terminate=False, extra=1)
    assert env.unwrapped.kwargs == {"reach": 2.0, "extra": 1}
    env.reset()
    assert [env.step(np.zeros(2, np.float32))[3] for _ in range(10)] == [False] * 9 + [True]


def test_a_seed_decides_what_comes_from_numpys_global_generator(fake_humanoid_bench):
    one, two = gymnasium.make(WALK), gymnasium.make(WALK)
    before = np.random.get_state()
    np.testing.assert_array_equal(one.reset(seed=5)[0], two.reset(seed=5)[0])
    np.testing.assert_array_equal(rollout(one, 4), rollout(two, 4))
    np.testing.assert_array_equal(one.reset()[0], two.reset()[0])
    np.testing.assert_equal(np.random.get_state(), before)
    assert not np.array_equal(one.reset(seed=6)[0], two.reset(seed=5)[0])


needs_package = pytest.mark.skipif(
    not INSTALLED, reason=f"humanoid_bench is not installed: {humanoid_bench.INSTALL}"
)


@needs_package
@pytest.mark.parametrize(
    ("name", "observations", "actions"),
    [("h1-walk", 51, 19), ("g1-walk", 87, 37), ("h1-reach", 57, 19)],
)
def test_the_package_itself(name, observations, actions):
    env = gymnasium.make(f"humanoid_bench/{name}-v0", terminate=False, action_repeat=2)
    assert env.observation_space.shape == (observations,)
    assert env.action_space.shape == (actions,)
    with warnings.catch_warnings():
        # joint positions and velocities have no bounds, and the checker wants no wrapper
        warnings.filterwarnings("ignore", message=".*(infinity|different from the unwrapped)")
        check_env(env, skip_render_check=True)
    sb3_check_env(env)
    one, two = (gymnasium.make(f"humanoid_bench/{name}-v0") for _ in range(2))
    np.testing.assert_array_equal(one.reset(seed=2)[0], two.reset(seed=2)[0])
    np.testing.assert_array_equal(rollout(one, 5), rollout(two, 5))


@needs_package
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [f"{robot}-{task}" for robot, tasks in HUMANOID_BENCH_TASKS.items() for task in tasks.split()],
)
def test_every_task_of_the_package_runs(name):
    env = gymnasium.make(f"humanoid_bench/{name}-v0", terminate=False)
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(20):
        observation, reward, *_ = env.step(env.action_space.sample())
        assert np.isfinite(observation).all()
        assert np.isfinite(reward)
    assert env.get_wrapper_attr("success_bar") > 0
    env.close()
