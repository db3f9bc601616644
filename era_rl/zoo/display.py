"""Whether windows can be opened."""

import os
import sys


def has_display() -> bool:
    """Return whether there is a display; systems other than Linux are taken to have one."""
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())
