"""Which checkpoint of a killed run to go on from."""

from pathlib import Path
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open

from era_rl.runs.folder import checkpoints, newest_intact, read_json


def checkpoint_to_resume(asked: str | bool | None, output_dir: str) -> str | None:
    """Return the checkpoint to go on from, None to begin anew.

    Args:
        asked: `resume_from_checkpoint`: a folder, or true for the newest in `output_dir` that is whole.
        output_dir: Folder of the run's checkpoints.

    Raises:
        ValueError: If there is none, or it is damaged; or none is asked for, and there are some.
    """
    if asked is None or str(asked).lower() == "false":
        if checkpoints(Path(output_dir)):
            raise ValueError(f"out={output_dir!r} holds a run: resume it, or take another folder")
        return None
    if str(asked).lower() != "true":
        if (damaged := damaged_file(Path(str(asked)))) is not None:
            raise ValueError(
                f"resume_from_checkpoint={str(asked)!r} is no whole checkpoint ({damaged}): "
                "give an older one, or true for the newest that is whole"
            )
        return str(asked)
    newest = newest_intact(Path(output_dir), damaged_file)
    if newest is None:
        raise ValueError(f"resume_from_checkpoint=true: no whole checkpoint in {output_dir!r}")
    return str(newest)


def damaged_file(checkpoint: Path) -> str | None:
    """Return the name of a file that was not written to its end, or None.

    transformers writes into the folder itself, trainer_state.json last.
    """
    state = checkpoint / "trainer_state.json"
    try:
        read_json(state)
    except (OSError, ValueError):
        return state.name
    return next((path.name for path in sorted(checkpoint.iterdir()) if not _is_whole(path)), None)


def _is_whole(path: Path) -> bool:
    """Return whether a file of weights or of tensors has all that its header says."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return True
        if path.suffix in (".pt", ".pth"):
            with ZipFile(path) as file:
                return file.testzip() is None
    except (SafetensorError, BadZipFile, OSError):
        return False
    return True
