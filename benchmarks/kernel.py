"""The exact VWAP sum of 1000 rows: what exactness costs, what arrays save."""

import gc
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.size import Size
from quants.evidence import Claim, Finding, find, in_turn
from quants.kernels import NumpyKernel
from quants.market import Market
from quants.tick import Rows

ROWS = 1000

EXACT = Claim(
    "exact int64 sums: at most 1.8 times the time of two float64 bincounts",
    "NumpyKernel.add", "two bincounts", "ns/tick", "at most", 1.8,
)  # fmt: skip
PYTHON = Claim(
    "exact int64 sums: at least 8 times as fast as pure Python",
    "pure Python", "NumpyKernel.add", "ns/tick", "at least", 8.0,
)  # fmt: skip


class Bincounts:
    """Float sums of price·size and size; inexact above 2**53."""

    def __init__(self, symbols: int) -> None:
        self.price_size, self.size = np.zeros(symbols), np.zeros(symbols)

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        symbol, size, n = rows["symbol"], rows["size"], len(self.size)
        self.price_size += np.bincount(symbol, rows["price"] * size, n)
        self.size += np.bincount(symbol, size, n)


class PurePython:
    """The same sums in lists: the fastest of five loops that were tried.

    Columns become lists (a NumPy scalar costs ten times as much), the products
    are even NumPy's, and the loop finds its lists as local names. Slower were
    the product in the loop, `map(mul, ...)`, `struct.iter_unpack`, `compress`.
    """

    def __init__(self, symbols: int) -> None:
        self.price_size, self.size = [0] * symbols, [0] * symbols

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        price_size, sizes = self.price_size, self.size
        prices, size = rows["price"], rows["size"]
        products = (prices * size).tolist()
        for symbol, traded, n in zip(
            rows["symbol"].tolist(), products, size.tolist(), strict=True
        ):
            price_size[symbol] += traded
            sizes[symbol] += n


Add = Callable[[Rows], None]


def nanoseconds(add: Add, batches: list[Rows], seconds: float) -> float:
    """CPU time of one tick, of the fastest of some passes over the batches."""
    passes, best = 0, float("inf")
    end = time.process_time() + seconds
    while passes < 3 or time.process_time() < end:
        start = time.process_time_ns()
        for rows in batches:
            add(rows)
        best = min(best, time.process_time_ns() - start)
        passes += 1
    return best / sum(map(len, batches))


def measure(size: Size) -> list[Finding]:
    """Both claims, from one sweep in this process."""
    market = Market(seed=1)
    # As frames come: each with a buffer of its own, columns 32 bytes apart.
    batches = [market.take(ROWS).copy() for _ in range(50)]
    symbols = len(market.symbols)
    check(batches, symbols)
    adds = {
        "exact": NumpyKernel(symbols).add,
        "bincount": Bincounts(symbols).add,
        "python": PurePython(symbols).add,
        "exact again": NumpyKernel(symbols).add,
        "bincount again": Bincounts(symbols).add,
    }
    each = size.seconds / 10
    sides = {
        name: partial(nanoseconds, add, batches, each) for name, add in adds.items()
    }
    gc.collect()
    found = in_turn(sides, size.rounds)
    exact, bincount = found["exact"], found["bincount"]
    return [
        find(EXACT, exact, bincount, found["bincount again"]),
        find(PYTHON, found["python"], exact, found["exact again"]),
    ]


def check(batches: list[Rows], symbols: int) -> None:
    """All three agree; these sums are small enough for floats."""
    exact, floats, python = (
        NumpyKernel(symbols), Bincounts(symbols), PurePython(symbols)
    )  # fmt: skip
    for rows in batches:
        for sums in (exact, floats, python):
            sums.add(rows)
    expected = [(total.price_size, total.size) for total in exact.sums()]
    for other in (floats, python):
        found = list(zip(other.price_size, other.size, strict=True))
        assert found == expected, f"{found} is not {expected}"
