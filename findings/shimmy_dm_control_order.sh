#!/usr/bin/env bash
# Shimmy's dm_control environments flatten to another order than dm_control's own, and name another frame rate.
#
# Versions: shimmy 2.0.1, gymnasium 1.4.0, dm_control 1.0.50, mujoco 3.17.0, imageio 2.38.1, packaging 26.0; Python 3.11.
# Behaviour: a task's observation is a gymnasium Dict, which sorts its keys, so FlattenObservation (and every
#   trainer that flattens) sees e.g. height before orientations; dm_control's own dict, and TorchRL's
#   DMControlEnv, begin with orientations. The vectors have equal shapes and scales: a policy moved between
#   the two runs without an error and falls over. metadata["render_fps"] is not the
#   control rate (25 for walker, whose rate is 40): recorded videos play slowly.
# Guess: the wrapper keeps the order of the environment it wraps, and its frame rate is the control rate.
# Seen: what the script compares with at its end.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv env
env/bin/python -m pip install --quiet "shimmy==2.0.1" "gymnasium==1.4.0" "dm_control==1.0.50" "mujoco==3.17.0" "imageio==2.38.1" "packaging==26.0"

cat > order.py <<'PYTHON'
import gymnasium
import numpy as np
import shimmy
from dm_control import suite

gymnasium.register_envs(shimmy)
for domain, task in (("walker", "walk"), ("dog", "trot"), ("quadruped", "walk")):
    wrapped = gymnasium.make(f"dm_control/{domain}-{task}-v0")
    raw = suite.load(domain, task)
    own = list(raw.reset().observation)
    theirs = list(wrapped.observation_space.spaces)
    flat = gymnasium.wrappers.FlattenObservation(wrapped)
    native_size = sum(np.size(value) for value in raw.reset().observation.values())
    print(
        f"{domain}-{task}: starts with {theirs[0]}, dm_control with {own[0]};",
        f"same length: {flat.observation_space.shape == (native_size,)};",
        f"render_fps {wrapped.metadata['render_fps']:.1f}, control rate {1 / raw.control_timestep():.1f}",
    )
PYTHON
MUJOCO_GL=disabled env/bin/python order.py 2> errors.txt | tee seen.txt || { cat errors.txt; exit 1; }

diff seen.txt - <<'EXPECTED'
walker-walk: starts with height, dm_control with orientations; same length: True; render_fps 25.0, control rate 40.0
dog-trot: starts with actuator_state, dm_control with joint_angles; same length: True; render_fps 15.0, control rate 66.7
quadruped-walk: starts with egocentric_state, dm_control with egocentric_state; same length: True; render_fps 20.0, control rate 50.0
EXPECTED
