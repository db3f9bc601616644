"""A compiled function, or the plain one from where that fails."""

import shutil

import pytest
import torch

from era_rl.core.compiling import Fallback, compiler, has_compiler, set_gradients


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
