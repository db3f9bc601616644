"""Packing wheels for a GPU machine without network, and what it does with them."""

import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import pack
from benchmarks.gpu.pack import PackError

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def write_wheel(path: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)


def test_every_package_has_a_version() -> None:
    wanted = pack.requirements(pack.PACKAGES.read_text(), CONSTRAINTS.read_text())
    assert all(line.count("==") == 1 for line in wanted)
    names = [line.partition("==")[0] for line in wanted]
    assert len(names) == len(set(names))
    with pytest.raises(PackError, match=r"packages nowhere have no version in constraints\.txt"):
        pack.requirements("# comment\nnowhere\na==1", "b==2")


def test_strip_leaves_out_folders_and_their_records(tmp_path: Path) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    record = "a/big/x,hash,1\na/y.py,hash,1\n"
    write_wheel(wheel, {"a/big/x": "x" * 100, "a/y.py": "y", "a-1.dist-info/RECORD": record})
    pack.strip(wheel, ("a/big/",))
    with zipfile.ZipFile(wheel) as stripped:
        assert stripped.namelist() == ["a/y.py", "a-1.dist-info/RECORD"]
        assert stripped.read("a-1.dist-info/RECORD") == b"a/y.py,hash,1\n"
    assert list(tmp_path.iterdir()) == [wheel]


def test_pack_refuses_what_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def download(wanted: list[str], python: str, folder: Path) -> None:
        assert python == "3.12"
        (folder / "big-1-py3-none-any.whl").write_bytes(bytes(3_000_000))
        write_wheel(
            folder / "dm_control-1-py3-none-any.whl", {"dm_control/locomotion/x": "x" * 999}
        )

    monkeypatch.setattr(pack, "download", download)
    assert gpu.main(["pack", "--out", str(tmp_path / "wheels"), "--max-mb", "4"]) == 0
    assert capsys.readouterr().out.endswith("wheels: 3.0 MB\n")
    assert gpu.main(["pack", "--out", str(tmp_path / "wheels"), "--max-mb", "2"]) == 2
    assert "has 3.0 MB, --max-mb is 2; largest: big-1" in capsys.readouterr().err


def test_run_installs_tests_and_measures_within_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out, wheels = tmp_path / "out", tmp_path / "wheels"
    arguments = ["run", "--wheels", str(wheels), "--out", str(out), "--budget-minutes", "2"]
    assert gpu.main(arguments) == 2
    assert "has no wheels" in capsys.readouterr().err
    wheels.mkdir()
    (wheels / "a-1-py3-none-any.whl").touch()
    started: list[list[str]] = []

    def step(command: list[str], site: Path, log: Path, seconds: float) -> int:
        assert 0.0 < seconds <= (60.0 if "pytest" in command else 120.0)
        started.append(command)
        log.write_text(command[2])
        return int("pytest" in command)

    monkeypatch.setattr(gpu, "_step", step)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "TEST_SECONDS", 60.0)
    for path in ("benchmarks/results/fast-gpu/a.json", "runs/benchmarks/fast-gpu/run/trace.csv"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(path)
    (tmp_path / "runs/benchmarks/fast-gpu/run/model.zip").write_text("large")
    assert gpu.main(arguments) == 1
    assert [command[2] for command in started] == ["pip", "pytest", "benchmarks"]
    assert "--time-limit=1.50" in started[2]  # half a minute for imports, and to end what it runs
    statuses = {
        n: s["exit_status"] for n, s in json.loads((out / "summary.json").read_text()).items()
    }
    assert statuses == {"install": 0, "tests": 1, "suite": 0}
    assert {path.name for path in out.iterdir()} == {"summary.json", "results.tar.gz"}
    archive = tmp_path / "earlier.tar.gz"
    shutil.move(out / "results.tar.gz", archive)
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "benchmarks")
    assert gpu.main([*arguments, "--earlier", str(archive)]) == 1
    gone_on = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")]
    for path in ("benchmarks/results/fast-gpu/a.json", "runs/benchmarks/fast-gpu/run/trace.csv"):
        assert (tmp_path / path).read_text() == path
    assert {x for x in gone_on if "gpu/" in x and "fast" not in x} == {
        f"runs/gpu/{name}.log" for name in ("install", "tests", "suite")
    }
    assert not [x for x in gone_on if x.endswith("model.zip")]
    assert gpu.main([*arguments, "--earlier", "nowhere"]) == 2
    assert "--earlier nowhere is not a file" in capsys.readouterr().err


def test_a_step_sees_what_was_installed_and_ends_with_the_time(tmp_path: Path) -> None:
    (tmp_path / "installed.py").write_text("value = 1")
    log = tmp_path / "log"
    code = "import installed, time; print(installed.value, flush=True); time.sleep(60)"
    assert gpu._step([sys.executable, "-c", code], tmp_path, log, 2.0) == 124
    assert log.read_text() == "1\n"
