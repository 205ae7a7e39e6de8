"""The terminal view: a table for a terminal, plain lines for a pipe."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from quants.channel import Statistics
from quants.readings import Snapshot
from quants.view import rate, table_of

RUN = [
    *(sys.executable, "-m", "quants", "run", "--duration", "1.5"),
    *("--metrics-port", "0"),
]


def snapshot(seconds: float, received: int) -> Snapshot:
    log = Statistics(received, received - 7, 0, 0, 7, 2, 64, 5)
    return Snapshot(seconds, received, received, 0, 0, {"log": log})


def test_the_rate_is_of_the_time_between_two_looks():
    assert rate(snapshot(1.0, 100), snapshot(3.0, 500)) == 200.0
    assert rate(snapshot(0.0, 0), snapshot(0.0, 0)) == 0.0


def test_the_table_has_a_row_per_consumer_with_its_counters():
    console = Console(width=80, record=True, file=StringIO())
    console.print(table_of(snapshot(1.0, 1234)))
    row = next(line for line in console.export_text().splitlines() if "log" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells == ["log", "1,227", "0", "7", "2/64", "5"]


def test_a_pipe_gets_plain_lines(tmp_path: Path):
    ended = subprocess.run(
        RUN, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    lines = ended.stderr.splitlines()
    assert "metrics: http://127.0.0.1:" in lines[1]
    assert "ticks/s" in lines[2]
    assert "\x1b" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty module")
def test_a_terminal_gets_a_table_that_redraws_itself(tmp_path: Path):
    import pty

    ours, theirs = pty.openpty()
    with subprocess.Popen(
        RUN, cwd=tmp_path, stderr=theirs, stdout=subprocess.DEVNULL, env=terminal()
    ) as child:
        os.close(theirs)
        shown = b"".join(iter(lambda: read(ours), b"")).decode()
        os.close(ours)
    assert child.returncode == 0
    assert shown.count("consumer") >= 3
    assert "\x1b[" in shown


def terminal() -> dict[str, str]:
    """An environment in which rich believes in the terminal it is given."""
    hidden = ("NO_COLOR", "CI", "TERM")
    rest = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**rest, "TERM": "xterm", "COLUMNS": "100"}


def read(terminal: int) -> bytes:
    """What a pseudo-terminal says next; nothing once its other end is closed."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
