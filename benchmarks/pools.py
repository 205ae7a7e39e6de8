"""Does a pool of ticks pay? Time, collections and memory, beside plain objects.

Each side makes a tick of four numbers, reads two and lets it go: one at a time,
or a batch of 1000 that are alive together, as the pump reads. Two sides make no
tick and read the rows where they are. The collector is on throughout.

`python3.14 -m benchmarks.pools` prints the lines of another interpreter for the
tables in README.md.
"""

import gc
import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.monitor import least
from benchmarks.size import FULL, Size
from quants.evidence import Claim, Finding, find, in_turn
from quants.market import Market
from quants.pools import TickPool
from quants.simple_pools import FreeListPool, WeakrefPool
from quants.tick import Rows

ROWS = 1000
BATCHES = 5  # of a pass that is timed
PASSES = 20  # in which collections are counted, so of 100,000 ticks
STRETCHES = 5  # of a side in a round

FREE_LIST = Claim(
    "a free list: at least 0.9 times the time of a slots object",
    "FreeListPool", "slots object", "ns/tick", "at least", 0.9,
)  # fmt: skip
WEAKREF = Claim(
    "a pool by weakref.finalize: at least 4 times the time of a slots object",
    "WeakrefPool", "slots object", "ns/tick", "at least", 4.0,
)  # fmt: skip
LEASE = Claim(
    "leases with generations: at least 3 times the time of a slots object",
    "TickPool", "slots object", "ns/tick", "at least", 3.0,
)  # fmt: skip
COLUMNS = Claim(
    "no object at all: columns are at least 3 times as fast as tuples",
    "tuple", "array columns", "ns/tick", "at least", 3.0,
)  # fmt: skip
CLAIMS = (FREE_LIST, WEAKREF, LEASE, COLUMNS)

Four = tuple[int, int, int, int]  # time_ns, price, size, symbol
Make = Callable[[int, int, int, int], Any]
Found = dict[str, list[float]]


class Given(NamedTuple):
    """The same ticks twice: as rows, and as Python's integers."""

    rows: Rows
    ticks: list[Four]


class Slots:
    """The plain object that a pool would save."""

    __slots__ = ("price", "size", "symbol", "time_ns")

    def __init__(self, time_ns: int, price: int, size: int, symbol: int) -> None:
        self.time_ns, self.price = time_ns, price
        self.size, self.symbol = size, symbol


# ---- Σ price·size of a batch, one tick at a time and all of them alive


def tuple_each(given: Given) -> int:
    """A tuple at a time."""
    total = 0
    for time_ns, price, size, symbol in given.ticks:
        tick = (time_ns, price, size, symbol)
        total += tick[1] * tick[2]
    return total


def tuple_batch(given: Given) -> int:
    """A batch of tuples."""
    ticks = [(time_ns, price, size, n) for time_ns, price, size, n in given.ticks]
    total = 0
    for tick in ticks:
        total += tick[1] * tick[2]
    return total


def drop_each(make: Make, given: Given) -> int:
    """An object at a time; it dies when the next one is there."""
    total = 0
    for time_ns, price, size, symbol in given.ticks:
        tick = make(time_ns, price, size, symbol)
        total += tick.price * tick.size
    return total


def drop_batch(make: Make, given: Given) -> int:
    """A batch of objects, which die together."""
    ticks = [make(time_ns, price, size, n) for time_ns, price, size, n in given.ticks]
    total = 0
    for tick in ticks:
        total += tick.price * tick.size
    return total


def release_each(make: Make, given: Given) -> int:
    """An object at a time; it is given back before the next one is asked for."""
    total = 0
    for time_ns, price, size, symbol in given.ticks:
        tick = make(time_ns, price, size, symbol)
        total += tick.price * tick.size
        tick.release()
    return total


def release_batch(make: Make, given: Given) -> int:
    """A batch of objects, which are given back one by one."""
    ticks = [make(time_ns, price, size, n) for time_ns, price, size, n in given.ticks]
    total = 0
    for tick in ticks:
        total += tick.price * tick.size
    for tick in ticks:
        tick.release()
    return total


def rows_each(given: Given) -> int:
    """A row of the array at a time."""
    total = 0
    for row in given.rows:
        total += int(row["price"] * row["size"])
    return total


def columns(given: Given) -> int:
    """Two columns of the array at once."""
    return int((given.rows["price"] * given.rows["size"]).sum())


# ---- what is measured of them


class Side(NamedTuple):
    """Ways to make ticks, and what a batch of them keeps alive."""

    each: Callable[[Given], int]
    batch: Callable[[Given], int]
    keep: Callable[[Rows], object]


def as_tuple(*four: int) -> tuple[int, ...]:
    """A tuple of what it is called with."""
    return four


