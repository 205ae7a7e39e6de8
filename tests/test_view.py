"""The terminal view: a picture for a terminal, plain lines for a pipe."""

import asyncio
import os
import re
import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quants.page import Shown, shown
from quants.pipeline import Pipeline
from quants.report import report_of
from quants.settings import Settings
from quants.view import line_of
from quants.view_picture import BAR, Picture, bar, rate, shown_name
from tools.view_picture import COMMAND, svg_of

RUN = [
    *(sys.executable, "-m", "quants", "run", "--duration", "1.5"),
    *("--metrics-port", "0"),
]


@pytest.fixture(scope="module")
def pump(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """A pump that has run."""
    log = tmp_path_factory.mktemp("view") / "ticks.log"
    settings = Settings(tick_rate=20_000, duration=0.5, metrics_port=0, log_file=log)

    async def ran() -> Pipeline:
        pipeline = Pipeline(settings)
        await pipeline.run()
        return pipeline

    return asyncio.run(ran())


def look(seconds: float, received: int) -> Shown:
    return {"seconds": seconds, "received": received}


def drawn(picture: Picture, width: int, encoding: str = "utf-8", **more: Any) -> str:
    """A picture as a terminal of this width gets it."""
    file = TextIOWrapper(BytesIO(), encoding=encoding, newline="")
    Console(file=file, width=width, force_terminal=True, **more).print(picture)
    file.seek(0)
    return file.read()


def still(pipeline: Pipeline) -> Picture:
    return Picture(shown(pipeline), shown(pipeline))


def test_the_rate_is_of_the_time_between_two_looks():
    assert rate(look(1.0, 100), look(3.0, 500)) == 200.0
    assert rate(look(0.0, 0), look(0.0, 0)) == 0.0


async def test_the_picture_says_what_the_report_says(pump: Pipeline):
    text, report = drawn(still(pump), 100, color_system=None), report_of(pump)
    assert report["counts"]["received"] == 10_000
    for name, row in report["vwap"].items():
        assert f"{name} {row['vwap']} {row['ticks']:,}" in " ".join(text.split())
    for name, c in report["counts"]["consumers"].items():
        start = f"{name} {c['processed']:,} {c['dropped']} {c['queued']} 0/64"
        assert start in " ".join(text.split())
    for rule, counts in report["alerts"].items():
        assert f"{rule} {counts['raised']:,} {counts['delivered']:,}" in " ".join(
            text.split()
        )
    assert "Nothing is lost so far" in text
    assert "▲" not in text


def test_a_loss_is_told_in_words(pump: Pipeline):
    now = shown(pump)
    lost = now | {"gap_ticks": 1234}
    text = drawn(Picture(lost, lost), 60, color_system=None)
    assert "▲ Something is lost" in text
    assert "▲ 1,234" in text
    assert "▲ VWAP of what came" in text


@pytest.mark.parametrize("width", [20, 60, 80, 99, 100, 250])
def test_every_line_is_as_wide_as_the_first_whatever_it_says(
    pump: Pipeline, width: int
):
    small, now = drawn(still(pump), width, color_system=None), shown(pump)
    grown = now | {"received": 10**12, "gap_ticks": 10**12, "rss_bytes": 10**13}
    large = drawn(Picture(grown, grown), width, color_system=None)
    for text in (small, large):
        lines = text.splitlines()
        assert len(lines) <= 24
        assert {len(line) for line in lines} == {min(width, 100)}
    assert len(small.splitlines()) == len(large.splitlines())


def test_without_colour_and_in_ascii_it_says_the_same(pump: Pipeline):
    picture = still(pump)
    plain, styled = (drawn(picture, 100, color_system=c) for c in (None, "truecolor"))
    assert "\x1b[" in styled
    assert re.sub(r"\x1b\[[\d;]*m", "", styled) == plain
    ascii_only = drawn(picture, 100, "ascii", color_system=None)
    assert re.findall(r"\w+", ascii_only) == re.findall(r"\w+", plain)


def test_a_bar_shows_how_full_a_queue_is_and_was():
    def queue(depth: int, most: int) -> str:
        return bar({"depth": depth, "high_watermark": most, "capacity": 64})

    assert queue(0, 0) == "·" * BAR
    assert queue(64, 64) == "█" * BAR
    assert queue(32, 64) == "█" * 14 + "·" * 13 + "│"
    assert queue(0, 1) == "│" + "·" * 27


def test_a_name_cannot_steer_the_terminal():
    assert shown_name("A\x1b[2J\n") == "A?[2J?"


def test_the_plain_line_has_rate_received_queued_and_lag():
    before, now = look(1.0, 0), look(3.0, 2000)
    now |= {"consumers": {"vwap": {"queued": 7}}, "lag": {"p99": 0.0015}}
    line = " ".join(line_of(before, now).split())
    assert line == "3.0 s 1,000 ticks/s 2,000 received 7 queued lag p99 1.5 ms"


def test_the_picture_for_the_readme_asks_nobody_for_anything(pump: Pipeline):
    svg = svg_of(still(pump))
    assert COMMAND in svg.replace("&#160;", " ")
    assert "Nothing" in svg
    assert "url(http" not in svg
    assert "@font-face" not in svg
    assert "xlink" not in svg


def test_a_pipe_gets_plain_lines(tmp_path: Path):
    ended = subprocess.run(
        RUN, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    lines = ended.stderr.splitlines()
    assert "metrics: http://127.0.0.1:" in lines[1]
    assert "ticks/s" in lines[2]
    assert "\x1b" not in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pty module")
def test_a_terminal_gets_a_picture_that_redraws_itself(tmp_path: Path):
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
