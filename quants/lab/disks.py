"""A disk that takes its time, and three ways to log to it.

So that every reader sees the same, the disk here is a scripted one: a real
file, a real fsync, and then a wait until 5 ms are over, as on a disk that
spins or one behind a network. What the reader's own takes: `group_commit`.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import BinaryIO, Literal, NamedTuple

from quants.disk import Sync, sync_to_disk
from quants.frame import MAX_ROWS, ticks_frame
from quants.lab.session import end, session
from quants.market import Market
from quants.metrics import Registry
from quants.pace import SteadyPace
from quants.tick import Batch
from quants.ticklog import TickLog

Batches = AsyncIterable[Batch]
Way = Literal["each tick", "groups", "TickLog"]

SLOW_SECONDS = 0.005
BEAT_SECONDS = 0.01
RATE, TICKS = 1000, 500  # of the runs that are compared


def slow_sync(file: int) -> None:
    """Have the disk confirm what was written; takes 5 ms at least."""
    until = time.perf_counter() + SLOW_SECONDS
    sync_to_disk(file)
    time.sleep(max(0.0, until - time.perf_counter()))


# ---- two ways to write, as the notebook shows them


async def log_each(batches: Batches, file: BinaryIO, sync: Sync) -> None:
    """Write each tick, and have the disk confirm it."""
    async for batch in batches:
        for row in batch.rows:
            file.write(row.tobytes())
            sync(file.fileno())


async def log_groups(batches: Batches, file: BinaryIO, sync: Sync) -> None:
    """Write all that is there, and have the disk confirm it in a thread."""
    async for batch in batches:
        file.write(batch.rows.tobytes())
        await asyncio.to_thread(sync, file.fileno())


# ---- what arrives, and what the loop feels


class Arriving:
    """Ticks at a steady rate, in batches of what is due; the rate can be turned."""

    def __init__(self, rate: float, ticks: int) -> None:
        self.ticks, self.sent = ticks, 0
        self._market = Market(tick_rate=1000)
        self.symbols = self._market.symbols
        self._pace = SteadyPace(rate, time.monotonic())

    @property
    def rate(self) -> float:
        """Ticks/s."""
        return self._pace.tick_rate

    def turn(self, rate: float) -> None:
        """Another rate from now on."""
        self._pace.turn(rate, time.monotonic(), self.sent)

    @property
    def due(self) -> int:
        """Ticks that should have been handed out and were not."""
        owed = self._pace.due(time.monotonic(), self.sent)
        return min(owed, self.ticks - self.sent, MAX_ROWS)

    async def __aiter__(self) -> AsyncIterator[Batch]:
        while self.sent < self.ticks:
            if due := self.due:
                rows, first = self._market.take(due), self.sent + 1
                self.sent += due
                yield Batch(rows, first, due, 0, ticks_frame(rows, first, 0))
            await asyncio.sleep(0.001)


class Beat(NamedTuple):
    """One heartbeat: when it was due, and how late it came, in seconds."""

    due: float
    late: float


@dataclass
class Heart:
    """A heartbeat on the loop; each beat that a stall delays counts."""

    beats: list[Beat] = field(default_factory=list)

    async def run(self) -> None:
        """Beat until cancelled; what a stall delays comes right after it."""
        began = time.monotonic()
        due = began + BEAT_SECONDS
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            while due <= now:  # all at once: another stall may follow
                self.beats.append(Beat(due - began, now - due))
                due += BEAT_SECONDS


@dataclass(frozen=True)
class Logged:
    """What the loop felt while ticks were logged in one way."""

    way: Way
    ticks: int
    syncs: int
    seconds: float
    beats: tuple[Beat, ...]

    @property
    def median_late(self) -> float:
        """Half of the heartbeats came later than this, in seconds."""
        return median(beat.late for beat in self.beats)

    @property
    def latest(self) -> float:
        """The worst of them."""
        return max(beat.late for beat in self.beats)

    def __repr__(self) -> str:
        return (
            f"{self.way}: {self.ticks:,} ticks with {self.syncs:,} confirmations, "
            f"{self.ticks / self.seconds:,.0f} ticks/s; heartbeats "
            f"{1e3 * self.median_late:,.1f} ms late in the median, "
            f"{1e3 * self.latest:,.1f} ms at worst."
        )


class Counted:
    """A sync that knows how often it was called."""

    def __init__(self, sync: Sync = slow_sync) -> None:
        self.sync, self.calls = sync, 0

    def __call__(self, file: int) -> None:
        self.sync(file)
        self.calls += 1


async def write(way: Way, arriving: Arriving, path: Path, sync: Sync) -> None:
    """Log all that arrives, in one of the ways."""
    if way == "TickLog":
        symbols, registry = arriving.symbols, Registry()
        async with TickLog(
            path, stream="disks", symbols=symbols, registry=registry, fsync="batch",
            sync=sync,
        ) as log:  # fmt: skip
            await log.run(arriving)
        return
    log_all = log_each if way == "each tick" else log_groups
    # What blocks is the subject here, and opening is the least of it.
    with open(path, "ab", buffering=0) as file:  # noqa: ASYNC230
        await log_all(arriving, file, sync)


async def logged(way: Way, rate: float = RATE, ticks: int = TICKS) -> Logged:
    """Log so many ticks as they arrive, beside a heartbeat."""
    lab, heart, sync = await session(), Heart(), Counted()
    beating, began = lab.start(heart.run()), time.monotonic()
    path = lab.folder / f"{time.monotonic_ns()}.log"
    try:
        await write(way, Arriving(rate, ticks), path, sync)
        seconds = time.monotonic() - began
        await asyncio.sleep(2 * BEAT_SECONDS)  # for the last beat that was due
    finally:
        await end(beating)
    return Logged(way, ticks, sync.calls, seconds, tuple(heart.beats))
