"""The paper's MuJoCo Gym tasks as the zoo sees them, and pixels through standard wrappers."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from era_rl.envs.wrappers import Float32Observation
from era_rl.sb3.run_settings import config_path, entry_for

TASKS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"]


@pytest.mark.parametrize("env_id", TASKS)
@pytest.mark.filterwarnings("ignore:.*A Box observation space .*infinity")
def test_the_checkers_accept_the_task(env_id):
    check_env(gymnasium.make(env_id).unwrapped, skip_render_check=True)
    env = Float32Observation(gymnasium.make(env_id))
    sb3_check_env(env)
    assert env.reset(seed=0)[0].dtype == np.float32
    wrapper = f"{Float32Observation.__module__}.{Float32Observation.__name__}"
    assert entry_for(env_id, config_path("sac_era"))["env_wrapper"] == wrapper


@pytest.mark.parametrize("env_id", TASKS)
def test_a_seed_decides_the_episode(env_id):
    rollouts = []
    for _ in range(2):
        env = gymnasium.make(env_id)
        env.action_space.seed(1)
        rollouts.append(
            [env.reset(seed=1)[0], *(env.step(env.action_space.sample())[0] for _ in range(20))]
        )
    np.testing.assert_array_equal(*rollouts)


PIXELS = """
import gymnasium, numpy, era_rl.envs
from gymnasium.wrappers import AddRenderObservation, FrameStackObservation
for name, kwargs in (("dm_control/walker-walk-v0", {"render_kwargs": {"width": 48, "height": 48}}),
                     ("Hopper-v5", {"width": 48, "height": 48})):
    env = gymnasium.make(name, render_mode="rgb_array", **kwargs)
    env.reset(seed=0)
    env = FrameStackObservation(AddRenderObservation(env, render_only=True), 3)
    first, _ = env.reset(seed=0)
    assert (first.shape, first.dtype) == ((3, 48, 48, 3), numpy.uint8), (first.shape, first.dtype)
    for _ in range(4):
        last, *_ = env.step(env.action_space.sample())
    assert (last[2] != last[0]).any() and last.std() > 5
    env.close()
"""


@pytest.mark.parametrize("backend", ["egl", pytest.param("osmesa", marks=pytest.mark.slow)])
def test_pixels_and_frame_stacks_come_from_standard_wrappers(run_python, backend):
    result = run_python(PIXELS, MUJOCO_GL=backend)
    if result.returncode and run_python("import dm_control.suite", MUJOCO_GL=backend).returncode:
        pytest.skip(f"MUJOCO_GL={backend} does not work on this machine")
    assert result.returncode == 0, result.stderr
