"""The page that `pytest --faults` writes: nothing on it comes from a person."""

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.faults import FAULTS, Fault, Shown, added_up, keys, matrix

HERE = Path(__file__).parent


def test_every_test_that_the_matrix_names_is_there():
    named = {key for fault in FAULTS for key in keys(fault)}
    files = {file: ast.parse((HERE / file).read_text("utf-8")) for file, _ in named}
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    there = {
        (file, node.name)
        for file, tree in files.items()
        for node in tree.body
        if isinstance(node, functions)
    }
    assert named - there == set()


def test_rows_are_in_order_and_each_is_there_once():
    numbers = [fault.number for fault in FAULTS]
    assert numbers == sorted(set(numbers))


def test_counts_add_up_and_of_other_numbers_the_largest_counts():
    figures = [("kills", 50), ("growth", 1.01), ("lost", 0), ("verdict", "SUPPORTED")]
    again = [("kills", 1950), ("growth", 1.04), ("lost", 0), ("verdict", "SUPPORTED")]
    said = "2,000 kills, 0 lost, growth 1.04, verdict SUPPORTED"
    assert added_up(figures + again) == said


def test_a_failure_is_bold_and_what_did_not_run_is_said():
    faults = (
        Fault(1, "a cut", "no loss", {"test_a.py": ("test_x", "test_y")}),
        Fault(2, "a hog", "no lag", {"test_a.py": ("test_z",)}),
    )
    outcomes = Counter(passed=1, failed=1)
    run = {("test_a.py", "test_x"): Shown(outcomes, [("cuts", 1200), ("cuts", 34)])}
    page = matrix(run, "CPython 3.11.7", faults)
    assert "| 1 | a cut | no loss | **1 passed, 1 failed** | 1,234 cuts |\n" in page
    assert "| 2 | a hog | no lag | not run |  |\n" in page
    assert "- `test_a.py` `test_y`: not run\n" in page
    assert "CPython 3.11.7" in page


TESTS = """
import pytest

@pytest.mark.parametrize("n", [20, 30])
def test_kill_9_loses_nothing_that_was_acknowledged(n, record_property):
    record_property("kills", n)

def test_50_kills_lose_nothing_that_was_acknowledged(record_property):
    record_property("kills", 7)
    raise ValueError
"""


def test_the_option_writes_what_tests_recorded_in_any_process(tmp_path: Path):
    (tmp_path / "test_ticklog.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    plugins = ["-p", "xdist", "-p", "tests.conftest", "-n", "2"]
    folder, page = str(tmp_path), tmp_path / "faults.md"
    paths = ["--rootdir", folder, "--faults", str(page), folder]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *paths],
        cwd=HERE.parent,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1, ended.stdout + ended.stderr
    lines = page.read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith("| 1 |")]
    assert row.endswith("| **2 passed, 1 failed** | 57 kills |")
