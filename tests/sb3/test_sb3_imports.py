"""The package names the adapter's public classes; tests/core/test_core_imports.py has what it loads."""

import era_rl
import era_rl.sb3


def test_the_package_names_the_public_classes() -> None:
    assert era_rl.SACERA is era_rl.sb3.SACERA
    assert era_rl.EntropyMonitor is era_rl.sb3.EntropyMonitor
    assert set(era_rl.sb3.__all__) <= set(dir(era_rl.sb3))
