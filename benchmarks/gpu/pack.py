"""Gathers wheels for another machine, without what is not needed there."""

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGES = Path(__file__).with_name("packages.txt")
GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)
"""Minor versions of glibc 2 whose wheels are taken; pip matches each exactly."""
LEFT_OUT = {"dm_control": ("dm_control/locomotion/", "dm_control/blender/")}
"""Folders left out of wheels: the assets of locomotion alone are a third of what is packed."""


class PackError(Exception):
    """A pack that cannot be made or used; the message says why."""


def requirements(packages: str, constraints: str) -> list[str]:
    """Return the packages with versions, those without one as in the constraints.

    Raises:
        PackError: For a package that the constraints do not have.
    """
    pinned = {line.partition("==")[0].lower(): line for line in constraints.split()}
    wanted = [line.strip() for line in packages.splitlines() if line and not line.startswith("#")]
    missing = [name for name in wanted if "==" not in name and name not in pinned]
    if missing:
        raise PackError(f"packages {', '.join(missing)} have no version in constraints.txt")
    return [name if "==" in name else pinned[name] for name in wanted]


def download(wanted: list[str], python: str, folder: Path) -> None:
    """Download wheels for Linux on x86-64 with pip, without their dependencies.

    Raises:
        PackError: If pip fails.
    """
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in GLIBC]
    platforms += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp"]
    result = subprocess.run([*command, *platforms, "--dest", str(folder), *wanted])
    if result.returncode != 0:
        raise PackError(f"pip download failed with exit status {result.returncode}")


def strip(wheel: Path, prefixes: tuple[str, ...]) -> None:
    """Rewrite a wheel without the files under the prefixes, and without their lines in RECORD."""
    stripped = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(stripped, "w") as new:
        for info in old.infolist():
            if info.filename.startswith(prefixes):
                continue
            content = old.read(info)
            if info.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(x for x in lines if not x.startswith(prefixes)).encode()
            new.writestr(info, content, zipfile.ZIP_DEFLATED, 9)
    stripped.replace(wheel)


def pack(folder: Path, python: str, max_mb: float, constraints: Path) -> float:
    """Fill a folder with wheels and return their size in MB (10^6 bytes).

    Raises:
        PackError: If a package has no version or no wheel, or all are larger than ``max_mb``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in folder.glob("*.whl"):  # of another version, pip would refuse to install both
        wheel.unlink()
    download(requirements(PACKAGES.read_text(), constraints.read_text()), python, folder)
    for name, prefixes in LEFT_OUT.items():
        for wheel in folder.glob(f"{name}-*.whl"):
            strip(wheel, prefixes)
    sizes = sorted(((w.stat().st_size / 1e6, w.name) for w in folder.glob("*.whl")), reverse=True)
    total = sum(size for size, _ in sizes)
    if total > max_mb:
        largest = ", ".join(f"{name} {size:.1f}" for size, name in sizes[:3])
        raise PackError(f"{folder} has {total:.1f} MB, --max-mb is {max_mb:g}; largest: {largest}")
    return total
