"""compile="auto" compiles where it has been seen to pay on this machine."""

from pathlib import Path
from typing import Any

import pytest
from sb3_family import BOX, small

from era_rl.sb3 import payoff
from era_rl.sb3.payoff import FIRST, Payoff

PATH = payoff._path
KIND = {"algorithm": "PPOERA", "threads": 1}
LEAST = 5_000


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of compiled functions."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(payoff, "_path", PATH)
    return tmp_path


class Clock:
    """In the place of a process's clock: what is added passes."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(payoff, "time", found)
    return found


def trained(clock: Clock, call: float, compiling: float | None = None) -> None:
    """Note a training whose calls take so many seconds, the first of them compiling besides."""
    times = Payoff()
    for number in range(FIRST + 20):
        with times.timing():  # acting
            clock.now += 2.0 * call
        with times.timing(10):
            clock.now += 8.0 * call + (compiling or 0.0) * (number == 0)
    times.note(KIND, compiling is not None)


def test_compiles_where_it_saves_more_than_it_takes(clock: Clock) -> None:
    """calls (t_eager - t_compiled) > t_compiling: of 1,000 calls 200 s are saved."""
    assert Payoff.pays(KIND, LEAST, LEAST)[0]
    assert not Payoff.pays(KIND, LEAST - 1, LEAST)[0]
    trained(clock, 0.5)
    assert Payoff.pays(KIND, LEAST, LEAST)[0]  # still unknown
    trained(clock, 0.3, compiling=100.0)
    assert Payoff.pays(KIND, 1_000, LEAST) == (
        True,
        "1000 calls save 200 s and compiling takes 100 s",
    )
    assert Payoff.pays(KIND, 501, LEAST)[0]
    assert not Payoff.pays(KIND, 499, LEAST)[0]
    assert not Payoff.pays(KIND, 0, LEAST)[0]
    assert not Payoff.pays({**KIND, "threads": 2}, 1_000, LEAST)[0]


def test_what_is_no_faster_is_never_compiled(clock: Clock) -> None:
    trained(clock, 0.5)
    trained(clock, 0.5, compiling=1.0)
    assert not Payoff.pays(KIND, 10**9, LEAST)[0]


def test_short_trainings_and_torn_notes_say_nothing(clock: Clock, cache: Path) -> None:
    trained(clock, 1e-4)
    assert not list(cache.rglob("*.json"))
    trained(clock, 0.5)
    (file,) = cache.rglob("*.json")
    file.write_text('{"eager": 0.')
    assert Payoff.pays(KIND, LEAST, LEAST)[0]
    trained(clock, 0.3, compiling=100.0)
    assert '"compiled"' in file.read_text()


@pytest.mark.parametrize("name", ["SACERA", "PPOERA"])
def test_a_training_notes_its_times(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payoff, "MIN_SECONDS", 0.0)
    model: Any = small(name, BOX)
    assert model.compile == "auto"
    model.learn(32 * (FIRST + 2))
    (file,) = cache.rglob("*.json")
    assert '"eager"' in file.read_text()
    other: Any = small(name, BOX, policy_kwargs={"net_arch": [8]})
    other.learn(32 * (FIRST + 2))
    assert len(list(cache.rglob("*.json"))) == 2
