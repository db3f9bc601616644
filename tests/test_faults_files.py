"""Files and folders of runs under faults: a full disk, a kill, damage, two processes at once."""

import errno
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from era_rl.devices import available_devices, check_device
from era_rl.runs.folder import FolderError, in_one_piece, locked, read_json, save_state, write_json


def test_a_write_that_fails_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_json(path, {"a": 1})

    def half(part: Path) -> None:
        part.write_text("half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"), in_one_piece(path) as part:
        half(part)
    assert read_json(path) == {"a": 1}
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


# the device whose every write fails as on a full disk
FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")
@pytest.mark.parametrize("writer", ["json", "state"])
def test_a_full_disk_is_an_oserror_and_leaves_the_file_before(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(value: int) -> None:
        if writer == "json":
            write_json(path, [value] * 10_000)
        else:
            save_state(path, {"a": torch.full((10_000,), value)})

    write(1)
    before = path.read_bytes()
    path.with_name("file.part").symlink_to(FULL)
    with pytest.raises(OSError, match="No space left") as caught:
        write(2)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    write(2)
    assert path.read_bytes() != before


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"PK\x03\x04"], ids=range(4))
def test_damaged_json_names_its_path(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"result\.json is truncated or no JSON .*: remove it"):
        read_json(path)


def _hold(folder: Path) -> None:
    with locked(folder):
        (folder / "held").touch()
        get_context("fork").Event().wait()


def test_a_folder_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    process = get_context("fork").Process(target=_hold, args=(tmp_path,))
    process.start()
    while not (tmp_path / "held").exists():
        assert process.is_alive()
    with (
        pytest.raises(FolderError, match="is being worked on by another process"),
        locked(tmp_path),
    ):
        pass
    process.kill()
    process.join()
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        FolderError, match=r"folder='.*file/runs' must be a writable folder: .*Not a"
    ):
        locked(tmp_path / "file" / "runs").__enter__()


@pytest.mark.parametrize("device", ["cuda:99", "floppy", "cpu:x", "meta"])
def test_a_device_that_is_absent_is_named_with_those_there_are(device: str) -> None:
    message = f"device='{device}' must be a usable torch device, here one of auto, cpu"
    with pytest.raises(ValueError, match=message):
        check_device(device)
    for name in ("auto", *available_devices()):
        check_device(name)
