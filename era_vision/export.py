"""A trained classifier as one file for other runtimes: torch.export or ONNX."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from era_rl.runs.folder import in_one_piece
from era_vision.augment import Normalise


def with_pixels(model: nn.Module, state: Mapping[str, Any]) -> nn.Module:
    """Return the model with a checkpoint's normalisation in front: images in [0, 1] to logits."""
    return nn.Sequential(Normalise(state["mean"], state["std"]), model).eval()


def export_model(model: nn.Module, path: str | Path, *, image_size: int) -> None:
    """Write a model of images (batch, 3, H, W), the batch of any size, as .pt2 or .onnx.

    A ``.pt2`` file is read by ``torch.export.load``, ``.onnx`` by ONNX runtimes. The head is part of
    what is written: an ``ERAClassifier`` keeps its floor, its ``.model`` gives raw logits.

    Args:
        model: In evaluation mode.
        path: File to write; its suffix is the format.
        image_size: Height and width.

    Raises:
        ValueError: If the suffix is neither .pt2 nor .onnx, or onnxscript is missing for the latter.
        OSError: If the file cannot be written.
    """
    suffix = Path(path).suffix
    if suffix not in (".pt2", ".onnx"):
        raise ValueError(f"path={str(path)!r} must end in .pt2 (torch.export) or .onnx")
    if suffix == ".onnx" and find_spec("onnxscript") is None:
        raise ValueError(f"path={str(path)!r} needs the extra export: pip install 'era-rl[export]'")
    example = (torch.zeros(2, 3, image_size, image_size),)
    shapes = ({0: torch.export.Dim("batch")},)
    with in_one_piece(Path(path)) as part:
        part.touch()  # what cannot be written is an error before the work
        if suffix == ".onnx":
            options: Any = {"dynamo": True, "verbose": False, "external_data": False}
            torch.onnx.export(model, example, part, dynamic_shapes=shapes, **options)
            return
        program = torch.export.export(model, example, dynamic_shapes=shapes)
        with part.open("wb") as file:
            torch.export.save(program, file)
