"""A process that logs until it is killed.

    python -m quants.doomed WAY FILE [SOURCE]

On its standard output it says, again and again, how much it takes for logged:
ticks, or sealed batches if SOURCE has a `safe_log` of its own to open a log
with. It ends by itself after a while, if notebook 04 does not kill it before.
It is not in quants.lab, whose pictures take longer to import than it lives.
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path
from runpy import run_path
from struct import Struct
from zlib import crc32

from quants.frame import ticks_frame
from quants.market import Market
from quants.metrics import Registry
from quants.tick import Batch
from quants.ticklog import TickLog

LIFE_SECONDS = 20.0  # if nobody kills it
BUFFERED_TICKS = 1000
BATCH_TICKS = 100
HEAD = Struct("<II")  # of a sealed batch: length and checksum of what follows


class Seal:
    """Knows where a batch ends, and whether all of it is there."""

    def on(self, batch: bytes) -> bytes:
        """A batch with its length and its checksum before it."""
        return HEAD.pack(len(batch), crc32(batch)) + batch

    def off(self, data: bytes) -> list[bytes]:
        """The whole batches at the beginning of some bytes, up to a torn one."""
        found = []
        while len(data) >= HEAD.size:
            length, checksum = HEAD.unpack_from(data)
            end = HEAD.size + length
            batch, data = data[HEAD.size : end], data[end:]
            if len(batch) < length or crc32(batch) != checksum:
                break
            found.append(batch)
        return found


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


def log_batches(path: Path, source: Path) -> None:
    """A log opened by somebody's safe_log; says how many batches it has."""
    seal = Seal()
    file = run_path(str(source))["safe_log"](path, seal)
    rows = Market().take(BATCH_TICKS).tobytes()
    for number in count(1):
        file.write(seal.on(rows))
        say(number)
        time.sleep(0.0005)


async def main(way: str, *paths: Path) -> None:
    """Log in one way until killed."""
    if way == "TickLog":
        async with asyncio.timeout(LIFE_SECONDS):
            await log_ticks(*paths)
    ways: dict[str, Callable[..., None]] = {
        "buffered": log_buffered,
        "safe_log": log_batches,
    }
    await asyncio.wait_for(asyncio.to_thread(ways[way], *paths), LIFE_SECONDS)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *map(Path, sys.argv[2:])))
