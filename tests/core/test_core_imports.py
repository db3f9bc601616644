"""Importing a part loads that part's dependencies and no more."""

import subprocess
import sys

import pytest

WATCHED = {
    "torch",
    "tensordict",
    "torchrl",
    "stable_baselines3",
    "gymnasium",
    "torchvision",
    "transformers",
    "trl",
    "mujoco",
    "dm_control",
    "matplotlib",
}


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nsys.stdout.write(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return WATCHED & set(result.stdout.split())


def test_the_core_needs_torch_alone_and_tensordict_where_it_is_used() -> None:
    statement = "import era_rl.core; from era_rl import TruncatedGaussianHead"
    assert _loaded_by(statement) == {"torch"}
    used = f"{statement}; TruncatedGaussianHead(2).as_tensordict_module()"
    assert _loaded_by(used) == {"torch", "tensordict"}


def test_the_networks_need_torch_alone() -> None:
    assert _loaded_by("import era_rl.networks") == {"torch"}


def test_the_package_alone_loads_nothing_heavy() -> None:
    assert "stable_baselines3" not in _loaded_by("import era_rl; dir(era_rl)")


def test_unknown_names_are_attribute_errors() -> None:
    import era_rl

    assert set(dir(era_rl)) >= {"TruncatedNormal", "gaussian_era"}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = era_rl.nothing
