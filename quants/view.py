"""The terminal view: what the live page shows, calmly, while it runs.

A terminal gets a picture that redraws itself; a pipe gets a plain line each
second. Both are drawn from what `page.shown` reads, and neither is on the path
of a tick.
"""

import asyncio
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console
from rich.live import Live

from quants.histogram import seconds_text
from quants.page import Shown, shown
from quants.pipeline import Pipeline
from quants.view_picture import Picture, rate

FRAMES_PER_SECOND = 4
LATELY = 8  # frames; what is a rate is of the last two seconds


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
    """A picture of the pump, redrawn a few times a second."""
    await pipeline.ready.wait()
    announce(pipeline)
    looks = deque([shown(pipeline)], LATELY + 1)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            await asyncio.sleep(1 / FRAMES_PER_SECOND)
            looks.append(shown(pipeline))
            live.update(Picture(looks[0], looks[-1]), refresh=True)


async def plain_lines(pipeline: Pipeline, console: Console) -> None:
    """One line a second, for pipes and logs."""
    await pipeline.ready.wait()
    announce(pipeline)
    before = shown(pipeline)
    while True:
        await asyncio.sleep(1)
        now = shown(pipeline)
        print(line_of(before, now), file=sys.stderr, flush=True)
        before = now


def announce(pipeline: Pipeline) -> None:
    """Where things are, before the first tick."""
    for note in (*pipeline.notes, f"metrics: {pipeline.metrics.url}"):
        print(note, file=sys.stderr, flush=True)


def line_of(before: Shown, now: Shown) -> str:
    """The state in one line."""
    queued = max(c["queued"] for c in now["consumers"].values())
    return (
        f"{now['seconds']:6.1f} s  {rate(before, now):12,.0f} ticks/s  "
        f"{now['received']:14,} received  {queued:8,} queued  "
        f"lag p99 {seconds_text(now['lag']['p99'])}"
    )
