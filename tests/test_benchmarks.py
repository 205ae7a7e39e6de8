"""The benchmarks run, and refuse to time a wrong result.

Verdicts are not asserted: a test machine is shared and the runs are tiny.
"""

from importlib import import_module
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import before, checks
from benchmarks.__main__ import NAMES, main, table
from benchmarks.checks import WrongResult, check, reference
from benchmarks.runs import ROOT, Plan, Report, bench, run
from benchmarks.size import TINY
from benchmarks.source import Looped, in_memory, make_ticks
from quants.tick import Symbol, rows_of


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_and_its_checks_hold(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whose disk takes the log
    findings = import_module(f"benchmarks.{name}").measure(TINY)
    for finding in findings:
        assert finding.left > 0
        assert finding.right > 0
        assert finding.verdict in table(finding)
    assert list(tmp_path.iterdir()) == []


def test_two_trees_are_compared_by_runs_of_both(tmp_path, monkeypatch):
    """A folder that has no pump fails: it is the tree that runs."""
    monkeypatch.chdir(tmp_path)
    finding = before.compared(ROOT, ROOT, "itself", TINY)
    assert min(finding.left, finding.right) > 0
    assert "itself" in table(finding)
    with pytest.raises(RuntimeError, match="ended with"):
        before.compared(ROOT, tmp_path, "nothing", TINY)


def test_every_benchmark_is_in_the_readme():
    readme = (Path(checks.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}.py`" in readme for name in NAMES)


def test_the_command_offers_every_benchmark():
    shown = CliRunner().invoke(main, ["--help"]).output
    assert all(name in shown for name in NAMES)


def test_a_looped_source_goes_on_with_its_first_row():
    rows = rows_of([(t, 0, 0, 0, 0) for t in range(5)])
    taken = np.concatenate(list(Looped(rows, []).parts(12)))
    assert taken["time_ns"].tolist() == [*range(5), *range(5), 0, 1]


def test_the_reference_is_the_sum_over_all_loops():
    rows = rows_of([(0, 10, 1, 0, 0), (0, 20, 2, 2, 0), (0, 30, 3, 0, 0)])
    source = Looped(rows, [Symbol("A"), Symbol("B"), Symbol("C")])
    assert reference(source, 4) == {"A": (110, 5, 3), "B": (0, 0, 0), "C": (40, 2, 1)}


@pytest.fixture(scope="module", params=["ours", "competent"])
def finished(request, tmp_path_factory):
    """A finished run of one side, its log still there."""
    folder = tmp_path_factory.mktemp("bench")
    with bench(1000, folder) as shared:
        plan = shared.plan(request.param, 2500)
        yield plan, in_memory(shared.rows), *run(plan)


def test_a_right_run_passes(finished: tuple[Plan, Looped, Report, Report]):
    check(*finished)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ticks": 2499},
        {"missing": 1},
        {"breaches": 10**6},
        {"sums": {}},
    ],
)
def test_a_wrong_report_is_refused(finished, wrong):
    plan, source, sent, received = finished
    with pytest.raises(WrongResult):
        check(plan, source, sent, msgspec.structs.replace(received, **wrong))


def test_a_sum_that_is_off_by_a_little_is_refused(finished):
    plan, source, sent, received = finished
    sums = dict(received.sums)
    price_size, size, ticks = sums["AAPL"]
    sums["AAPL"] = (price_size + max(1, price_size // 10**8), size, ticks)
    with pytest.raises(WrongResult, match="AAPL"):
        check(plan, source, sent, msgspec.structs.replace(received, sums=sums))


def test_a_log_with_another_row_is_refused(finished, tmp_path):
    plan, _, sent, received = finished
    other = tmp_path / "rows"
    make_ticks(other, 1000)
    changed = in_memory(other)
    a, b = changed.rows[[0, 1]]["time_ns"]
    changed.rows["time_ns"][[0, 1]] = b, a  # the sums do not show it
    with pytest.raises(WrongResult, match="log differs after 0 rows"):
        check(plan, changed, sent, received)
