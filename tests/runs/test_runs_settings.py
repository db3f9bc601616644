"""Settings are checked, read and compared as their dataclass says, wherever they come from."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from era_rl.runs.command import Parser, add_arguments, exit_status
from era_rl.runs.settings import Setting, Settings, SettingsError, plain
from era_rl.runs.yaml_files import override, parse, read_mapping, write_mapping


@dataclass(frozen=True, kw_only=True)
class Example(Settings):
    """Every type that a setting may have."""

    steps: Annotated[int, Setting("steps", low=1, short="n", was="total_steps")] = 10
    tau: Annotated[float, Setting("share", low=0.0, high=1.0)] = 0.5
    floor: Annotated[Literal["exact", "gaussian"], Setting("kind")] = "exact"
    delta: Annotated[float | Literal["auto"] | None, Setting("nats, 100% of them", low=0.0)] = None
    hidden: Annotated[tuple[int, ...], Setting("widths", low=1)] = (64, 64)
    compile: Annotated[bool, Setting("compile", free=True)] = False
    out: Annotated[Path, Setting("folder", free=True)] = Path("runs")
    name: Annotated[str | None, Setting("name")] = None
    sign: Annotated[Literal["up", "down"] | None, Setting("sign")] = None


WRONG = [
    ("steps", 0, "steps=0 must be a whole number of at least 1"),
    ("steps", 1.5, "steps=1.5 must be a whole number of at least 1"),
    ("steps", True, "steps=True must be a whole number"),
    ("tau", float("nan"), r"tau=nan must be a number in \[0, 1\]"),
    ("tau", 2, r"tau=2 must be a number in \[0, 1\]"),
    ("tau", "0.5", "tau='0.5' must be a number"),
    ("floor", "exakt", "floor='exakt' must be one of exact, gaussian"),
    (
        "delta",
        float("inf"),
        "delta=inf must be a finite number of at least 0 or one of auto or none",
    ),
    ("hidden", [64, 0], r"hidden=\(64, 0\) must be a list, each a whole number of at least 1"),
    ("hidden", 64, "hidden=64 must be a list"),
    ("compile", 1, "compile=1 must be true or false"),
    ("out", 3, "out=3 must be a path"),
    ("name", 3, "name=3 must be a text or none"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: Any, message: str) -> None:
    """Type and range of the annotation: name=value must be ..."""
    with pytest.raises(SettingsError, match=message):
        Example(**{name: value})


def test_names_are_checked() -> None:
    """An unknown name brings close ones, an old one its successor."""
    with pytest.raises(SettingsError, match="setting 'step' is unknown; close: steps"):
        Example.of({"step": 1})
    with pytest.raises(SettingsError, match="the setting 'total_steps' is now 'steps'"):
        Example.of({"total_steps": 1})


def _parsed(arguments: str) -> Example:
    parser = Parser(prog="x")
    add_arguments(parser, Example)
    return Example(**vars(parser.parse_args(arguments.split())))


def test_the_command_line_gives_what_python_gives() -> None:
    """Example(...) == the options parsed; only those given are set."""
    assert _parsed("") == Example()
    assert _parsed("-n 3 --tau 1e-3 --delta auto --hidden 1 2 --compile --out a/b --name none") == (
        Example(steps=3, tau=1e-3, delta="auto", hidden=(1, 2), compile=True, out=Path("a/b"))
    )
    assert _parsed("--delta none --name x --no-compile") == Example(name="x")
    assert _parsed("--delta 2").delta == 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--tau 2", "argument --tau: '2' must be a number in [0, 1]"),
        ("--steps 1.5", "argument -n/--steps: '1.5' must be a whole number of at least 1"),
        ("--floor exakt", "argument --floor: 'exakt' must be one of exact, gaussian"),
        ("--total-steps 5", "--total-steps is now --steps"),
        ("--total-steps=5", "--total-steps is now --steps"),
        ("--step 5 --flor=exact", "option --flor is unknown; close: --floor"),
        ("--n 1 --hiden 1 2", "option --hiden is unknown; close: --hidden"),
        ("5", "unrecognized arguments: 5"),
    ],
)
def test_the_command_line_refuses(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the dataclass refuses, old names and misspelt ones, with status 2 and one line."""
    with pytest.raises(SystemExit, match="2"):
        _parsed(arguments)
    assert capsys.readouterr().err == f"x: {message}; see x --help\n"


def test_a_misspelt_option_of_a_subcommand_brings_the_subcommands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """x train --tua 1, without the positional argument that train needs: of train's options --tau."""
    parser = Parser(prog="x")
    training = parser.add_subparsers(required=True).add_parser("train")
    training.add_argument("file")
    add_arguments(training, Example)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["train", "--tua", "1"])
    shown = capsys.readouterr().err
    assert shown == "x train: option --tua is unknown; close: --tau, --delta; see x train --help\n"


