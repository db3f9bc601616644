"""Devices that are asked for by name."""

import torch

from era_rl.runs.settings import SettingsError

ALL_THREADS = torch.get_num_threads()
"""Threads that torch would take: the cores there are, unless ``OMP_NUM_THREADS`` says otherwise."""

PRODUCTS_A_THREAD = 2**25
"""Multiplications in the largest matrix product of a batch, from which one more thread pays."""


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


def set_threads(threads: int, products: int) -> None:
    """Set torch's threads to a number, or below 1 to as many as networks gain by.

    Between two small products threads wait for each other, and where other processes want the same
    cores, for their time slices (``benchmarks.load`` measures it).

    Args:
        threads: How many, or below 1 for one in every ``PRODUCTS_A_THREAD`` multiplications.
        products: Multiplications of their largest matrix product, of a batch's rows by a layer.
    """
    if threads < 1:
        threads = max(1, min(products // PRODUCTS_A_THREAD, ALL_THREADS))
    torch.set_num_threads(threads)


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
