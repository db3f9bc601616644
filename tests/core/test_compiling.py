"""A compiled function, or the plain one from where that fails."""

import shutil
from functools import partial
from typing import Any

import pytest
import torch

from era_rl.core.compiling import Fallback, compiled, compiler, has_compiler, set_gradients


def test_a_failing_compiler_is_named_once_and_left() -> None:
    def broken(x: int) -> int:
        raise RuntimeError("no C++ compiler\ndetails")

    function = Fallback(broken, lambda x: x + 1, "torch.compile of it")
    with pytest.warns(
        RuntimeWarning, match=r"^torch.compile of it failed .*: RuntimeError: no C\+\+ compiler$"
    ) as record:
        assert [function(1), function(2)] == [2, 3]
    assert len(record) == 1


def test_an_error_of_the_function_itself_is_raised() -> None:
    def broken(x: int) -> int:
        raise ValueError("bad shape")

    with (
        pytest.warns(RuntimeWarning, match="bad shape"),
        pytest.raises(ValueError, match="bad shape"),
    ):
        Fallback(lambda x: broken(x), broken, "torch.compile of it")(1)


def test_sizes_are_constants_whatever_was_compiled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dynamo makes a size that has changed a variable, which slower code is written for."""
    sizes: list[Any] = []

    def backend(graph: torch.fx.GraphModule, examples: list[Any]) -> Any:
        sizes.extend(size for example in examples for size in getattr(example, "shape", [example]))
        return graph

    class Layer:
        def __init__(self, width: int) -> None:
            self.weight = torch.ones(width, width)

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight

    trace = partial(torch.compile, backend=backend)
    monkeypatch.setattr(torch, "compile", lambda f, *, options, **kwargs: trace(f, **kwargs))
    for width in (3, 5, 7):
        layer = Layer(width)
        result = compiled(layer.__call__, "a layer", layer)(torch.ones(2, width))
        assert torch.equal(result, torch.full((2, width), float(width)))
    assert all(type(size) is int for size in sizes)
    assert {3, 5, 7} <= set(sizes)


def test_the_compiler_is_that_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """CXX where it is set, with arguments too; no other takes its place."""
    commands: list[str] = []
    monkeypatch.setattr(shutil, "which", lambda command: commands.append(command) or None)
    for value in ("/opt/bin/g++-13", "ccache g++"):
        monkeypatch.setenv("CXX", value)
        assert not has_compiler()
    monkeypatch.delenv("CXX")
    assert not has_compiler()
    assert commands == ["/opt/bin/g++-13", "ccache", compiler()]


def test_gradients_are_laid_out_as_their_parameters() -> None:
    """A step of fused Adam, which reads memory in its order, is that of plain Adam."""
    start, gradient = torch.randn(4, 3), torch.randn(3, 4).t()
    found = []
    for fused in (True, False):
        parameter = start.clone().requires_grad_()
        set_gradients([parameter], [gradient])
        torch.optim.Adam([parameter], 0.1, fused=fused).step()
        found.append(parameter.data)
    torch.testing.assert_close(*found)
