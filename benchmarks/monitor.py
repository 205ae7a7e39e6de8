"""What it costs to be watched: the monitor beside an idle loop and a full one.

CPU time of all threads, so that the timer and the reading of memory count. The
full loop sums batches of 1000 rows and turns some into tuples, which sets off
the garbage collector.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
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

Work = Callable[[], Coroutine[None, None, None]]


def cpu_seconds(work: Work, watched: bool) -> float:
    """CPU time of some work on a loop of its own."""

    async def main() -> float:
        with Monitor(Registry()) as monitor:
            beating = asyncio.create_task(monitor.run())
            await asyncio.sleep(0)
            start = time.process_time()
            await work()
            taken = time.process_time() - start
            beating.cancel()
        return taken

    async def alone() -> float:
        start = time.process_time()
        await work()
        return time.process_time() - start

    return asyncio.run(main() if watched else alone())


def idle_percent(seconds: float, watched: bool) -> float:
    """Percent of a core that a loop with nothing to do takes."""
    return cpu_seconds(partial(asyncio.sleep, seconds), watched) / seconds * 100


def batch_microseconds(batches: list[Rows], passes: int, watched: bool) -> float:
    """CPU time of a batch on a loop that never rests."""
    kernel, ages = NumpyKernel(8), Histogram()

    async def pump() -> None:
        for _ in range(passes):
            for rows in batches:
                kernel.add(rows)
                ages.record(1_000_000, len(rows))
                rows[:TUPLES].tolist()
                await asyncio.sleep(0)

    return cpu_seconds(pump, watched) / (passes * len(batches)) * 1e6


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
    batches = [Market().take(ROWS).copy() for _ in range(20)]
    passes = max(1, int(size.seconds * 500))
    idle = partial(idle_percent, size.seconds)
    full = partial(batch_microseconds, batches, passes)
    sides = {
        "idle": partial(idle, True),
        "idle again": partial(idle, True),
        "idle alone": partial(idle, False),
        "full": partial(full, True),
        "alone": partial(full, False),
        "alone again": partial(full, False),
        "record": partial(record_nanoseconds, size.seconds / 10),
        "record again": partial(record_nanoseconds, size.seconds / 10),
    }
    found = in_turn(sides, size.rounds)
    fact = f"an idle loop alone: {median(found['idle alone']):.2f} % of a core"
    return [
        within(IDLE, 1.0, found["idle"], found["idle again"], [fact]),
        find(FULL, found["full"], found["alone"], found["alone again"]),
        within(RECORD, 20.0, found["record"], found["record again"]),
    ]


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
