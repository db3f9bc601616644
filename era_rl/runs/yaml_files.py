"""Settings as YAML that is data: files that map names to values, and ``key=value`` changes to them."""

import copy
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from era_rl.runs.folder import in_one_piece
from era_rl.runs.settings import SettingsError, plain


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, for which 1e-3 is a number too."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse(text: str) -> Any:
    """Return the data that a YAML text states; SettingsError for anything but data."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"not plain YAML: {error}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """Return what a YAML file maps; SettingsError, with the path, if it is damaged or missing."""
    if not path.is_file():
        raise SettingsError(f"there is no file {path}")
    try:
        content = parse(path.read_text())
    except (SettingsError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must be a mapping of names to values, not {content!r:.60}")
    return content


def write_mapping(path: Path, content: Mapping[str, Any]) -> None:
    """Write names and values as plain YAML, which is safe to load, in one piece."""
    with in_one_piece(path) as part:
        part.write_text(yaml.safe_dump(plain(content)))


def override(settings: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return the settings with ``key=value`` or ``key:value`` applied; dots reach into mappings."""
    result = copy.deepcopy(dict(settings))
    for assignment in assignments:
        match = re.fullmatch(r"([\w.]+)[=:](.*)", assignment, re.DOTALL)
        if match is None:
            raise SettingsError(f"{assignment!r} must be key=value")
        *parents, key = match[1].split(".")
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise SettingsError(f"{assignment!r}: {parent} is not a mapping")
        target[key] = parse(match[2])
    return result