def test_help_lists_settings_with_defaults_and_no_old_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """--help has each about, each default, and a per cent sign."""
    with pytest.raises(SystemExit, match="0"):
        _parsed("--help")
    text = capsys.readouterr().out
    for part in (
        "-n VALUE, --steps VALUE",
        "--sign {up,down}",
        "--name VALUE",
        "steps (default: 10)",
        "100% of them",
    ):
        assert part in text
    assert "total-steps" not in text


def test_a_run_resumes_with_its_settings_and_changed_free_ones() -> None:
    """Differences but in free settings are refused; old names and missing settings are read."""
    config = Example(steps=5)
    saved = {**plain(asdict(config)), "algorithm": "sac"}
    Example(steps=5, compile=True, out=Path("b")).check_resumes(saved, "f", algorithm="sac")
    Example(steps=5).check_resumes({"total_steps": 5}, "f")
    with pytest.raises(
        SettingsError, match=r"cannot resume 'f' .*\(steps: 5, now 6, tau: 0.5, now"
    ):
        Example(steps=6, tau=0.1).check_resumes(saved, "f")
    with pytest.raises(SettingsError, match=r"\(algorithm: 'sac', now 'ppo'\)"):
        config.check_resumes(saved, "f", algorithm="ppo")


def test_yaml_is_data(tmp_path: Path) -> None:
    """1e-3 is a number, Python is refused, what is written is read."""
    assert parse("{a: 1e-3, b: [1, x]}") == {"a": 1e-3, "b": [1, "x"]}
    with pytest.raises(SettingsError, match="not plain YAML"):
        parse("!!python/object/apply:os.system [ls]")
    write_mapping(tmp_path / "a.yml", asdict(Example()))
    assert Example.of(read_mapping(tmp_path / "a.yml")) == Example()
    assert override({"a": {"b": 1}}, ["a.c=[1e3]", "d:x"]) == {"a": {"b": 1, "c": [1e3]}, "d": "x"}
    with pytest.raises(SettingsError, match="'a' must be key=value"):
        override({}, ["a"])


def _raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (SettingsError("a=1 must be 2"), 2, "x: a=1 must be 2\n"),
        (OSError(28, "No space left"), 1, "x: [Errno 28] No space left; go on\n"),
        (FileNotFoundError("no file"), 2, "x: no file\n"),
        (FloatingPointError("nan"), 1, "x: nan\n"),
        (KeyboardInterrupt(), 130, "x: interrupted; go on\n"),
        (
            ModuleNotFoundError("No module named 'y'"),
            2,
            "x: No module named 'y': x needs the extra sb3: pip install -e '.[sb3]'\n",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_command_ends_in_one_line(
    error: BaseException, status: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status of each kind of error, and its line on stderr; others are raised."""
    assert exit_status("x", _raising(error), advice="; go on", extra="sb3") == status
    assert capsys.readouterr().err == text
    with pytest.raises(ZeroDivisionError):
        exit_status("x", lambda: 1 / 0)


@pytest.mark.parametrize(("text", "steps"), [("1e4", 10_000), ("2.5e1", 25), ("1_000", 1_000)])
def test_whole_numbers_may_be_written_with_an_exponent(text: str, steps: int) -> None:
    """-n 1e4 is 10000; 2.5 is no whole number."""
    parser = Parser(prog="x")
    add_arguments(parser, Example)
    assert parser.parse_args(["-n", text]).steps == steps
    with pytest.raises(SystemExit):
        parser.parse_args(["-n", "2.5"])


@pytest.mark.parametrize("text", ["-5e-1", "-.5", "-5.E-1", "-0.5"])
def test_negative_numbers_may_be_written_with_an_exponent(text: str) -> None:
    """argparse took -5e-1 for an option, and said that --x has no argument."""
    parser = Parser(prog="x")
    parser.add_subparsers().add_parser("train").add_argument("--x", type=float, nargs="+")
    assert parser.parse_args(["train", "--x", text, "1"]).x == [-0.5, 1.0]


def test_a_command_whose_output_nobody_reads_ends_without_a_word() -> None:
    """As of ``era-zoo list | head -1``: status 1, and nothing on stderr."""
    code = "from era_rl.runs.command import exit_status; import sys; "
    code += "sys.exit(exit_status('x', lambda: sys.stdout.write('text ' * 100_000)))"
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert (result.returncode, result.stderr) == (1, "")
