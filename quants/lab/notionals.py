"""Work to be profiled: one sum, written twice, and a stopwatch that knows.

The one way calls a function for every tick, the other one hands the batch to C.
The batch gets more ticks, so it takes most of the time; how many is tried out
first. Now and then the program waits, as a pump waits for its feed.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from operator import mul

from quants.lab.timing import stopwatch
from quants.market import Market
from quants.tick import Rows

Column = list[int]
Batch = tuple[Column, Column]  # prices, sizes

SMALL_SECONDS = 0.0007  # the calls of one turn: far below the 5 ms of the GIL
LARGER = 1.55  # times the time, for the batch of one turn; 1.9 when caches are cold
ROWS = 100_000  # to choose from
TURNS = 6  # between two waits
WAIT_SECONDS = 0.003
PARTS = ("whole_batch", "tick_by_tick", "waiting", "the rest")


def tick_by_tick(prices: Column, sizes: Column) -> int:
    """The notional of all ticks: price times size, summed."""
    total = 0
    for price, size in zip(prices, sizes, strict=True):
        total = added(total, notional(price, size))
    return total


def notional(price: int, size: int) -> int:
    """What changed hands in one tick."""
    return price * size


def added(total: int, amount: int) -> int:
    """The total with one more amount."""
    return total + amount


def whole_batch(prices: Column, sizes: Column) -> int:
    """The notional of all ticks: price times size, summed."""
    return sum(map(mul, prices, sizes))


class Work:
    """The program to be looked at; it keeps a stopwatch of its own.

    Attributes:
        seconds: what each part took.
    """

    def __init__(self, small: Batch, large: Batch) -> None:
        self.small, self.large = small, large
        self.seconds: dict[str, float] = dict.fromkeys(PARTS[:3], 0.0)

    async def run(self, seconds: float) -> None:
        """Sum and wait in turn, for so long."""
        ends = time.perf_counter() + seconds
        while time.perf_counter() < ends:
            for _ in range(TURNS):
                self.seconds["tick_by_tick"] += took(tick_by_tick, self.small)
                self.seconds["whole_batch"] += took(whole_batch, self.large)
                await self.wait(0.0)
            await self.wait(WAIT_SECONDS)

    async def wait(self, seconds: float) -> None:
        """Let the loop have its way, timed."""
        since = time.perf_counter()
        await asyncio.sleep(seconds)
        self.seconds["waiting"] += time.perf_counter() - since


def took(part: Callable[[Column, Column], int], batch: Batch) -> float:
    """Seconds that a part took."""
    return stopwatch(partial(part, *batch))


def make_work() -> Work:
    """Work whose batches take longer than its many calls, here and now."""
    rows, counts = Market().take(ROWS), [1000.0, 1000.0]
    wanted = SMALL_SECONDS, LARGER * SMALL_SECONDS
    for _ in range(3):  # caches make a larger batch dearer: correct twice
        batches = [first(rows, count) for count in counts]
        pairs = zip((tick_by_tick, whole_batch), batches, strict=True)
        found = [min(took(part, batch) for _ in range(20)) for part, batch in pairs]
        counts = [
            count * aim / seconds
            for count, aim, seconds in zip(counts, wanted, found, strict=True)
        ]
    return Work(*(first(rows, count) for count in counts))


def first(rows: Rows, count: float) -> Batch:
    """The first so many ticks, as columns."""
    some = rows[: round(count)]
    return some["price"].tolist(), some["size"].tolist()
