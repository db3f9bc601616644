"""Measurements behind the published figures; raw data in ``benchmarks/results``."""

import os

# nothing here renders, and without a display mujoco's default backend warns; read on its first import
os.environ.setdefault("MUJOCO_GL", "disabled")
