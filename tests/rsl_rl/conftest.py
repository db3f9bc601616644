"""rsl_rl's tests are skipped where it is not installed."""

import pytest

pytest.importorskip("rsl_rl")
