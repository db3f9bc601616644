#!/usr/bin/env bash
# MJX runs a model that has attributes it does not know as if they were not there.
#
# Versions: mujoco-mjx 3.17.0, mujoco 3.17.0 (4.0.0 does the same), jax 0.10.2; Python 3.11.
# Behaviour: MJX's documentation says that it raises an exception for a model with unsupported features, and
#   put_model does so for types of joints, actuators, equalities and sensors. It does not look at attributes: an
#   actuator of a disabled group pulls, and a delay, the polynomial terms of stiffness and damping, and an
#   actuator's own damping and armature have no effect. None is in the table of features. Of a contact sensor's
#   settings it refuses some, but not the default reduce="none" (a footnote names mindist and maxforce alone), and
#   gives the sensor of any geom the first contact of the whole model. There is no warning.
# Guess: put_model raises, or MJX simulates the model that MuJoCo does.
# Seen: "damping=1 2 3" is "damping=1" in MJX, not in MuJoCo, and so on; the sensor of ball b reports ball a.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet uv
env/bin/uv pip install --quiet --python env/bin/python "mujoco==3.17.0" "mujoco-mjx==3.17.0" "jax==0.10.2"

cat > attributes.py <<'PYTHON'
import jax
import mujoco
import numpy as np
from mujoco import mjx

# name: (attributes of the joint, attributes of the actuator); the first two and those of one number are controls
CASES = {
    "nothing": ("", ""),
    "joint armature=1": ('armature="1"', ""),
    "actuatorgroupdisable": ("", 'group="1"'),
    "delay=0.02": ("", 'delay="0.02" nsample="10"'),
    "damping=1 2 3": ('damping="1 2 3"', ""),
    "damping=1": ('damping="1"', ""),
    "stiffness=1 2 3": ('stiffness="1 2 3"', ""),
    "stiffness=1": ('stiffness="1"', ""),
    "actuator damping=1": ("", 'damping="1"'),
    "actuator armature=1": ("", 'armature="1"'),
}
bodies = "".join(
    f'<body pos="{i} 0 1"><joint name="{name}" axis="0 1 0" {joint}/>'
    '<geom type="capsule" size=".1 .2" pos="0 0 -.3" mass="1" contype="0" conaffinity="0"/></body>'
    for i, (name, (joint, _)) in enumerate(CASES.items())
)
motors = "".join(f'<motor joint="{name}" {motor}/>' for name, (_, motor) in CASES.items())
DYNAMICS = f"""<mujoco><option actuatorgroupdisable="1"/><worldbody>{bodies}</worldbody>
<actuator>{motors}</actuator></mujoco>"""

BALLS = """<mujoco><worldbody><geom type="plane" size="5 5 .1"/>
<body pos="0 0 .099"><freejoint/><geom name="a" size=".1" mass="1"/></body>
<body pos="1 0 .099"><freejoint/><geom name="b" size=".1" mass="2"/></body></worldbody><sensor>
<contact geom1="a" data="force pos" reduce="%s"/><contact geom1="b" data="force pos" reduce="%s"/>
</sensor></mujoco>"""

model = mujoco.MjModel.from_xml_string(DYNAMICS)
data = mujoco.MjData(model)
data.qpos[:], data.ctrl[:] = 0.5, 3
model_x, data_x, step = mjx.put_model(model), mjx.put_data(model, data), jax.jit(mjx.step)
for _ in range(50):
    mujoco.mj_step(model, data)
    data_x = step(model_x, data_x)
print(f"{'velocity after 50 steps':24} MuJoCo    MJX")
for name, one, other in zip(CASES, data.qvel, np.asarray(data_x.qvel)):
    print(f"{name:24} {one:6.3f} {other:6.3f}")

for reduce in ("mindist", "none"):
    model = mujoco.MjModel.from_xml_string(BALLS % (reduce, reduce))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    data_x = jax.jit(mjx.forward)(mjx.put_model(model), mjx.put_data(model, data))
    for kind, values in (("MuJoCo", data.sensordata), ("MJX", np.asarray(data_x.sensordata))):
        found = [f"{geom}: force {row[0]:4.1f} at x = {row[3]:.0f}" for geom, row in zip("ab", values.reshape(2, 6))]
        print(f"contact, reduce={reduce}, {kind}: {', '.join(found)}")
PYTHON
JAX_PLATFORMS=cpu env/bin/python attributes.py | grep -v warp | tee seen.txt

diff seen.txt - <<'EXPECTED'
velocity after 50 steps  MuJoCo    MJX
nothing                   1.313  1.313
joint armature=1          0.142  0.142
actuatorgroupdisable     -1.165  1.313
delay=0.02                0.844  1.313
damping=1 2 3             0.516  0.878
damping=1                 0.878  0.878
stiffness=1 2 3           0.164  0.887
stiffness=1               0.887  0.887
actuator damping=1        0.878  1.313
actuator armature=1       0.142  1.313
contact, reduce=mindist, MuJoCo: a: force 11.8 at x = 0, b: force 23.6 at x = 1
contact, reduce=mindist, MJX: a: force 11.8 at x = 0, b: force 23.6 at x = 1
contact, reduce=none, MuJoCo: a: force 11.8 at x = 0, b: force 23.6 at x = 1
contact, reduce=none, MJX: a: force 11.8 at x = 0, b: force 11.8 at x = 0
EXPECTED
