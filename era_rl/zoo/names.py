"""Wrong names, and the right ones that come close."""

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A configuration, or a name on the command line, that is not what the zoo knows."""


def check_names(what: str, given: Iterable[Any], known: Iterable[str]) -> None:
    """Raise ConfigError for the first name that is not known, with those that come close."""
    known = set(known)
    for name in given:
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"{what} {name!r} is unknown{close(str(name), known)}")


def close(name: str, known: Iterable[str]) -> str:
    """Return "; close: ..." with up to three known names, or all of a few where none is close."""
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if matches:
        return f"; close: {', '.join(matches)}"
    return f"; there are: {', '.join(names)}" if len(names) <= 20 else ""
