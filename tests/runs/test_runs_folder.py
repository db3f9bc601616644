"""Checkpoints, logs and records of a run's folder."""

from pathlib import Path

import pytest
import torch

from era_rl.runs.folder import (
    checkpoints,
    cut_rows,
    new_checkpoint,
    newest_intact,
    read_state,
    save_state,
    write_json,
)
from era_rl.runs.record import config_hash, provenance, read_record, rounded
from era_rl.runs.settings import SettingsError


def _checkpoint(run: Path, step: int, text: str) -> None:
    with new_checkpoint(run, step) as folder:
        (folder / "a").mkdir()
        (folder / "a" / "file").write_text(text)


def test_a_checkpoint_takes_the_place_of_the_one_before_when_whole(tmp_path: Path) -> None:
    """A failure while writing leaves checkpoint-<step> of before; success leaves the new alone."""
    _checkpoint(tmp_path, 5, "five")

    def fail() -> None:
        with new_checkpoint(tmp_path, 6):
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-5"]
    _checkpoint(tmp_path, 10, "ten")
    _checkpoint(tmp_path, 10, "again")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    assert (tmp_path / "checkpoint-10" / "a" / "file").read_text() == "again"


def test_the_newest_intact_checkpoint_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped byte, a missing file or missing checksums: the one before, with a message."""
    for step in (10, 9, 2):
        _checkpoint(tmp_path / str(step), step, "text")
        (tmp_path / str(step) / f"checkpoint-{step}").rename(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-10" / "a" / "file").write_text("tezt")
    (tmp_path / "checkpoint-9" / "checksums.json").unlink()
    (tmp_path / "checkpoint-best").mkdir()
    assert newest_intact(tmp_path) == tmp_path / "checkpoint-2"
    assert "checkpoint-10 is damaged (a/file): looking for an older" in capsys.readouterr().err
    assert newest_intact(tmp_path, lambda path: None) == tmp_path / "checkpoint-10"
    assert newest_intact(tmp_path / "nothing") is None


@pytest.mark.parametrize("header", ["", "step,value\r\n"])
def test_logs_are_cut_at_a_step(header: str, tmp_path: Path) -> None:
    """Rows with step <= 20 stay, byte by byte; later and torn ones go."""
    path = tmp_path / "log.csv"
    kept = f"{header}10,1\r\n2e1,nan\r\n"
    path.write_text(f"{kept}30,3\r\n5,to", newline="")
    cut_rows(path, 20)
    assert path.read_bytes() == kept.encode()
    cut_rows(tmp_path / "absent.csv", 20)


def test_states_are_read_without_running_code(tmp_path: Path) -> None:
    """save_state and read_state are inverse; what is damaged, absent or of another writer is named."""
    path = tmp_path / "last.pt"
    save_state(path, {"a": torch.ones(2), "b": (1, "x")})
    assert read_state(path, {"a", "b"}, "x")["b"] == (1, "x")
    with pytest.raises(ValueError, match=r"last\.pt' was not written by era_x"):
        read_state(path, {"c"}, "era_x")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"last\.pt' is truncated or no checkpoint"):
        read_state(path, {"a"}, "x")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt' does not exist"):
        read_state(tmp_path / "absent.pt", {"a"}, "x")
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name}' is a folder: name a file in it"):
        read_state(tmp_path, {"a"}, "x")


def test_records_of_other_settings_are_refused(tmp_path: Path) -> None:
    """By hash where there is one, else by the settings; defaults fill in what either lacks."""
    path, config = tmp_path / "a.json", {"lr": 1.0, "steps": 5}
    assert read_record(path, config) is None
    for stored in ({"config_hash": config_hash(config)}, {}):
        write_json(path, {"config": config, **stored, "result": 3})
        record = read_record(path, config)
        assert record is not None
        assert record["result"] == 3
        with pytest.raises(SettingsError, match=r"is of other settings \(lr: 1.0, now 2.0\)"):
            read_record(path, {**config, "lr": 2.0})
    assert read_record(path, {**config, "new": 1}, {"new": 1}) is not None
    path.write_text("[1]")
    with pytest.raises(SettingsError, match="is not the result of a run"):
        read_record(path, config)


def test_provenance_names_versions_and_commit() -> None:
    """Versions of what is installed, the commit of the code, no name of the machine."""
    found = provenance(["torch", "no-such-package"], Path(__file__).parent)
    assert set(found["versions"]) == {"python", "torch"}
    assert len(found["git"]["commit"]) == 40
    assert set(found["machine"]) == {"cpu", "cores", "system"}
    assert rounded(1 / 3) == 0.333333
    assert rounded(float("nan")) is None
