"""OpenGL and torch's optimizers in one process, each test in a process of its own.

Without era_rl.envs these processes die with signal 11 where Mesa is the driver.
"""

import ctypes
import importlib.util
import sys

import pytest

from era_rl.envs.gl import load_triton_before_gl

RENDER_AND_BUILD_AN_OPTIMIZER = """
import gymnasium, numpy, torch
env = gymnasium.make("dm_control/walker-walk-v0", render_mode="rgb_array")
env.reset(seed=0)
before = env.render()
assert before.shape == (240, 320, 3) and before.dtype == numpy.uint8 and before.std() > 10
parameter = torch.nn.Parameter(torch.ones(2))
optimizer = torch.optim.Adam([parameter])
parameter.sum().backward()
optimizer.step()
for _ in range(20):
    env.step(env.action_space.sample())
assert (env.render() != before).any()
env.close()
env.close()
"""

OTHER_CAMERAS_AND_TERRAIN = """
import gymnasium, era_rl.envs
size = {"width": 64, "height": 48}
frames = []
for camera in (0, "back"):
    env = gymnasium.make("dm_control/walker-walk-v0", render_mode="rgb_array",
                         render_kwargs={**size, "camera_id": camera})
    env.reset(seed=0)
    frames.append(env.render())
    env.close()
assert frames[0].shape == frames[1].shape == (48, 64, 3)
assert (frames[0] != frames[1]).any()
env = gymnasium.make("dm_control/quadruped-escape-v0")
first, _ = env.reset(seed=1)
env.step(env.action_space.sample())
assert (env.reset(seed=1)[0] == first).all()
env.close()
"""


def run_with(run_python, backend: str, code: str) -> None:
    result = run_python(code, MUJOCO_GL=backend)
    if result.returncode == 0:
        return
    alone = run_python("from dm_control import suite", MUJOCO_GL=backend)
    if alone.returncode != 0:
        reason = alone.stderr.strip().splitlines()[-1]
        pytest.skip(f"MUJOCO_GL={backend} does not work on this machine: {reason}")
    pytest.fail(f"exit {result.returncode}: {result.stderr}")


OURS_FIRST = "import era_rl.envs"
GL_FIRST = "import dm_control.suite, era_rl.envs"


@pytest.mark.parametrize(
    ("backend", "imports"),
    [
        ("egl", OURS_FIRST),
        pytest.param("egl", "import torch, dm_control.suite, era_rl.envs", marks=pytest.mark.slow),
        pytest.param("osmesa", OURS_FIRST, marks=pytest.mark.slow),
        pytest.param("osmesa", GL_FIRST, marks=pytest.mark.slow),
    ],
)
def test_rendering_and_an_optimizer_live_in_one_process(run_python, backend, imports):
    run_with(run_python, backend, imports + RENDER_AND_BUILD_AN_OPTIMIZER)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("backend", ["egl", "osmesa"])
@pytest.mark.parametrize("imports", [OURS_FIRST, GL_FIRST])
def test_triton_can_be_imported_after_opengl(run_python, backend, imports):
    """The crash itself, without the 15 seconds that torch takes to get there."""
    run_with(run_python, backend, f"{imports}\nimport dm_control.suite, triton")


def test_cameras_sizes_and_the_task_that_needs_opengl(run_python):
    run_with(run_python, "egl", OTHER_CAMERAS_AND_TERRAIN)


def test_no_triton_is_no_error(monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("nothing to load")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setitem(sys.modules, "triton", None)
    load_triton_before_gl()
