"""Gymnasium ids for the DeepMind Control Suite and HumanoidBench.

Importing this package registers ``dm_control/<domain>-<task>-v0`` and
``humanoid_bench/<robot>-<task>-v0``; what they run on loads with the first environment::

    import gymnasium
    import era_rl.envs

    env = gymnasium.make("dm_control/dog-trot-v0")

Where the registering import may not have run (workers of a vectorised environment that are
spawned, not forked), name it in the id: ``"era_rl.envs:dm_control/dog-trot-v0"``.

Shimmy uses the same ids for environments with float64 dictionaries in alphabetical order,
unscaled actions and a wrong frame rate. The ids registered here replace them, if shimmy was
imported before; a later ``import shimmy`` takes them over (gymnasium warns once per id) until
``register_dm_control()`` is called again.
"""

from era_rl.envs.gl import load_triton_before_gl
from era_rl.envs.registration import register_dm_control, register_humanoid_bench

__all__ = ["load_triton_before_gl", "register_dm_control", "register_humanoid_bench"]

# Here, before any module below can load an OpenGL driver: in the other order torch's first
# optimizer ends the process with a segmentation fault. The two imports above load no driver.
load_triton_before_gl()
register_dm_control()
register_humanoid_bench()
