"""A stage whose memory grows although it keeps nothing, and a run of it.

Each batch becomes a tally, and each symbol in it a share that knows its tally.
So a tally is held by what it holds: a ring, which no reference count ever frees.
"""

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Literal, NamedTuple
from weakref import WeakSet, proxy

import numpy as np
import psutil

from quants.frame import MAX_ROWS, decode, ticks_frame
from quants.lab.card import within_reach
from quants.lab.session import end, session
from quants.market import Market
from quants.pace import SteadyPace
from quants.tick import Batch

Way = Literal["collector off", "collector on", "ring cut"]

FULL_RATE = 50_000  # ticks/s
WAKE_SECONDS = 0.005  # between two batches
WORK_SECONDS = 0.3  # until some are done


# ---- the stage


class Share:
    """What one symbol is of the volume of a batch."""

    __slots__ = ("symbol", "tally")

    def __init__(self, tally: "Tally", symbol: int) -> None:
        self.symbol = symbol
        self.tally = tally

    def percent(self) -> float:
        """Of the whole batch."""
        volumes = self.tally.volumes
        return float(100 * volumes[self.symbol] / volumes.sum())


class LooseShare(Share):
    """A share that does not keep its tally alive."""

    __slots__ = ()

    def __init__(self, tally: "Tally", symbol: int) -> None:
        self.symbol = symbol
        self.tally = proxy(tally)


class Tally:
    """The volume of a batch by symbol, and the share of each."""

    __slots__ = ("__weakref__", "batch", "shares", "volumes")

    def __init__(self, batch: Batch, share: type[Share]) -> None:
        self.batch = batch
        rows = batch.rows
        self.volumes = np.bincount(rows["symbol"], rows["size"])
        symbols = np.flatnonzero(self.volumes).tolist()
        self.shares = [share(self, symbol) for symbol in symbols]


class Shares:
    """The stage: knows the largest share of each batch, and keeps no batch.

    Attributes:
        done: batches.
        largest: percent of the volume, of the latest batch.
        tallies: those that are alive; weakly, so none lives because of it.
    """

    def __init__(self, share: type[Share]) -> None:
        self.share = share
        self.done, self.largest = 0, 0.0
        self.tallies: WeakSet[Tally] = WeakSet()

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Tally batch after batch."""
        async for batch in batches:
            tally = Tally(batch, self.share)
            self.largest = max(share.percent() for share in tally.shares)
            self.tallies.add(tally)
            self.done += 1


# ---- a run of it


class Look(NamedTuple):
    """One look at the stage; megabytes are more than at the start."""

    seconds: float
    done: int
    alive: int
    live_mb: float
    rss_mb: float


@dataclass(frozen=True)
class Growth:
    """How memory grew, and what one run of the collector by hand freed.

    Attributes:
        before, after: looks at that moment.
        collected: objects that it found dead, whosever they were.
    """

    way: Way
    looks: tuple[Look, ...]
    before: Look
    after: Look
    collected: int

    @property
    def mb_per_second(self) -> float:
        """Of live bytes, until that moment."""
        return self.before.live_mb / self.before.seconds

    def __repr__(self) -> str:
        before, after = self.before, self.after
        return (
            f"{self.way}: {before.done:,} batches done, {before.alive:,} still alive, "
            f"{self.mb_per_second:.1f} MB/s.\n"
            f"gc.collect() found {self.collected:,} dead objects: then {after.alive} "
            f"alive, live bytes {before.live_mb:.1f} -> {after.live_mb:.1f} MB, "
            f"RSS {before.rss_mb:.1f} -> {after.rss_mb:.1f} MB."
        )


class Running:
    """The stage at work.

    Attributes:
        stage: what takes the batches.
        pace: how fast they come.
        looks: what was seen so far.
    """

    def __init__(self, way: Way) -> None:
        self.way = way
        self.stage = Shares(LooseShare if way == "ring cut" else Share)
        self.pace = SteadyPace(within_reach(FULL_RATE), time.monotonic())
        self.looks: list[Look] = []
        self._collected: tuple[Look, Look, int] | None = None
        self._sent, self._market = 0, Market()
        self._process, self._began = psutil.Process(), time.monotonic()
        self._live, self._rss = tracemalloc.get_traced_memory()[0], self._resident()

    def _resident(self) -> int:
        return int(self._process.memory_info().rss)

    async def batches(self) -> AsyncIterator[Batch]:
        """Frames as they come over the wire, each with memory of its own."""
        while True:
            await asyncio.sleep(WAKE_SECONDS)
            n = min(self.pace.due(time.monotonic(), self._sent), MAX_ROWS)
            if n:
                rows, first_seq = self._market.take(n), self._sent + 1
                frame = ticks_frame(rows, first_seq, time.time_ns())
                self._sent += n
                yield decode(frame, len(self._market.symbols))[1]

    @property
    def thousands(self) -> int:
        """Ticks a second, in thousands."""
        return round(self.pace.tick_rate / 1000)

    def turn(self, thousands: int) -> None:
        """Another rate, in thousands of ticks a second."""
        self.pace.turn(thousands * 1000, time.monotonic(), self._sent)

    def look(self) -> Look:
        """Look at it once."""
        live = tracemalloc.get_traced_memory()[0] - self._live
        rss = self._resident() - self._rss
        since, stage = time.monotonic() - self._began, self.stage
        alive = len(stage.tallies)
        self.looks.append(Look(since, stage.done, alive, live / 1e6, rss / 1e6))
        return self.looks[-1]

    def collect(self) -> bool:
        """Run the collector by hand, if nobody has; whether it was run."""
        if self._collected:
            return False
        before, found = self.look(), gc.collect()
        self._collected = before, self.look(), found
        return True

    async def done_batch(self) -> Batch:
        """A batch that the stage has done, after some work, and that is alive."""
        await asyncio.sleep(WORK_SECONDS)
        return next(iter(self.stage.tallies)).batch

    def growth(self) -> Growth:
        """What was seen."""
        self.collect()
        assert self._collected
        return Growth(self.way, tuple(self.looks), *self._collected)


@contextmanager
def collector(on: bool) -> Iterator[None]:
    """The collector on or off; afterwards as before, and nothing dead left."""
    was_on = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        yield
    finally:
        (gc.enable if was_on else gc.disable)()
        gc.collect()


@contextmanager
def traced() -> Iterator[None]:
    """Count live bytes in this block, if nobody does yet."""
    if tracemalloc.is_tracing():
        yield
        return
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


@asynccontextmanager
async def running(way: Way) -> AsyncIterator[Running]:
    """The stage at work, from nothing; its memory is given back."""
    lab = await session()
    gc.collect()  # what died before is not ours
    with traced(), collector(on=way == "collector on"):
        run = Running(way)
        working = lab.start(run.stage.run(run.batches()))
        try:
            yield run
        finally:
            await end(working)
            del working  # it knows its last batch
    lab.raise_faults()
