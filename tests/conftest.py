"""Tests that draw their faults from a seed: which seeds, and how to replay one.

A test that asks for `fault_seed` runs once for each seed of a fixed set, which
`@pytest.mark.schedules(few, many)` sizes: a few always, many under `make long`.
When one fails, its report says how to run that very schedule again. What a
test records with `record_property` is added up at the end; `--faults FILE`
makes it a page (`faults.py`).

And what the tests of the notebooks share: `shown` and `closed`.
"""

import signal
from collections.abc import AsyncIterator, Generator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests import faults

OUTCOMES = ("passed", "failed", "error", "skipped")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-seed",
        type=int,
        metavar="N",
        help="run the fault schedule of this seed, and no other",
    )
    parser.addoption(
        "--faults",
        type=Path,
        metavar="FILE",
        help="write the fault matrix of this run",
    )


def pytest_configure(config: pytest.Config) -> None:
    line = "schedules(few, many): how many fault seeds a test runs, and when long"
    config.addinivalue_line("markers", line)
    # A shell's background jobs ignore Ctrl-C, and so would all that we start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault_seed" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("--fault-seed")
        marker = metafunc.definition.get_closest_marker("schedules")
        few, many = marker.args if marker else (1, 10)
        long = [pytest.param(n, marks=pytest.mark.long) for n in range(few, many)]
        seeds = [*range(few), *long] if chosen is None else [chosen]
        metafunc.parametrize("fault_seed", seeds)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    drawn = getattr(item, "callspec", None)
    if report.failed and drawn and "fault_seed" in drawn.params:
        test, seed = item.nodeid.partition("[")[0], drawn.params["fault_seed"]
        again = f"python -m pytest {test} --fault-seed {seed}"
        report.sections.append(("this schedule again", again))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = map(terminalreporter.getreports, OUTCOMES)
    run = faults.shown(chain.from_iterable(reports))
    if path := terminalreporter.config.getoption("--faults"):
        path.write_text(faults.matrix(run, faults.facts()), encoding="utf-8")
    told = {test: it for (_, test), it in run.items() if it.figures}
    if told:
        terminalreporter.section("figures")
    for test, it in told.items():
        terminalreporter.write_line(f"{test}: {it}, {faults.added_up(it.figures)}")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What cells display, the newest last; outside of a kernel it is printed."""
    from IPython.display import DisplayHandle  # half a second, for few

    found: list[Any] = []
    for show in ("display", "update"):
        monkeypatch.setattr(DisplayHandle, show, lambda _, what: found.append(what))
    return found


@pytest.fixture
async def closed() -> AsyncIterator[None]:
    """Every session that a test opens is closed, and leaves nothing."""
    from quants.lab import session

    yield
    assert await session.close() == "0 leaked tasks, 0 leaked processes"
