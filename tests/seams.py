"""Checks that a host library has what we override, with messages that name the library's version."""

import inspect
from importlib.metadata import version
from typing import Any


def check_hook(package: str, owner: Any, name: str, parameters: str) -> None:
    """Assert that a function of the host takes the parameters that ours is called with and passes on.

    Args:
        package: The host's name on the package index.
        owner: Its class or module.
        name: The function's name.
        parameters: Names of its parameters, in order, separated by spaces; further ones, with
            defaults, may follow.
    """
    host = f"{package} {version(package)}: {owner.__name__}"
    assert hasattr(owner, name), f"{host} has no {name}, which era_rl overrides or calls"
    found = inspect.signature(getattr(owner, name)).parameters
    expected = parameters.split()
    assert list(found)[: len(expected)] == expected, (
        f"{host}.{name}({', '.join(found)}), era_rl relies on ({', '.join(expected)})"
    )
    for extra in list(found.values())[len(expected) :]:
        needed = extra.default is extra.empty and extra.kind not in (
            extra.VAR_POSITIONAL,
            extra.VAR_KEYWORD,
        )
        assert not needed, f"{host}.{name} needs {extra.name}, of which era_rl does not know"


def check_attribute(package: str, owner: Any, name: str) -> None:
    """Assert that the host's class, module or object has an attribute that we read or override."""
    title = getattr(owner, "__name__", type(owner).__name__)
    assert hasattr(owner, name), (
        f"{package} {version(package)}: {title} has no {name}, on which era_rl relies"
    )
