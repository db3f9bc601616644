"""Importing a part loads that part's dependencies and no more; public names resolve on first use."""

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

import era_rl.sb3


def loaded_after(*statements: str) -> list[set[str]]:
    """Return the names of the modules that are loaded after each statement of one interpreter."""
    shown = "sys.stdout.write(' '.join(sys.modules) + '\\n')"
    code = "\n".join(["import sys", *(f"{statement}\n{shown}" for statement in statements)])
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return [set(line.split()) for line in result.stdout.splitlines()]


WATCHED = {
    *("torch", "tensordict", "torchrl", "stable_baselines3", "gymnasium", "torchvision"),
    *("transformers", "trl", "mujoco", "dm_control", "matplotlib", "onnx", "onnxruntime"),
    "torch._dynamo",
}
STAGES = {
    "import era_rl; dir(era_rl)": set(),
    "import era_rl.core; from era_rl import TruncatedGaussianHead": {"torch"},
    "import era_rl.networks": set(),
    "import era_rl.sb3": {"stable_baselines3", "gymnasium"},
    "TruncatedGaussianHead(2).as_tensordict_module()": {"tensordict", "torch._dynamo"},
}
"""Statements, and what each adds to what is loaded."""


def test_each_part_loads_what_it_needs_and_no_more() -> None:
    """One interpreter: torch takes seconds to load, so a part comes after those that it builds on."""
    before: set[str] = set()
    for (statement, added), modules in zip(STAGES.items(), loaded_after(*STAGES), strict=True):
        found = WATCHED & modules
        assert found - before == added, statement
        before = found


RL = {"stable_baselines3", "gymnasium", "torchrl"}
SB3 = {"stable_baselines3", "sb3_contrib", "era_rl.sb3"}


@pytest.mark.parametrize(
    ("statement", "needed", "others"),
    [
        (
            "import era_rl.runs.settings, era_rl.runs.command, era_rl.runs.folder, era_rl.runs.record",
            set(),
            {*RL, "tensordict", "yaml"},
        ),
        (
            "import era_rl.torchrl.trainer",
            {"torchrl"},
            {*SB3, "era_vision", "era_llm", "trl"},
        ),
        ("import era_rl.rsl_rl", {"rsl_rl.modules.distribution"}, {*SB3, "gymnasium", "torchrl"}),
        (
            "from era_llm import era_logps",
            set(),
            {*RL, "torchvision", "era_rl", "trl", "transformers"},
        ),
        pytest.param("from era_llm import GRPOERATrainer", {"trl"}, RL, marks=pytest.mark.slow),
    ],
    ids=["runs", "torchrl", "rsl_rl", "era_llm", "trainers"],
)
def test_an_adapter_loads_no_other_host(statement: str, needed: set[str], others: set[str]) -> None:
    if "rsl_rl" in statement and find_spec("rsl_rl") is None:
        pytest.skip("rsl_rl is not installed")
    (modules,) = loaded_after(statement)
    assert needed <= modules
    assert not others & modules


def test_era_vision_loads_no_reinforcement_learning_library() -> None:
    """Names load on first use; the head needs torch and tensordict alone."""
    named, head, trainer = loaded_after(
        "import era_vision", "era_vision.ERAHead", "era_vision.Trainer, era_vision.export_model"
    )
    assert not {"torch", "torchvision"} & named
    assert "torchvision" not in head
    assert not {*RL, "era_llm"} & trainer


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of TorchRL and transformers, of themselves
@pytest.mark.parametrize(
    "name", ["era_rl", "era_rl.sb3", "era_rl.torchrl", "era_vision", "era_llm"]
)
def test_every_public_name_resolves_and_is_listed(name: str) -> None:
    package = import_module(name)
    for public in package.__all__:
        found = getattr(package, public)
        assert found.__name__ == public or public == "ERAParamExtractor"  # another's other name
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = package.nothing


def test_the_package_names_the_public_classes() -> None:
    assert era_rl.SACERA is era_rl.sb3.SACERA
    assert era_rl.EntropyMonitor is era_rl.sb3.EntropyMonitor


def test_a_missing_package_is_said_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """from era_rl import SACERA, where Stable-Baselines3 is not installed."""
    monkeypatch.setitem(sys.modules, "era_rl.sb3", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        _ = era_rl.SACERA
    assert raised.value.__notes__ == ["era_rl.sb3 needs the extra sb3: pip install -e '.[sb3]'"]
