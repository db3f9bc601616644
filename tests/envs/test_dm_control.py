"""The registered environments against raw dm_control, step by step."""

import copy
import pickle
import warnings

import gymnasium
import numpy as np
import pytest
from dm_control import suite
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import era_rl.envs  # noqa: F401 (registers the ids)
from era_rl.envs.dm_control import DMControlEnv

# quadruped-escape cannot be reset without OpenGL: test_gl.py has it.
TASKS = [pair for pair in suite.ALL_TASKS if pair != ("quadruped", "escape")]


def env_id(domain: str, task: str) -> str:
    return f"dm_control/{domain}-{task}-v0"


def native(observation: dict) -> np.ndarray:
    """The reference: each array raveled in the order of the dictionary, by hand."""
    values = [float(x) for array in observation.values() for x in np.ravel(array)]
    return np.array(values).astype(np.float32)


def native_action(spec, action: np.ndarray) -> np.ndarray:
    """The reference: [-1, 1] to the spec's bounds by interpolation, untouched without bounds."""
    if spec.maximum.max() >= 1e10:
        return action.astype(np.float64)
    return spec.minimum + (action.astype(np.float64) + 1) * (spec.maximum - spec.minimum) / 2


def assert_same_step(step, timestep) -> None:
    observation, reward, terminated, truncated, info = step
    np.testing.assert_array_equal(observation, native(timestep.observation))
    assert observation.dtype == np.float32
    assert type(reward) is float
    assert reward == timestep.reward
    assert type(terminated) is bool
    assert type(truncated) is bool
    assert (terminated or truncated) == timestep.last()
    assert terminated == (timestep.last() and timestep.discount == 0)
    # rl_zoo3, once imported in the process, puts a TimeLimit of its own in gymnasium's place
    assert info.keys() <= {"TimeLimit.truncated"}


@pytest.mark.parametrize(("domain", "task"), TASKS)
def test_every_task_follows_raw_dm_control(domain, task):
    # For lqr the same seed at load gives both sides the same dynamics.
    env = gymnasium.make(env_id(domain, task), task_kwargs={"random": 3})
    raw = suite.load(domain, task, task_kwargs={"random": 3})
    raw.task.random.seed(3)
    spec = raw.action_spec()

    first, info = env.reset(seed=3)
    np.testing.assert_array_equal(first, native(raw.reset().observation))
    assert info == {}
    assert first in env.observation_space
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, spec.shape, np.float32)
    assert env.metadata["render_fps"] == pytest.approx(1 / raw.control_timestep(), rel=1e-12)
    assert (env.spec.max_episode_steps or np.inf) == raw._step_limit

    for value in (0.3, -1.0, 1.0):
        action = np.full(spec.shape, value, np.float32)
        step = env.step(action)
        raw.step(native_action(spec, action))
        ctrl = env.unwrapped.dm_env.physics.data.ctrl
        np.testing.assert_allclose(ctrl, native_action(spec, action), atol=1e-12)
        np.testing.assert_allclose(
            step[0], native(raw.task.get_observation(raw.physics)), rtol=1e-4, atol=1e-4
        )

    np.testing.assert_array_equal(env.reset(seed=3)[0], first)
    env.close()


@pytest.mark.parametrize(
    ("domain", "task"),
    [("dog", "trot"), ("humanoid", "walk"), ("walker", "walk"), ("cheetah", "run")],
)
def test_whole_episode_equals_raw_dm_control(domain, task):
    env = gymnasium.make(env_id(domain, task))
    raw = suite.load(domain, task, task_kwargs={"random": 11})
    env.action_space.seed(0)
    observation, _ = env.reset(seed=11)
    np.testing.assert_array_equal(observation, native(raw.reset().observation))
    for count in range(1, 1001):
        action = env.action_space.sample()
        step = env.step(action)
        raw_step = raw.step(action)
        if count < 1000:
            assert_same_step(step, raw_step)
    assert raw_step.last()
    assert_same_step(step, raw_step)
    assert step[3]
    # The second episode continues the same random stream.
    np.testing.assert_array_equal(env.reset()[0], native(raw.reset().observation))
    env.close()


