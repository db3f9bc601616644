"""Measured figures go to the report of ``pytest --junitxml``, under the name of their test."""

from collections.abc import Callable

import pytest


@pytest.fixture
def record(
    request: pytest.FixtureRequest, record_testsuite_property: Callable[[str, object], None]
) -> Callable[[str, object], None]:
    def named(figure: str, value: object) -> None:
        record_testsuite_property(f"{request.node.name} {figure}", value)

    return named
