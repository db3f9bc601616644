"""Devices that are asked for by name."""

import torch

from era_rl.runs.settings import SettingsError


def check_device(device: str | torch.device) -> None:
    """Raise ValueError unless tensors can be made on a torch device of that name, or "auto"."""
    if str(device) == "auto":
        return
    try:
        torch.zeros(1, device=device).item()  # "meta" is a device, but computes nothing
    except (RuntimeError, AssertionError) as error:  # torch's errors for a device that is not there
        raise SettingsError(
            f"device={str(device)!r} must be a usable torch device, here one of auto, "
            + ", ".join(available_devices())
        ) from error


def resolved_device(device: str) -> str:
    """Return the name of a usable torch device: for "auto" CUDA where it is available, else the CPU.

    CUDA's has an index: to some libraries "cuda" is another device than "cuda:0".

    Raises:
        ValueError: As :func:`check_device`.
    """
    check_device(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def available_devices() -> list[str]:
    """Return the names of the devices of this machine, the CPU first."""
    if not torch.accelerator.is_available():
        return ["cpu"]
    accelerator = torch.accelerator.current_accelerator()
    assert accelerator is not None
    return ["cpu", *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
