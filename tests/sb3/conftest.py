"""Fixtures of the tests of era_rl.sb3."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from era_rl.sb3 import payoff


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


@pytest.fixture(autouse=True)
def no_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trainings neither leave times nor find those by which they would choose to compile."""
    monkeypatch.setattr(payoff, "_path", lambda kind: Path(os.devnull, "nothing"))


@pytest.fixture
def traced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch.compile trace with its real guards, but generate no code.

    Gradients are inside of what the off-policy algorithms compile, so that tracing is all; autograd's
    pass through what the others compile is differentiated too, as is everything in slow tests.
    """
    compile_ = torch.compile
    off_policy = not re.search("PPO|A2C|ppo|a2c", request.node.name)
    plain = off_policy and not request.node.get_closest_marker("slow")
    backend = "eager" if plain else "aot_eager"

    def trace(function: Any, *, fullgraph: bool, options: dict[str, Any]) -> Any:
        guards = {"guard_filter_fn": options["guard_filter_fn"]}
        return compile_(function, fullgraph=fullgraph, backend=backend, options=guards)

    torch._dynamo.reset()
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", trace)
