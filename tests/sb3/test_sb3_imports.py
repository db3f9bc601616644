"""The package names the adapter's public classes; tests/core/test_core_imports.py has what it loads."""

import sys

import pytest

import era_rl
import era_rl.sb3


def test_the_package_names_the_public_classes() -> None:
    assert era_rl.SACERA is era_rl.sb3.SACERA
    assert era_rl.EntropyMonitor is era_rl.sb3.EntropyMonitor
    assert set(era_rl.sb3.__all__) <= set(dir(era_rl.sb3))


def test_a_missing_package_is_said_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """from era_rl import SACERA, where Stable-Baselines3 is not installed."""
    monkeypatch.setitem(sys.modules, "era_rl.sb3", None)
    with pytest.raises(ModuleNotFoundError) as raised:
        _ = era_rl.SACERA
    assert raised.value.__notes__ == ["era_rl.sb3 needs the extra sb3: pip install -e '.[sb3]'"]
