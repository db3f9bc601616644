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


def in_table(path: str) -> set[str]:
    return {name for file, name in (row[3].strip("`").split("::") for row in ROWS) if file == path}


def those_in(path: str) -> set[str]:
    nodes = ast.parse((ROOT / path).read_text()).body
    names = [node.name for node in nodes if isinstance(node, ast.FunctionDef)]
    return {name for name in names if name.startswith("test_")}


def test_every_row_has_a_fault_what_is_expected_what_happens_and_a_test() -> None:
    assert len(ROWS) > 50
    for row in ROWS:
        assert len(row) == 4, row
        assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`", row[3]), row


@pytest.mark.parametrize("path", sorted({row[3].strip("`").split("::")[0] for row in ROWS}))
def test_the_tests_exist(path: str) -> None:
    assert in_table(path) <= those_in(path)


OF_NO_ROW = {
    "tests/benchmarks/test_faults_bench.py": {
        "test_a_suite_that_is_no_text_is_named",
        "test_a_table_of_results_that_are_damaged_is_refused",
    },
    "tests/llm/test_faults_llm.py": {"test_without_being_asked_a_run_begins_anew"},
    "tests/sb3/test_faults_sb3.py": {
        "test_check_nan_finds_the_first",
        "test_large_finite_values_are_not_refused",
        "test_observations_in_dicts_and_of_integers_are_looked_at",
    },
    "tests/test_faults_files.py": {
        "test_a_device_that_is_absent_is_named_with_those_there_are",
        "test_a_folder_that_cannot_be_written_to_is_named",
        "test_a_write_that_fails_leaves_the_file_before",
        "test_damaged_json_names_its_path",
    },
    "tests/torchrl/test_faults_torchrl.py": {
        "test_a_checkpoint_is_checked_before_a_collector_is_made",
        "test_close_closes_the_log",
    },
    "tests/zoo/test_faults_buffers.py": {
        "test_a_buffer_on_the_device_comes_back",
        "test_her_infos_come_back_without_pickle",
    },
    "tests/zoo/test_faults_zoo.py": {
        "test_a_new_run_holds_its_folder",
        "test_evaluations_are_read_without_running_code",
    },
}
"""Tests by file of what the rows rest on: helpers, and variants of a fault that has a row."""


@pytest.mark.parametrize(
    "path",
    sorted(
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("test_faults_*.py")
        if path != Path(__file__)
    ),
)
def test_every_test_of_faults_is_in_the_table(path: str) -> None:
    assert those_in(path) <= in_table(path) | OF_NO_ROW.get(path, set())
