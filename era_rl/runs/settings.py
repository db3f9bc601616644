"""Settings of a run: types and ranges stand once, in a dataclass, and everything reads them there."""

import difflib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints


class SettingsError(ValueError):
    """A setting or a name that does not fit; the message says which, its value and what is allowed."""


@dataclass(frozen=True)
class Setting:
    """What a setting is, beside its type: ``steps: Annotated[int, Setting("steps", low=1)] = 1_000``.

    Attributes:
        about: A line for ``--help``.
        low: The least number allowed.
        high: The greatest number allowed.
        free: Whether it may change when a run goes on, because it does not change what is learned.
        short: A letter for the command line, such as "n" for ``-n``.
        was: An older name, which is refused with the new one, and still read from checkpoints.
    """

    about: str
    low: float = -math.inf
    high: float = math.inf
    free: bool = False
    short: str = ""
    was: str = ""


@dataclass(frozen=True)
class Field:
    """A field of a settings dataclass: name, type, default (or MISSING) and :class:`Setting`."""

    name: str
    kind: Any
    default: Any
    setting: Setting

    @property
    def allowed(self) -> str:
        """What a value must be, in words."""
        return _words(self.kind, self.setting)

    def checked(self, value: Any) -> Any:
        """Return a value, lists as tuples and texts as paths; SettingsError if it does not fit.

        A list of one is that one, where a setting may be one value or several.
        """
        if isinstance(value, list):
            several = get_origin(self.kind) is not tuple and any(
                get_origin(kind) is tuple for kind in get_args(self.kind)
            )
            one = several and len(value) == 1
            value = value[0] if one else tuple(value)
        if isinstance(value, str) and Path in (self.kind, *get_args(self.kind)):
            value = Path(value)
        if not _fits(value, self.kind, self.setting):
            raise SettingsError(f"{self.name}={value!r} must be {self.allowed}")
        return value

    def read(self, text: str) -> Any:
        """Return what a text of the command line stands for; SettingsError if it does not fit."""
        # a word such as "none" before the texts that it could be
        for kind in sorted(_members(self.kind), key=(str, Path).__contains__):
            value = _reading(text, kind)
            if _fits(value, kind, self.setting):
                return value
        raise SettingsError(f"{text!r} must be {self.allowed}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of the settings of a run: frozen dataclasses with fields ``Annotated[type, Setting(...)]``.

    Types are int, float, bool, str, Path, Literal, unions of them and tuples ``tuple[int, ...]``.
    A subclass that relates settings to each other does so in ``__post_init__``, after ``super()``'s.

    Raises:
        SettingsError: If a value is of another type or outside its range.
    """

    def __post_init__(self) -> None:
        for field in fields_of(type(self)):
            object.__setattr__(self, field.name, field.checked(getattr(self, field.name)))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings of a mapping; SettingsError for an unknown name, with close ones."""
        known = {field.name: field for field in fields_of(cls)}
        for name, field in known.items():
            if field.setting.was in values.keys() - {""}:
                raise SettingsError(f"the setting {field.setting.was!r} is now {name!r}")
        check_names("setting", values, known)
        return cls(**values)

    def check_resumes(self, saved: Mapping[str, Any], where: object, **facts: Any) -> None:
        """Refuse to go on from a checkpoint that was written with other settings.

        Args:
            saved: The settings in the checkpoint; one that it lacks had its default.
            where: The checkpoint, for the message.
            **facts: What else must be as it was, and stands in ``saved`` too.

        Raises:
            SettingsError: Naming the settings that differ and may not.
        """
        known = fields_of(type(self))
        now = {field.setting.was: field.name for field in known}
        saved = {now.get(name, name): value for name, value in saved.items()}
        defaults = {field.name: field.default for field in known}
        free = {field.name for field in known if field.setting.free}
        changed = differences({**defaults, **saved}, {**facts, **asdict(self)}, free)
        if changed:
            listed = ", ".join(changed)
            raise SettingsError(f"cannot resume {str(where)!r} with other settings ({listed})")


def fields_of(kind: type[Settings]) -> list[Field]:
    """Return the fields of a settings dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in fields(kind):
        annotated, setting = get_args(hints[field.name])
        found.append(Field(field.name, annotated, field.default, setting))
    return found


def differences(
    saved: Mapping[str, Any], asked: Mapping[str, Any], free: Collection[str] = ()
) -> list[str]:
    """Return "name: old, now new" for what is asked for and was not saved so, but for free names."""
    return [
        f"{name}: {saved.get(name)!r}, now {value!r}"
        for name, value in asked.items()
        if name not in free and plain(saved.get(name)) != plain(value)
    ]


def plain(value: Any) -> Any:
    """Return a value as JSON and YAML have it: tuples are lists, paths are texts."""
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def check_names(what: str, given: Iterable[Any], known: Iterable[str]) -> None:
    """Raise SettingsError for the first name that is not known, with those that come close."""
    known = set(known)
    for name in given:
        if not isinstance(name, str) or name not in known:
            raise SettingsError(f"{what} {name!r} is unknown{close(str(name), known)}")


def close(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return "; close: ..." with up to three known names, or all of a few where none is close.

    ``prefix`` is set before every name that is shown, and takes no part in what is close.
    """
    names = sorted(known)
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    shown = ", ".join(f"{prefix}{match}" for match in matches or names)
    if matches:
        return f"; close: {shown}"
    return f"; there are: {shown}" if len(names) <= 20 else ""


def number_words(whole: bool, low: float, high: float) -> str:
    """Return what numbers are allowed, in words: of a kind, and in a range without infinity."""
    kind = "a whole number" if whole else "a number"
    if low > -math.inf and high < math.inf:
        return f"{kind} in [{low:.10g}, {high:.10g}]"
    kind = kind if whole else "a finite number"
    if low > -math.inf:
        return f"{kind} of at least {low:.10g}"
    return f"{kind} of at most {high:.10g}" if high < math.inf else kind


def _members(kind: Any) -> Iterator[Any]:
    """Yield the types of a union, or the element's of a tuple, or the type itself."""
    if get_origin(kind) in (Union, UnionType, tuple):
        for member in get_args(kind):
            if member is not Ellipsis:
                yield from _members(member)
    else:
        yield kind


def _fits(value: Any, kind: Any, setting: Setting) -> bool:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, member, setting) for member in get_args(kind))
    if origin is Literal:
        return value in get_args(kind)
    if origin is tuple:
        (element,) = _members(kind)
        return isinstance(value, tuple) and all(_fits(entry, element, setting) for entry in value)
    if kind in (int, float):
        number = isinstance(value, int if kind is int else int | float)
        finite = number and not isinstance(value, bool) and math.isfinite(value)
        return finite and setting.low <= value <= setting.high
    return isinstance(value, kind)


def _words(kind: Any, setting: Setting) -> str:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return " or ".join(_words(member, setting) for member in get_args(kind))
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if origin is tuple:
        (element,) = _members(kind)
        return f"a list, each {_words(element, setting)}"
    if kind in (int, float):
        return number_words(kind is int, setting.low, setting.high)
    words = {bool: "true or false", str: "a text", Path: "a path", NoneType: "none"}
    return words.get(kind, "a mapping")


def _reading(text: str, kind: Any) -> Any:
    """Return what a text says, read as a type; the text itself where it is none of that type."""
    if kind is NoneType:
        return None if text.lower() == "none" else text
    if get_origin(kind) is Literal:
        return next((value for value in get_args(kind) if str(value) == text), text)
    if kind not in (int, float, Path):
        return text
    try:
        return kind(text)
    except ValueError:
        return _reading_whole(text) if kind is int else text


def _reading_whole(text: str) -> int | str:
    """Return the whole number that a text such as "1e4" says; the text itself if it is none."""
    try:
        return int(value) if (value := float(text)).is_integer() else text
    except ValueError:
        return text
