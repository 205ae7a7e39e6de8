"""The tick log beside a file written tick by tick, and what the loop feels of it.

Both get the same ticks from memory and must hold every one of them. How late
the loop was meanwhile is the monitor's reading: the latest of its beats.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.checks import require
from benchmarks.size import Size
from quants.evidence import Claim, Finding, find, in_turn
from quants.frame import MAX_ROWS, ticks_frame
from quants.histogram import seconds_text
from quants.market import Market
from quants.metrics import Registry
from quants.monitor import Monitor
from quants.recovery import scan
from quants.tick import Batch
from quants.ticklog import PerTickLog, TickLog

CLAIM = Claim(
    "the tick log: at least 200 times the ticks/s of a write and a wait per tick",
    "TickLog", "per tick", "ticks/s", "at least", 200.0,
)  # fmt: skip
PER_SECOND = {"TickLog": 40_000_000, "per tick": 15_000}  # about
STREAM = "bench"


def measure(size: Size) -> list[Finding]:
    """The claim; the log syncs every 50 ms, as it does by default."""
    market, lags = Market(), dict[str, list[float]]()
    rows = market.take(MAX_ROWS)

    def rate(name: str) -> float:
        ticks = max(MAX_ROWS, int(PER_SECOND[name] * size.seconds))
        with TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
            path = Path(folder) / "log"
            seconds, lag = asyncio.run(write(name, path, market, ticks))
            lags.setdefault(name, []).append(lag)
            require(held(name, path) == ticks, f"{held(name, path)} of {ticks} ticks")
        return ticks / seconds

    async def write(
        name: str, path: Path, market: Market, ticks: int
    ) -> tuple[float, float]:
        registry, symbols = Registry(), market.symbols
        with Monitor(registry) as monitor:
            watching = asyncio.create_task(monitor.run())
            start = time.perf_counter()
            if name == "TickLog":
                log = TickLog(path, stream=STREAM, symbols=symbols, registry=registry)
                async with log:
                    await log.run(batches(ticks))
            else:
                await PerTickLog(path, symbols).run(batches(ticks))
            seconds = time.perf_counter() - start
            watching.cancel()
        return seconds, monitor.lag.quantile(0.99)

    async def batches(ticks: int) -> AsyncIterator[Batch]:
        """They are there at once, so only the log makes anyone wait."""
        for first in range(1, ticks + 1, MAX_ROWS):
            some = rows[: ticks + 1 - first]
            frame = ticks_frame(some, first, 0)
            yield Batch(some, first, len(some), 0, frame)
            await asyncio.sleep(0)

    names = {"TickLog": "TickLog", "per tick": "per tick", "again": "per tick"}
    sides = {side: partial(rate, name) for side, name in names.items()}
    found = in_turn(sides, size.rounds)
    facts = [
        f"{name}: loop lag p99 {seconds_text(median(each))}"
        for name, each in lags.items()
    ]
    left, right, again = (found[name] for name in names)
    return [find(CLAIM, left, right, again, facts)]


def held(name: str, path: Path) -> int:
    """The ticks in a log."""
    if name == "TickLog":
        return scan(path).ticks
    return path.read_bytes().count(b"\n")
