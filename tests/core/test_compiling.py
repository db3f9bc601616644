"""A compiled function, or the plain one from where that fails."""

import pytest

from era_rl.core.compiling import Fallback


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
