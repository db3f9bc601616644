"""Measurements behind the published figures; raw data in ``benchmarks/results``."""

import os
import threading

# nothing here renders, and without a display mujoco's default backend warns; read on its first import
os.environ.setdefault("MUJOCO_GL", "disabled")


def _end_with_parent() -> None:
    """Wait for the pipe from the runner to close, which it does even where the runner is killed."""
    # not through sys.stdin, whose lock would be held when the interpreter ends
    while os.read(0, 1):
        pass
    os._exit(1)


# set by the runner for what it starts, and for nothing that this starts in turn
if os.environ.pop("BENCHMARKS_PARENT_PIPE", ""):
    threading.Thread(target=_end_with_parent, daemon=True).start()
