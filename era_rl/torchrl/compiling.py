"""The ``compile`` switch: torch.compile and, on CUDA, CUDA graphs, or a warning that says why not."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from tensordict.nn import CudaGraphModule


class Fallback:
    """Calls a fast function until it fails; then warns of the cause once and calls the plain one.

    Args:
        fast: The compiled or captured function.
        plain: The same computation without; an error of its own is not caught.
        what: How the warning names the function.
    """

    def __init__(self, fast: Callable[..., Any], plain: Callable[..., Any], what: str) -> None:
        self.fast: Callable[..., Any] | None = fast
        self.plain, self.what = plain, what

    def __call__(self, *args: Any) -> Any:
        """Return the result of whichever function is in use."""
        if self.fast is not None:
            try:
                return self.fast(*args)
            except Exception as error:  # whatever the compiler raises: the warning names it
                self.fast = None
                cause = str(error).strip().split("\n", 1)[0]
                warnings.warn(
                    f"{self.what} runs without: {type(error).__name__}: {cause}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return self.plain(*args)


def compiled(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function under ``torch.compile(fullgraph=True)``, falling back with a warning."""
    fast = torch.compile(function, fullgraph=True, dynamic=False)
    return Fallback(fast, function, f"compile=True: {name}, torch.compile")


def graphed(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function as a CUDA graph, falling back with a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CudaGraphModule.*")
        fast = CudaGraphModule(function)
    return Fallback(fast, function, f"compile=True: {name}, CUDA graphs")
