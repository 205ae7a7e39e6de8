"""What it costs to be watched: the monitor beside an idle loop and a full one.

CPU time of all threads, so that the timer and the reading of memory count. The
full loop sums batches of 1000 rows, and turns some into tuples; with and without
take turns every 0.25 s, and of each the fastest such stretch of a round counts.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from functools import partial
from statistics import median

from benchmarks.size import Size
from quants.evidence import Claim, Finding, find, in_turn, judge
from quants.histogram import Histogram
from quants.kernels import NumpyKernel
from quants.market import Market
from quants.metrics import Registry
from quants.monitor import Monitor
from quants.tick import Rows

ROWS, TUPLES = 1000, 100
BATCH = 50  # ticks of a wake-up a millisecond at 50,000 ticks/s
RECORDS = 1000
STRETCH_SECONDS = 0.25  # five heartbeats

IDLE = Claim(
    "an idle loop: the monitor takes at most 1 % of a core",
    "with the monitor", "the limit", "% of a core", "at most", 1.0,
)  # fmt: skip
FULL = Claim(
    "a full loop: the monitor adds at most 1 % of CPU time",
    "with the monitor", "without", "us/batch", "at most", 1.01,
)  # fmt: skip
RECORD = Claim(
    f"a histogram takes at most 20 ns a tick, by batches of {BATCH}",
    "record()", "the limit", "ns/tick", "at most", 1.0,
)  # fmt: skip


def on_a_loop(work: Coroutine[None, None, float], watched: bool) -> float:
    """What some work says of itself, done on a loop of its own."""

    async def main() -> float:
        with Monitor(Registry()) if watched else nullcontext() as monitor:
            beating = monitor and asyncio.create_task(monitor.run())
            # The first beat reads the memory, once for every ten seconds. All
            # sides wait for it: the same work is slower after a rest.
            await asyncio.sleep(0.12)
            found = await work
            if beating:
                beating.cancel()
        return found

    return asyncio.run(main())


async def rest(seconds: float) -> float:
    """Do nothing; percent of a core that it takes."""
    start = time.process_time()
    await asyncio.sleep(seconds)
    return (time.process_time() - start) / seconds * 100


async def pump(batches: list[Rows]) -> float:
    """Never rest; microseconds of CPU time a batch."""
    kernel, ages, count = NumpyKernel(8), Histogram(), 0
    waiting = asyncio.create_task(asyncio.sleep(3600))  # some timer there always is
    start = time.process_time()
    while (taken := time.process_time() - start) < STRETCH_SECONDS:
        for rows in batches:
            kernel.add(rows)
            ages.record(1_000_000, len(rows))
            rows[:TUPLES].tolist()
            await asyncio.sleep(0)
        count += len(batches)
    waiting.cancel()
    return taken / count * 1e6


def record_nanoseconds(seconds: float) -> float:
    """CPU time a tick, of the fastest of some passes."""
    ages, best = Histogram(), float("inf")
    end = time.process_time() + seconds
    while time.process_time() < end:
        start = time.process_time_ns()
        for age in range(1, RECORDS):
            ages.record(age * 1000, BATCH)
        best = min(best, (time.process_time_ns() - start) / (RECORDS - 1))
    return best / BATCH


def measure(size: Size) -> list[Finding]:
    """All three claims; the sides of each take turns."""
    batches, seconds = [Market().take(ROWS).copy() for _ in range(20)], size.seconds

    def idle(watched: bool) -> float:
        return on_a_loop(rest(seconds), watched)

    def full(watched: bool) -> float:
        return on_a_loop(pump(batches), watched)

    def turns(stretches: int, *sides: Callable[[], float]) -> list[list[float]]:
        named = {str(place): side for place, side in enumerate(sides)}
        found = in_turn(named, size.rounds * stretches)
        return [least(values, stretches) for values in found.values()]

    on, off = partial(idle, True), partial(idle, False)
    idle_on, idle_again, idle_off = turns(1, on, on, off)
    on, off = partial(full, True), partial(full, False)
    stretches = max(1, round(seconds / STRETCH_SECONDS))
    full_on, full_off, full_again = turns(stretches, on, off, off)
    record = partial(record_nanoseconds, seconds / 10)
    recorded, again = turns(1, record, record)
    fact = f"an idle loop alone: {median(idle_off):.2f} % of a core"
    return [
        within(IDLE, 1.0, idle_on, idle_again, [fact]),
        find(FULL, full_on, full_off, full_again),
        within(RECORD, 20.0, recorded, again),
    ]


def least(values: list[float], stretches: int) -> list[float]:
    """The least of each round: others of this machine only add."""
    rounds = range(0, len(values), stretches)
    return [min(values[start : start + stretches]) for start in rounds]


def within(
    claim: Claim,
    limit: float,
    measured: list[float],
    again: list[float],
    facts: list[str] | None = None,
) -> Finding:
    """Judge what was measured by a number that was set beforehand."""
    band = find(claim, measured, measured, again).band
    ratio, rounds = median(measured) / limit, len(measured)
    verdict = judge(claim, ratio, band, rounds)
    sides = median(measured), limit
    return Finding(claim, *sides, ratio, band, rounds, verdict, facts or [])
