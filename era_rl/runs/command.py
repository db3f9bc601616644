"""Command lines: arguments made from settings, old names refused, errors as one line."""

import argparse
import errno
import os
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING
from functools import partial
from typing import Any, Literal, NoReturn, get_args, get_origin

from era_rl.runs.settings import Field, Settings, SettingsError, close, fields_of

PASSIVE = "OMP_WAIT_POLICY", "PASSIVE"
"""In the environment when torch is loaded: its threads sleep while they wait for each other. By default
they spin, and where other processes want the cores they do so in the place of what they wait for."""


def set_up_training() -> None:
    """Prepare the process of a command that trains, before torch is loaded."""
    os.environ.setdefault(*PASSIVE)
    warnings.filterwarnings("ignore", message="rich is experimental")  # of SB3's progress bar


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong, and which options come close to a misspelt one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # argparse, before Python 3.14, takes -5e-1 for an option
        self._negative_number_matcher = re.compile(
            r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE
        )

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]  (overloads)
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parse as argparse does, but look for misspelt options first: they hide what is missing."""
        words = sys.argv[1:] if args is None else list(args)
        if self._subparsers is None:  # else the words are a subcommand's, which looks itself
            self._check_options(words)
        return super().parse_known_args(words, namespace)

    def _check_options(self, words: Sequence[str]) -> None:
        shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
        names = [name[2:] for action in shown for name in action.option_strings if name[:2] == "--"]
        for name in (word.partition("=")[0] for word in words if word[:2] == "--"):
            if not any(known.startswith(name) for known in self._option_string_actions):
                self.error(f"option {name} is unknown{close(name[2:], names, '--')}")

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_arguments(
    parser: argparse.ArgumentParser, kind: type[Settings], leave_out: Collection[str] = ()
) -> None:
    """Add an option for every setting of a dataclass; the namespace has only those that are given.

    ``eval_freq`` becomes ``--eval-freq``, a bool ``--flag`` and ``--no-flag``, a tuple one or more
    values; "none" stands for None. A value outside its range is refused as the dataclass refuses it.
    """
    for field in fields_of(kind):
        if field.name in leave_out:
            continue
        setting, flag = field.setting, _flag(field.name)
        flags = [f"-{setting.short}", flag] if setting.short else [flag]
        text = setting.about
        if field.default not in (MISSING, None, ()) and "(default" not in text:
            text = f"{text} (default: {field.default})"
        parser.add_argument(
            *flags,
            dest=field.name,
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%"),
            **_parsing(field),
        )
        if setting.was:
            refuse_old(parser, {_flag(setting.was): flag})


def refuse_old(parser: argparse.ArgumentParser, new_by_old: Mapping[str, str]) -> None:
    """Refuse older options of a command, naming what takes their place."""
    for old, new in new_by_old.items():
        parser.add_argument(
            old,
            action=_Refused,
            nargs="*",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
            const=new,
        )


def count(text: str) -> int:
    """Return a whole number of at least 1 that an argument says (argparse's ``type``)."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number of at least 1")
    return int(text)


def exit_status(
    name: str,
    command: Callable[[], object],
    refused: tuple[type[Exception], ...] = (ValueError, OSError),
    advice: str = "",
    extra: str = "",
) -> int:
    """Run a command and return its exit status, with one line on stderr in the place of a traceback.

    The status is the number that the command returns, or 0; 2 for what is refused, 1 for training that
    diverged or a full disk, 130 for an interruption. ``advice`` is added to the message where a run
    could go on, and ``extra``, which brings what the command imports, where a package is missing. Where
    nobody reads stdout any more (``| head``), the command ends without a word.
    """
    try:
        answer = command()
        sys.stdout.flush()
    except FloatingPointError as error:
        status, text = 1, str(error)
    except KeyboardInterrupt:
        status, text = 130, f"interrupted{advice}"
    except ModuleNotFoundError as error:
        if not extra:
            raise
        status, text = 2, f"{error}: {name} needs the extra {extra}: pip install -e '.[{extra}]'"
    except (OSError, *refused) as error:
        if isinstance(error, BrokenPipeError) and _nobody_reads():
            return 1
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            status, text = 1, f"{error}{advice}"
        elif isinstance(error, refused):
            status, text = 2, str(error)
        else:
            raise
    else:
        return answer if isinstance(answer, int) else 0
    sys.stderr.write(f"{name}: {' '.join(text.split())}\n")
    return status


def _nobody_reads() -> bool:
    """Return whether stdout is a pipe that was closed, and then let go of what was to be written."""
    try:
        sys.stdout.write("\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # or the interpreter would complain at its end that it cannot flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


class _Refused(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None
    ) -> None:
        parser.error(f"{option} is now {self.const}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _parsing(field: Field) -> dict[str, Any]:
    """Return how argparse reads a setting."""
    if field.kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    kinds = (field.kind, *get_args(field.kind))
    only = kinds[1] if kinds[2:] == (type(None),) else field.kind  # X, of X | None
    words = get_args(only) if get_origin(only) is Literal else ()
    metavar = f"{{{','.join(map(str, words))}}}" if words else "VALUE"
    repeated = {"nargs": "+"} if any(get_origin(kind) is tuple for kind in kinds) else {}
    return {"type": partial(_read, field), "metavar": metavar, **repeated}


def _read(field: Field, text: str) -> Any:
    try:
        return field.read(text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
