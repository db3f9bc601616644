"""A run's folder: one process has it, files are written in one piece, checkpoints have checksums."""

import json
import shutil
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from zlib import crc32

from era_rl.runs.settings import SettingsError

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


CHECKSUMS = "checksums.json"
"""CRC-32 by file of a checkpoint: a run goes on only from files that are as they were written."""


class FolderError(SettingsError):
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


def writable(folder: Path) -> Path:
    """Return the folder that ``--out`` names, made if it is not there: asked before what takes time.

    Raises:
        FolderError: If it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise FolderError(f"--out {folder} must be a writable folder: {error}") from error


def writable_file(path: Path) -> None:
    """Raise FolderError if the file that ``--out`` names cannot be written, or is a folder."""
    if path.is_dir():
        raise FolderError(f"--out {path} must be a file: it is a folder")
    writable(path.parent)


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


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data for :func:`read_state`, in one piece."""
    import torch  # takes a second to load: a command's arguments are read before

    # a file, for a full disk is an OSError then
    with in_one_piece(path) as part, part.open("wb") as file:
        torch.save(dict(state), file)


def read_state(path: Path, needed: Collection[str], writer: str) -> dict[str, Any]:
    """Return what :func:`save_state` wrote, on the CPU, read without running code from it.

    Args:
        path: The file.
        needed: Keys that it must have.
        writer: What writes such checkpoints, for the message.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, no checkpoint, or one of another writer.
    """
    import torch

    if not path.is_file():
        what = "is a folder: name a file in it" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"checkpoint={str(path)!r} {what}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # what is no pickle is IndexError, KeyError, ValueError and more
        raise ValueError(
            f"checkpoint={str(path)!r} is truncated or no checkpoint: without it, a run begins anew"
        ) from error
    if not isinstance(state, dict) or not set(needed) <= state.keys():
        raise ValueError(f"checkpoint={str(path)!r} was not written by {writer}")
    return state


def cut_rows(path: Path, step: int) -> None:
    """Remove the rows after a step, its first column, and a torn last one from a CSV log."""
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = [row for row in file if row.endswith("\n")]
    kept = [row for row in rows if (_number(row.partition(",")[0]) or 0.0) <= step]
    with in_one_piece(path) as part, part.open("w", newline="") as file:
        file.writelines(kept)


def checkpoints(run: Path) -> list[Path]:
    """Return the folders ``checkpoint-<step>`` of a run, the newest last."""
    found = (path for path in run.glob("checkpoint-*") if path.name[11:].isdecimal())
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Return the step at which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


@contextmanager
def new_checkpoint(run: Path, step: int) -> Iterator[Path]:
    """Give a folder to write a checkpoint to, which at the end takes the place of those before.

    It has another name until it is whole: at every moment the newest ``checkpoint-<step>`` is complete.
    """
    folder, unfinished = run / f"checkpoint-{step}", run / "checkpoint.tmp"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    write_json(unfinished / CHECKSUMS, dict(_checksums(unfinished)))
    older = checkpoints(run)
    if folder in older:  # damaged: the run went on from one before it
        discard(folder)
        older.remove(folder)
    unfinished.rename(folder)
    for checkpoint in older:
        discard(checkpoint)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint: killed at any moment, none of its name is left that is not whole."""
    doomed = checkpoint.with_name("checkpoint.old")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def damaged_file(checkpoint: Path) -> str | None:
    """Return the name of a file that is not as :func:`new_checkpoint` was given it, or None."""
    try:
        expected = read_json(checkpoint / CHECKSUMS)
    except (OSError, ValueError):
        return CHECKSUMS
    found = dict(_checksums(checkpoint))
    return next((name for name, value in expected.items() if found.get(name) != value), None)


def newest_intact(run: Path, damaged: Callable[[Path], str | None] = damaged_file) -> Path | None:
    """Return the newest checkpoint of a run that is not damaged, and say which are.

    Args:
        run: The folder of the checkpoints.
        damaged: Returns the name of a damaged file of a checkpoint, or None.
    """
    for checkpoint in reversed(checkpoints(run)):
        name = damaged(checkpoint)
        if name is None:
            return checkpoint
        sys.stderr.write(f"{checkpoint} is damaged ({name}): looking for an older checkpoint\n")
    return None


def _checksums(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield path and CRC-32 of every file of a checkpoint but that of the checksums."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != CHECKSUMS:
            checksum = 0
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    checksum = crc32(block, checksum)
            yield name, checksum


def _number(text: str) -> float | None:
    """Return a number, or None for the names in a header."""
    try:
        return float(text)
    except ValueError:
        return None
