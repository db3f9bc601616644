"""The package loads what it uses and no more."""

import subprocess
import sys

import pytest

import era_llm

HEAVY = (
    "gymnasium",
    "stable_baselines3",
    "torchvision",
    "torchrl",
    "era_rl",
    "trl",
    "transformers",
)


def _loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nsys.stdout.write(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


def test_the_functions_load_neither_trl_nor_other_adapters() -> None:
    assert not _loaded_after("from era_llm import era_logps") & set(HEAVY)


@pytest.mark.slow
def test_the_trainers_load_no_environment_library() -> None:
    loaded = _loaded_after("from era_llm import GRPOERATrainer")
    assert "trl" in loaded
    assert not loaded & {"gymnasium", "stable_baselines3", "torchrl"}


def test_every_public_name_resolves_and_is_listed() -> None:
    for name in era_llm.__all__:
        assert getattr(era_llm, name).__name__ == name
    assert set(era_llm.__all__) <= set(dir(era_llm))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = era_llm.nothing
