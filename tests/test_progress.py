"""Progress: a bar at a terminal that ends at 100 %, and nothing in a pipe."""

import gzip
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from rich.console import Console

from quants.host import free_port
from quants.onlooker import onlooker
from quants.progress import position, progress, reading, watched
from quants.recordings import open_recording
from quants.recovery import scan
from tests.test_cli import DEADLINE, QUANTS, quants
from tests.test_export import frames, segment, trades
from tests.test_view import read, terminal

BENCH = [
    *("bench", "engines", "--kernel", "numpy", "--engine", "inline", "--batch", "4096"),
    *("--rounds", "1", "--seconds", "0.001"),
]
COMMANDS = [
    (["verify", "ticks.log"], "reading ticks.log"),
    (["verify", "ticks.log", "--repair"], "reading ticks.log"),
    (["export", "ticks.log", "t.csv"], "writing and reading back"),
    (BENCH, "measuring"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tick log whose end is torn."""
    ticks = frames(trades(np.random.default_rng(1), 5000))
    (tmp_path / "ticks.log").write_bytes(segment() + ticks[:-1])
    return tmp_path


@pytest.fixture
def console() -> Console:
    return Console(
        file=StringIO(), force_terminal=True, force_interactive=True, width=80
    )


def shares(console: Console) -> list[int]:
    """The percentages that a console was shown, one after the other."""
    assert isinstance(console.file, StringIO)
    plain = re.sub(r"\x1b\[[\d;?]*\w", "", console.file.getvalue())
    return [int(share) for share in re.findall(r"(\d+)%", plain)]


def test_a_bar_that_is_moved_ends_at_100_percent(console: Console):
    with progress("[bold]", 4, console) as advance:
        for _ in range(4):
            advance(1)
    assert shares(console)[0] < 100
    assert shares(console)[-1] == 100
    assert "[bold]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_bar_that_is_watched_ends_where_the_work_does(console: Console):
    done = 0
    with watched("sending", lambda: (done, 4), console):
        done = 3
    assert shares(console)[-1] == 75


@pytest.mark.parametrize("work", ["progress", "watched", "reading"])
def test_a_file_gets_nothing(work: str, folder: Path):
    console = Console(file=StringIO())
    if work == "progress":
        with progress("", 1, console) as advance:
            advance(1)
    elif work == "watched":
        with watched("", lambda: (1, 1), console):
            pass
    else:
        with reading("", console):
            scan(folder / "ticks.log")
        assert onlooker.get() is None
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_log_that_is_read_shows_where_it_is(folder: Path):
    seen = list[BinaryIO]()
    token = onlooker.set(seen.append)
    scan(folder / "ticks.log")
    onlooker.reset(token)
    scan(folder / "ticks.log")
    (file,) = seen
    assert Path(file.name) == folder / "ticks.log"
    assert position(file) == (1, 1)  # closed


def test_a_compressed_recording_shows_its_compressed_bytes(tmp_path: Path):
    lines = b"time,price,size,symbol\n" + b"1735689600,1.5,2,A\n" * 50_000
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(lines))
    seen, size = [], (tmp_path / "t.csv.gz").stat().st_size
    token = onlooker.set(lambda file: seen.append((file, position(file))))
    recording = open_recording(tmp_path / "t.csv.gz")
    onlooker.reset(token)
    assert recording.ticks == 50_000
    assert {place for _, place in seen} == {(0, size)}


def test_a_position_is_in_bytes(folder: Path):
    with open(folder / "ticks.log", "rb") as file:
        file.read(123)
        assert position(file) == (123, (folder / "ticks.log").stat().st_size)
    assert position() == (0, 1)


@pytest.mark.parametrize(("command", "title"), COMMANDS)
def test_a_pipe_gets_no_bar(command: list[str], title: str, folder: Path):
    ended = quants(*command, cwd=folder)
    assert ended.stderr == ""
    assert title not in ended.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty module")
@pytest.mark.parametrize(("command", "title"), COMMANDS)
def test_a_terminal_gets_a_bar_that_ends(command: list[str], title: str, folder: Path):
    shown = at_a_terminal(command, folder)
    assert title in shown
    assert re.findall(r"(\d+)%", shown)[-1] == "100"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty module")
def test_a_replay_shows_what_was_read_and_what_was_sent(folder: Path):
    port = str(free_port())
    run = ["run", "--feed-url", f"ws://127.0.0.1:{port}/", "--metrics-port", "0"]
    with ThreadPoolExecutor() as pool:
        replay = ["replay", "ticks.log", "--port", port, "--speed", "max"]
        shown = pool.submit(at_a_terminal, replay, folder)
        while (ended := quants(*run, "--log-file", "b.log", cwd=folder)).returncode:
            assert "feed ws://" in ended.stderr  # nobody listens yet
    told = shown.result()
    assert told.index("reading ticks.log") < told.index("sending")
    assert re.findall(r"(\d+)%", told)[-1] == "100"
    assert "4,000 ticks sent" in told


def at_a_terminal(command: list[str], folder: Path) -> str:
    """What a command shows at a terminal."""
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [*QUANTS, *command],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=terminal(),
    ) as child:
        os.close(theirs)
        shown = b"".join(iter(lambda: read(ours), b"")).decode()
        os.close(ours)
        child.wait(DEADLINE)
    return shown