def test_scaled_actions_follow_raw_dm_control():
    env = gymnasium.make(env_id("quadruped", "run"))
    raw = suite.load("quadruped", "run", task_kwargs={"random": 5})
    env.action_space.seed(1)
    env.reset(seed=5)
    raw.reset()
    unwrapped = env.unwrapped
    for _ in range(100):
        action = env.action_space.sample()
        step = env.step(action)
        # Rounded in one place only: the control that reached the actuators goes to raw.
        assert_same_step(step, raw.step(unwrapped.dm_env.physics.data.ctrl.copy()))
    env.close()


def test_a_termination_is_not_a_truncation():
    """lqr ends, with discount 0, once its state is at rest."""
    env = gymnasium.make(env_id("lqr", "lqr_2_1"), task_kwargs={"random": 0})
    raw = suite.load("lqr", "lqr_2_1", task_kwargs={"random": 0})
    action = np.zeros(1, np.float32)
    env.reset(), raw.reset()
    assert_same_step(env.step(action), raw.step(action))
    for physics in (env.unwrapped.dm_env.physics, raw.physics):
        physics.set_state(np.zeros(4))
        physics.forward()
    step = env.step(action)
    assert_same_step(step, raw.step(action))
    assert step[2:4] == (True, False)
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(action)
    env.reset()
    assert env.step(action)[2:4] == (False, False)


def episode_length(env: gymnasium.Env, at_most: int) -> int | None:
    env.reset(seed=0)
    for count in range(1, at_most + 1):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        assert not terminated
        if truncated:
            return count
    return None


@pytest.mark.parametrize(
    ("max_episode_steps", "length"), [(None, 1000), (7, 7), (1003, 1003), (-1, None)]
)
def test_make_sets_the_episode_length(max_episode_steps, length):
    env = gymnasium.make(env_id("cartpole", "balance"), max_episode_steps=max_episode_steps)
    assert episode_length(env, 1010) == length


@pytest.mark.parametrize(("time_limit", "length"), [(None, 1000), (0.05, 5), (float("inf"), None)])
def test_the_class_keeps_its_own_time_limit(time_limit, length):
    env = DMControlEnv("cartpole", "balance", time_limit=time_limit)
    assert episode_length(env, 1010) == length


def test_environment_kwargs_change_the_frame_rate_and_the_limit():
    env = DMControlEnv("cartpole", "balance", environment_kwargs={"control_timestep": 0.02})
    assert env.metadata["render_fps"] == 50.0
    assert DMControlEnv.metadata == {"render_modes": ["rgb_array"]}
    assert episode_length(env, 1010) == 500


def rollout(env: gymnasium.Env, seed: int) -> np.ndarray:
    env.action_space.seed(0)
    first, _ = env.reset(seed=seed)
    return np.stack([first, *(env.step(env.action_space.sample())[0] for _ in range(20))])


def test_seeds_decide_everything():
    one, two = (gymnasium.make(env_id("walker", "walk")) for _ in range(2))
    expected = rollout(one, 4)
    np.testing.assert_array_equal(rollout(two, 4), expected)
    np.testing.assert_array_equal(rollout(one, 4), expected)
    assert not np.array_equal(rollout(two, 5)[0], expected[0])
    assert not np.array_equal(one.reset()[0], expected[0])


def test_unseeded_environments_differ():
    one, two = (gymnasium.make(env_id("walker", "walk")) for _ in range(2))
    assert not np.array_equal(one.reset()[0], two.reset()[0])


def test_observations_are_not_overwritten_by_later_steps():
    env = gymnasium.make(env_id("walker", "walk"))
    first, _ = env.reset(seed=0)
    kept = first.copy()
    env.step(env.action_space.sample())
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_behave_alike(clone):
    env = DMControlEnv("cartpole", "swingup", time_limit=0.1, render_kwargs={"camera_id": 1})
    twin = clone(env)
    np.testing.assert_array_equal(rollout_of_ten(twin), rollout_of_ten(env))
    assert twin.render_kwargs == {"camera_id": 1}
    assert twin.metadata == env.metadata


def rollout_of_ten(env: DMControlEnv) -> np.ndarray:
    env.reset(seed=2)
    steps = [env.step(np.full(1, 0.5, np.float32)) for _ in range(10)]
    assert [truncated for _, _, _, truncated, _ in steps] == [False] * 9 + [True]
    return np.stack([observation for observation, *_ in steps])


