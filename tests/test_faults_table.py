"""The table of faults in the documentation: every row has a test, and the test exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    line.strip("| \n").split(" | ")
    for line in (ROOT / "docs" / "faults.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault |")
]


def test_every_row_has_a_fault_what_is_expected_what_happens_and_a_test() -> None:
    assert len(ROWS) > 50
    for row in ROWS:
        assert len(row) == 4, row
        assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", row[3]), row


@pytest.mark.parametrize("path", sorted({row[3].strip("`").split("::")[0] for row in ROWS}))
def test_the_tests_exist(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    named = {name for file, name in (row[3].strip("`").split("::") for row in ROWS) if file == path}
    assert named <= there


def test_every_test_of_faults_in_the_environments_and_folders_is_in_the_table() -> None:
    """But for those of helpers and of what the messages point to."""
    in_table = {row[3].strip("`").split("::")[0] for row in ROWS}
    files = {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_faults_*.py")
    }
    assert files - in_table == {"tests/test_faults_table.py"}
