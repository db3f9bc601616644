"""Each extra brings all that its part imports: what dev installs besides would hide what is missing."""

import ast
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OURS = {"era_rl", "era_vision", "era_llm", "benchmarks", "zoo_configs"}
NOT_ON_THE_INDEX = {"humanoid_bench"}
PARTS = {
    "": [
        *("era_rl/core", "era_rl/devices.py", "era_rl/runs/settings.py", "era_rl/runs/command.py"),
        *("era_rl/runs/folder.py", "era_rl/runs/record.py", "era_rl/runs/agent.py"),
    ],
    "sb3": ["era_rl/sb3", "era_rl/runs/yaml_files.py", "era_rl/demo.py", "era_rl/demo_run.py"],
    "torchrl": ["era_rl/torchrl"],
    "bench": [*("era_rl/envs", "era_rl/zoo"), *("benchmarks/*.py", "benchmarks/gpu")],
    "rsl_rl": ["era_rl/rsl_rl"],
    "vision": ["era_vision", "era_rl/runs/yaml_files.py", "benchmarks/vision"],
    "llm": ["era_llm"],
    "all": ["benchmarks/llm"],
}


@cache
def _brought(name: str, extras: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the distributions that come with a requirement, itself included."""
    found = {canonicalize_name(name)}
    for requirement in _requirements(name, extras):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
            found |= _brought(requirement.name, frozenset(requirement.extras))
    return frozenset(found)


def _requirements(name: str, extras: frozenset[str]) -> list[Requirement]:
    if name == "era-rl":  # what is installed editably may be of an older pyproject.toml
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        optional = project["optional-dependencies"]
        lines = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    else:
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # for another platform or Python
            lines = []
    return [Requirement(line) for line in lines]


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("extra", PARTS)
def test_an_extra_brings_what_its_part_imports(extra: str) -> None:
    brought = _brought("era-rl", frozenset({extra} - {""}))
    missing = set()
    known = sys.stdlib_module_names | OURS | NOT_ON_THE_INDEX
    for pattern in PARTS[extra]:
        for place in ROOT.glob(pattern):
            for file in [place] if place.is_file() else place.rglob("*.py"):
                for module in {*_imported(file)} - known:
                    names = {canonicalize_name(name) for name in _distributions().get(module, [])}
                    if not names & brought:
                        missing.add((str(file.relative_to(ROOT)), module))
    assert not missing, f"extra {extra!r} lacks {sorted(missing)}"