def sides() -> dict[str, Side]:
    """All sides; each pool is as large as a batch."""

    def pooled(
        pool: type[FreeListPool | WeakrefPool | TickPool], each: Any, batch: Any
    ) -> Side:
        lease = pool(ROWS).lease
        keep = partial(kept, lambda: pool(ROWS).lease)
        return Side(partial(each, lease), partial(batch, lease), keep)

    return {
        "tuple": Side(tuple_each, tuple_batch, partial(kept, lambda: as_tuple)),
        "slots object": Side(
            partial(drop_each, Slots),
            partial(drop_batch, Slots),
            partial(kept, lambda: Slots),
        ),
        "FreeListPool": pooled(FreeListPool, release_each, release_batch),
        "WeakrefPool": pooled(WeakrefPool, drop_each, drop_batch),
        "TickPool": pooled(TickPool, release_each, release_batch),
        "array rows": Side(rows_each, rows_each, np.copy),
        "array columns": Side(columns, columns, np.copy),
    }


def kept(maker: Callable[[], Make], rows: Rows) -> object:
    """A batch of objects, all alive, their numbers and their pool included."""
    make = maker()
    return make, [make(*four) for *four, _ in rows.tolist()]


def nanoseconds(
    total: Callable[[Given], int], batches: list[Given], seconds: float
) -> float:
    """CPU time of a tick, of the fastest of some passes."""
    passes, best = 0, float("inf")
    end = time.process_time() + seconds
    while passes < 3 or time.process_time() < end:
        start = time.process_time_ns()
        for given in batches:
            total(given)
        best = min(best, time.process_time_ns() - start)
        passes += 1
    return best / (len(batches) * ROWS)


def collections(total: Callable[[Given], int], batches: list[Given]) -> int:
    """How often the garbage collector runs in 100,000 ticks."""
    gc.collect()
    before = collections_so_far()
    for _ in range(PASSES):
        for given in batches:
            total(given)
    return collections_so_far() - before


def collections_so_far() -> int:
    """Of all generations."""
    return sum(int(each["collections"]) for each in gc.get_stats())


def bytes_alive(keep: Callable[[Rows], object], rows: Rows) -> float:
    """Memory of a tick that is alive, its four numbers included."""
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        alive = keep(rows)
        gc.collect()  # else freed tuples wait to be used again
        after, _ = tracemalloc.get_traced_memory()
        del alive
    finally:
        tracemalloc.stop()
    return (after - before) / len(rows)


def check(batches: list[Given]) -> None:
    """All sides find the same sums."""
    for given in batches:
        expected = sum(price * size for _, price, size, _ in given.ticks)
        for name, side in sides().items():
            found = {side.each(given), side.batch(given)}
            assert found == {expected}, f"{name}: {found} is not {expected}"


def measure(size: Size) -> list[Finding]:
    """All claims, of one tick at a time; what else was found are facts."""
    batches, all_sides = make_batches(), sides()
    found = timed(size, all_sides, batches)
    facts = [
        f"{name}: {median(found[name]):,.0f} ns, in batches "
        f"{median(found[name + ', batch']):,.0f}; "
        f"{collections(side.each, batches):,} and "
        f"{collections(side.batch, batches):,} collections in 100,000 ticks; "
        f"{bytes_alive(side.keep, batches[0].rows):,.0f} bytes alive"
        for name, side in all_sides.items()
    ]
    first, *others = (
        find(
            claim, found[claim.left], found[claim.right], found[f"{claim.right} again"]
        )
        for claim in CLAIMS
    )
    return [replace(first, facts=facts), *others]


def make_batches() -> list[Given]:
    """Batches as frames come, each with a buffer of its own."""
    market = Market(seed=1)
    rows = [market.take(ROWS).copy() for _ in range(BATCHES)]
    batches = [Given(each, [row[:4] for row in each.tolist()]) for each in rows]
    check(batches)
    return batches


def timed(size: Size, all_sides: dict[str, Side], batches: list[Given]) -> Found:
    """ns/tick of all sides, both ways, in turn; of each round the least."""
    ways = {name: side.each for name, side in all_sides.items()}
    ways |= {f"{claim.right} again": ways[claim.right] for claim in CLAIMS}
    ways |= {f"{name}, batch": side.batch for name, side in all_sides.items()}
    seconds = size.seconds / 20 / STRETCHES
    stretch = {
        name: partial(nanoseconds, total, batches, seconds)
        for name, total in ways.items()
    }
    gc.collect()
    found = in_turn(stretch, size.rounds * STRETCHES)
    return {name: least(values, STRETCHES) for name, values in found.items()}


def main() -> None:
    """The lines of this Python for the two tables."""
    batches, all_sides = make_batches(), sides()
    found = timed(FULL, all_sides, batches)
    name_of_python = platform.python_version() + sys.abiflags
    times, runs = [name_of_python], [name_of_python]
    for name, side in all_sides.items():
        each, batch = median(found[name]), median(found[f"{name}, batch"])
        times.append(f"{each:,.0f} / {batch:,.0f}")
        runs.append(str(collections(side.batch, batches)))
    for cells in (times, runs):
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
