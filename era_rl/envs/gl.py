"""Keeps triton's LLVM apart from the one that Mesa's OpenGL drivers load."""

import ctypes
import importlib.util
import os
import sys
from pathlib import Path


def load_triton_before_gl() -> None:
    """Load triton's native library, so that OpenGL and torch's optimizers can share a process.

    Mesa (``MUJOCO_GL=egl`` or ``osmesa``) loads ``libLLVM.so``; ``libtriton.so`` carries an LLVM
    of its own. Loaded second, triton binds to Mesa's symbols and crashes (signal 11) when torch
    imports it, which it does when it builds the first optimizer. Loaded first, each keeps its
    own. Where Mesa is there already, ``RTLD_DEEPBIND`` makes triton prefer its own symbols.

    Only the shared library is loaded, not the Python package (0.04 s instead of 0.5 s). Does
    nothing where triton is not installed or the system is not Linux.
    """
    spec = importlib.util.find_spec("triton")
    if sys.platform != "linux" or spec is None or spec.origin is None:
        return
    library = Path(spec.origin).parent / "_C" / "libtriton.so"
    if library.exists():
        ctypes.CDLL(str(library), mode=os.RTLD_NOW | (os.RTLD_DEEPBIND if _mesa_loaded() else 0))


def _mesa_loaded() -> bool:
    """Whether this process has mapped a shared LLVM, as Mesa's software drivers do."""
    return "libLLVM" in Path("/proc/self/maps").read_text()