def test_a_spec_rebuilds_its_environment():
    env = gymnasium.make(env_id("walker", "run"), max_episode_steps=50)
    spec = env.spec
    rebuilt = [copy.deepcopy(spec), gymnasium.envs.registration.EnvSpec.from_json(spec.to_json())]
    for twin in map(gymnasium.make, [*rebuilt, pickle.loads(pickle.dumps(spec))]):
        assert twin.spec == spec
        assert twin.spec.max_episode_steps == 50
        np.testing.assert_array_equal(rollout(twin, 1), rollout(env, 1))


PAPER_TASKS = [
    *(("dog", task) for task in ("stand", "walk", "trot", "run")),
    *(("humanoid", task) for task in ("stand", "walk", "run")),
]


@pytest.mark.parametrize("task", [("walker", "walk"), *PAPER_TASKS], ids="-".join)
def test_gymnasium_and_sb3_accept_the_environment(task):
    with warnings.catch_warnings():
        # Positions and velocities have no bounds; gymnasium says so about every such Box.
        warnings.filterwarnings("ignore", message=".*A Box observation space .*infinity")
        check_env(gymnasium.make(env_id(*task)).unwrapped, skip_render_check=True)
    sb3_check_env(gymnasium.make(env_id(*task)))


def test_dummy_vec_env_reports_the_time_limit():
    env = make_vec_env(
        env_id("cartpole", "balance"), n_envs=2, seed=0, env_kwargs={"max_episode_steps": 3}
    )
    first = env.reset()
    assert first.dtype == np.float32
    assert not np.array_equal(first[0], first[1])
    for _ in range(3):
        _, _, dones, infos = env.step(np.zeros((2, 1), np.float32))
    assert dones.all()
    for info in infos:
        assert info["TimeLimit.truncated"]
        assert info["terminal_observation"].shape == (5,)


@pytest.mark.parametrize(
    "start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)]
)
def test_subproc_vec_env_equals_dummy_vec_env(start_method):
    name = "era_rl.envs:" + env_id("walker", "walk")
    dummy = make_vec_env(name, seed=7)
    workers = make_vec_env(
        name, seed=7, vec_env_cls=SubprocVecEnv, vec_env_kwargs={"start_method": start_method}
    )
    np.testing.assert_array_equal(workers.reset(), dummy.reset())
    action = np.full((1, 6), 0.25, np.float32)
    for _ in range(3):
        observations, rewards, dones, _ = workers.step(action)
        expected, expected_rewards, expected_dones, _ = dummy.step(action)
        np.testing.assert_array_equal(observations, expected)
        # DummyVecEnv keeps rewards in float32.
        np.testing.assert_array_equal(rewards.astype(np.float32), expected_rewards)
        np.testing.assert_array_equal(dones, expected_dones)
    workers.close()


@pytest.mark.parametrize(("mode", "vector_kwargs"), [("sync", {}), ("async", {"context": "spawn"})])
def test_make_vec(mode, vector_kwargs):
    envs = gymnasium.make_vec(
        env_id("walker", "walk"), 2, vectorization_mode=mode, vector_kwargs=vector_kwargs
    )
    single = gymnasium.make(env_id("walker", "walk"))
    observations, _ = envs.reset(seed=3)
    for index in range(2):
        np.testing.assert_array_equal(observations[index], single.reset(seed=3 + index)[0])
    envs.close()


def test_rendering_is_off_unless_asked_for():
    env = DMControlEnv("walker", "walk")
    env.reset(seed=0)
    assert env.render() is None
    with pytest.raises(ValueError, match="render_mode='depth' must be"):
        DMControlEnv("walker", "walk", render_mode="depth")


@pytest.mark.parametrize(
    ("domain", "task", "hint"),
    [
        ("dog", "trott", "dog-trot, dog-"),
        ("dogg", "trot", "dog-trot, dog-"),
        ("xxxx", "yyyy", "domains: acrobot, .*dog, .*walker"),
    ],
)
def test_an_unknown_task_names_close_ones(domain, task, hint):
    with pytest.raises(ValueError, match=f"domain='{domain}', task='{task}' must be .*{hint}"):
        DMControlEnv(domain, task)
