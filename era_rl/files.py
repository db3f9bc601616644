"""Files of runs, for every package: written in one piece, and in a folder that one run has."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FolderError(ValueError):
    """A folder in which a run cannot work."""


@contextmanager
def in_one_piece(path: Path) -> Iterator[Path]:
    """Give a path to write to, and put what was written in the place of ``path`` at the end.

    ``path`` is at every moment absent, old or complete. Where writing fails, on a full disk say, what
    was written so far is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_json(path: Path, content: Any) -> None:
    """Write data as JSON, in one piece."""
    with in_one_piece(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Return the data of a JSON file.

    Raises:
        ValueError: If the file is truncated, or no JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # of json, or of a text that is not UTF-8
        raise ValueError(f"{path} is truncated or no JSON ({error}): remove it") from error


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, until the block or the process ends.

    Raises:
        FolderError: If another process holds it, or it cannot be written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = (Path(folder) / "lock").open("w")
    except OSError as error:
        raise FolderError(f"folder={str(folder)!r} must be a writable folder: {error}") from error
    with file:
        try:
            _lock(file)
        except OSError:
            raise FolderError(
                f"folder={str(folder)!r} is being worked on by another process: wait for its end, or "
                "take another folder"
            ) from None
        yield
