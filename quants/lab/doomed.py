"""A process that logs until it is killed.

    python -m quants.lab.doomed WAY FILE

On its standard output it says, again and again, how much it takes for logged:
ticks, or batches of the reader's own log. It ends by itself after a while.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

from quants.frame import ticks_frame
from quants.lab.exercise import kept
from quants.lab.safe_log_task import Seal, safe_log
from quants.market import Market
from quants.metrics import Registry
from quants.tick import Batch
from quants.ticklog import TickLog

LIFE_SECONDS = 20.0  # if nobody kills it
BUFFERED_TICKS = 1000
BATCH_TICKS = 100


def say(logged: int) -> None:
    """Tell the parent; an os.write is past any buffer of ours."""
    os.write(1, b"%d\n" % logged)


async def log_ticks(path: Path) -> None:
    """The pump's own log; says what is written."""
    market = Market()
    symbols, registry = market.symbols, Registry()
    log = TickLog(path, stream="doomed", symbols=symbols, registry=registry)

    async def endless() -> AsyncIterator[Batch]:
        for first in count(1, BATCH_TICKS):
            rows = market.take(BATCH_TICKS)
            frame = ticks_frame(rows, first, 0)
            yield Batch(rows, first, BATCH_TICKS, 0, frame)
            await asyncio.sleep(0.001)
            say(log.written_seq)

    async with log:
        await log.run(endless())


def log_buffered(path: Path) -> None:
    """A file as `open` gives it; says what was appended, and waits for the end."""
    rows = Market().take(BUFFERED_TICKS)
    with open(path, "ab") as file:
        for number, row in enumerate(rows, 1):
            file.write(row.tobytes())
            say(number)
        time.sleep(LIFE_SECONDS)


def log_batches(path: Path) -> None:
    """The reader's log, or the reference; says how many batches it has."""
    seal = Seal()
    file = (kept(safe_log.__name__) or safe_log)(path, seal)
    rows = Market().take(BATCH_TICKS).tobytes()
    for number in count(1):
        file.write(seal.on(rows))
        say(number)
        time.sleep(0.0005)


async def main(way: str, path: Path) -> None:
    """Log in one way until killed."""
    if way == "TickLog":
        async with asyncio.timeout(LIFE_SECONDS):
            await log_ticks(path)
    ways = {"buffered": log_buffered, "safe_log": log_batches}
    await asyncio.wait_for(asyncio.to_thread(ways[way], path), LIFE_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
