"""Where the ticks come from: ten million in memory, again and again."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from quants.market import Market
from quants.tick import TICK, Rows, Symbol

EVENT_RATE = 50_000  # ticks in a second of the market's own time


class Looped:
    """A source that starts over at its end; the server numbers on.

    Args:
        rows: what it repeats, shape (n,), n >= 1.
    """

    def __init__(self, rows: Rows, symbols: Sequence[Symbol]) -> None:
        self.rows, self.symbols = rows, symbols
        self._next = 0  # index of the row that take() gives next

    def take(self, n: int) -> Rows:
        """The next n rows, a view; fewer where the loop closes."""
        start = self._next
        rows = self.rows[start : start + n]
        self._next = (start + len(rows)) % len(self.rows)
        return rows

    def parts(self, n: int) -> Iterator[Rows]:
        """The next n rows as views, in order."""
        while n:
            rows = self.take(n)
            n -= len(rows)
            yield rows


def make_ticks(file: Path, ticks: int) -> None:
    """Write the first ticks of the seeded market as plain rows."""
    market = Market(seed=1, tick_rate=EVENT_RATE)
    with open(file, "wb") as rows:
        while ticks:
            block = market.take(min(ticks, 1 << 20))
            block.tofile(rows)
            ticks -= len(block)


def in_memory(file: Path) -> Looped:
    """The ticks of a file, all of them read."""
    return Looped(np.fromfile(file, TICK), Market().symbols)
