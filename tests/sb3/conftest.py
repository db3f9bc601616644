"""Fixtures of the tests of era_rl.sb3."""

import shutil
from typing import Any

import pytest
import torch


@pytest.fixture
def compiled_as_is(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace torch.compile; the list gathers what is given to it."""
    functions: list[Any] = []

    def compile_(function: Any, **kwargs: Any) -> Any:
        functions.append(function)
        return function

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", compile_)
    return functions


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch.compile trace with its real guards and differentiate, but generate no code."""
    compile_ = torch.compile

    def trace(function: Any, *, fullgraph: bool, options: dict[str, Any]) -> Any:
        guards = {"guard_filter_fn": options["guard_filter_fn"]}
        return compile_(function, fullgraph=fullgraph, backend="aot_eager", options=guards)

    torch._dynamo.reset()
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", trace)
