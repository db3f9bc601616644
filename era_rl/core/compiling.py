"""torch.compile for the inner loops of training, which must go on where compilation fails."""

import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor

from era_rl.core.products import inductor_options

_NUMBERS = count()
DEFAULT_COMPILER = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")


def compiler() -> str:
    """Return the command of the C++ compiler that torch.compile calls: CXX, or its default."""
    return os.environ.get("CXX", DEFAULT_COMPILER)


def has_compiler() -> bool:
    """Return whether the C++ compiler that torch.compile needs is on the PATH."""
    return shutil.which(next(iter(shlex.split(compiler())), "")) is not None


class Fallback:
    """Calls a fast function until it fails; then warns of the cause once and calls the plain one.

    Args:
        fast: The compiled or captured function.
        plain: The same computation without; an error of its own is not caught.
        what: What the warning says has failed, "torch.compile of ..." say.
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
                    f"{self.what} failed and training goes on without: {type(error).__name__}: {cause}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return self.plain(*args)


def compiled(function: Callable[..., Any], what: str, plain: Callable[..., Any]) -> Fallback:
    """Return a function under torch.compile, which checks its tensor arguments alone at a call.

    Checking all that the modules it uses consist of would take a tenth of an update of SAC. Those must
    stay as they are, but for the values of parameters and buffers: compile anew where a parameter is
    frozen or released. Where compilation fails it warns and goes on with ``plain``.

    Args:
        function: What is compiled at the first call.
        what: What it is, for the warning.
        plain: The same computation, eager.
    """

    def closure(*args: Any) -> Any:
        return function(*args)

    # compiled graphs are kept by code object, which closures over other functions share, and the sizes
    # that have changed by its name: another model's would make this one's sizes variables
    closure.__code__ = closure.__code__.replace(co_name=f"closure_{next(_NUMBERS)}")
    options: dict[str, Any] = {
        "guard_filter_fn": torch.compiler.keep_tensor_guards_unsafe,
        "fallback_random": True,  # the random numbers of eager mode
        **inductor_options(),
    }
    fast = torch.compile(closure, fullgraph=True, options=options)
    return Fallback(fast, plain, f"torch.compile of {what}")


def gradients_by_transform(
    loss: Callable[[dict[str, Tensor]], tuple[Tensor, Any]],
    inputs: dict[str, Tensor],
    statistics: dict[str, Tensor],
) -> tuple[tuple[Tensor, ...], Tensor, Any, tuple[Tensor, ...]]:
    """Return the gradients of a loss by ``torch.func``, without effects: slower eagerly than autograd.

    Compiled, forward and backward are one graph, which need not keep what is between them. Call it
    under no_grad, or the graph gets a second derivative's backward.

    Args:
        loss: Returns a scalar and what else is wanted of its pass, of tensors by name.
        inputs: What the loss is differentiated by.
        statistics: What the loss may move in place; it gets copies.

    Returns:
        The gradients in the order of ``inputs``, the loss, what it gave beside, the moved statistics.
    """

    def of(inputs: dict[str, Tensor]) -> tuple[Tensor, Any]:
        moved = {name: buffer.clone() for name, buffer in statistics.items()}
        value, beside = loss({**inputs, **moved})
        return value, (beside, tuple(moved.values()))

    gradients, (value, (beside, moved)) = torch.func.grad_and_value(of, has_aux=True)(inputs)
    return tuple(gradients.values()), value, beside, moved


def set_gradients(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Set ``grad`` of parameters, each laid out in memory as its parameter is.

    torch's fused Adam on the CPU (2.15) takes both in the order of memory, whatever their strides.
    """
    for parameter, gradient in zip(parameters, gradients, strict=False):
        if gradient is not None and gradient.stride() != parameter.stride():
            gradient = torch.empty_like(parameter).copy_(gradient)
        parameter.grad = gradient


@contextmanager
def _stream_of(device: torch.device) -> Iterator[None]:
    """Be on the device and its stream, and again so after an error in a capture."""
    if device.type == "cuda":
        with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
            yield
    else:
        yield


def graphed(function: Callable[..., Any], what: str, device: torch.device) -> Callable[..., Any]:
    """Return a function of CUDA tensors as a CUDA graph, captured at its second call.

    A replay runs the same kernels on the same memory: everything the function reads, but for its
    arguments, must stay in place, and every call must have arguments of the same shapes. Where capture
    fails it warns and goes on without.
    """
    from tensordict.nn import CudaGraphModule  # takes a second to load, and is for CUDA alone

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*CudaGraphModule.*|.*without CUDA.*")
        graph = CudaGraphModule(function, device=device)

    def fast(*args: Any) -> Any:
        with _stream_of(device):
            return graph(*args)

    return Fallback(fast, function, f"A CUDA graph of {what}")
