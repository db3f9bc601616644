"""The ``compile`` switch: torch.compile and, on CUDA, CUDA graphs, or a warning that says why not."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from tensordict.nn import CudaGraphModule

from era_rl.core.compiling import Fallback


def compiled(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function under ``torch.compile(fullgraph=True)``, falling back with a warning."""
    fast = torch.compile(function, fullgraph=True, dynamic=False)
    return Fallback(fast, function, f"torch.compile of {name}")


def graphed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function as a CUDA graph, falling back with a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CudaGraphModule.*")
        fast = CudaGraphModule(function)
    return Fallback(fast, function, f"CUDA graphs of {name}")
