"""The terminal view: the pump's counters, calmly, while it runs.

A terminal gets a table that redraws itself; a pipe gets a plain line each
second. Both read the same snapshot, and neither is on the path of a tick.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from quants.histogram import seconds_text
from quants.pipeline import Pipeline
from quants.readings import Snapshot

FRAMES_PER_SECOND = 4


@asynccontextmanager
async def live_view(pipeline: Pipeline) -> AsyncIterator[None]:
    """Show the pump on stderr for as long as the block runs."""
    console = Console(stderr=True)
    show = redraw if console.is_terminal else plain_lines
    showing = asyncio.create_task(show(pipeline, console))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def redraw(pipeline: Pipeline, console: Console) -> None:
    """A table of the consumers, redrawn a few times a second."""
    await pipeline.ready.wait()
    announce(pipeline)
    before = pipeline.snapshot()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            await asyncio.sleep(1 / FRAMES_PER_SECOND)
            now = pipeline.snapshot()
            line = Text(line_of(pipeline, before, now))
            live.update(Group(line, table_of(now)), refresh=True)
            before = now


async def plain_lines(pipeline: Pipeline, console: Console) -> None:
    """One line a second, for pipes and logs."""
    await pipeline.ready.wait()
    announce(pipeline)
    before = pipeline.snapshot()
    while True:
        await asyncio.sleep(1)
        now = pipeline.snapshot()
        print(line_of(pipeline, before, now), file=sys.stderr, flush=True)
        before = now


def announce(pipeline: Pipeline) -> None:
    """Where things are, before the first tick."""
    for note in (*pipeline.notes, f"metrics: {pipeline.metrics.url}"):
        print(note, file=sys.stderr, flush=True)


def rate(before: Snapshot, now: Snapshot) -> float:
    """Ticks per second received between two snapshots."""
    seconds = now.seconds - before.seconds
    return (now.received - before.received) / seconds if seconds > 0 else 0.0


def line_of(pipeline: Pipeline, before: Snapshot, now: Snapshot) -> str:
    """The state in one line."""
    queued = max(s.queued for s in now.consumers.values())
    lag = pipeline.monitor.lag.quantile(0.99)
    return (
        f"{now.seconds:6.1f} s  {rate(before, now):12,.0f} ticks/s  "
        f"{now.received:14,} received  {queued:8,} queued  "
        f"lag p99 {seconds_text(lag)}"
    )


def table_of(now: Snapshot) -> Table:
    """The consumers as a table, a row each."""
    table = Table()
    for heading in ("consumer", "processed", "dropped", "queued", "depth", "high"):
        table.add_column(heading, justify="left" if heading == "consumer" else "right")
    for name, s in now.consumers.items():
        depths = f"{s.depth}/{s.capacity}", str(s.high_watermark)
        counts = (f"{n:,}" for n in (s.processed, s.dropped, s.queued))
        table.add_row(name, *counts, *depths)
    return table
