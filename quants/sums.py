"""Exact sums of ticks, in Python's integers: all of a VWAP that is kept.

Sums of parts are added in any order and give the sums of the whole. That is
what lets work be dealt out, done twice after a fault, and merged.

Nothing here needs NumPy, which does not load in a sub-interpreter.
"""

import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from quants.errors import EmptyBatch

# What a worker sends back: (symbol, Σ price·size, Σ size, ticks) of each symbol
# that traded.
Part = list[tuple[int, int, int, int]]

# A tick's price, size and symbol, in bytes; its time and flags are skipped.
PACKED = struct.Struct("<8xqqI4x")


@dataclass(frozen=True, slots=True)
class Sums:
    """Exact sums of one symbol. Adding two is how parallel work is merged."""

    price_size: int = 0
    size: int = 0
    ticks: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.price_size + other.price_size,
            self.size + other.size,
            self.ticks + other.ticks,
        )

    def vwap(self) -> Fraction:
        """The VWAP in fixed-point price units.

        Raises:
            EmptyBatch: without volume there is no price.
        """
        if not self.size:
            raise EmptyBatch(f"{self.ticks} ticks, volume 0: no VWAP is defined")
        return Fraction(self.price_size, self.size)


class RunningSums:
    """Running sums for a table of symbols.

    Cost: about 100 ns a tick, all of it under the GIL.
    """

    def __init__(self, symbols: int) -> None:
        self.price_size = [0] * symbols
        self.size = [0] * symbols
        self.ticks = [0] * symbols

    def add_ticks(self, ticks: Iterable[tuple[int, int, int]]) -> None:
        """Add ticks: (price, size, symbol)."""
        price_sizes, sizes, counts = self.price_size, self.size, self.ticks
        for price, size, symbol in ticks:
            price_sizes[symbol] += price * size
            sizes[symbol] += size
            counts[symbol] += 1

    def merge(self, part: Part) -> None:
        """Add what somebody else has summed."""
        for symbol, price_size, size, ticks in part:
            self.price_size[symbol] += price_size
            self.size[symbol] += size
            self.ticks[symbol] += ticks

    def part(self) -> Part:
        """The sums so far of the symbols that traded, ready to be merged."""
        columns = zip(self.price_size, self.size, self.ticks, strict=True)
        return [(symbol, *three) for symbol, three in enumerate(columns) if three[2]]

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""
        columns = zip(self.price_size, self.size, self.ticks, strict=True)
        return [Sums(*three) for three in columns]


class Done(NamedTuple):
    """A worker's answer to a batch."""

    part: Part
    busy_ns: int  # CPU time of the thread that summed
    pooled: tuple[int, int, int] = (0, 0, 0)  # hits, misses, leaked: its own


def sum_packed(rows: bytes, symbols: int) -> Done:
    """Sum the bytes of a batch: what a sub-interpreter can do."""
    began, sums = time.thread_time_ns(), RunningSums(symbols)
    sums.add_ticks(PACKED.iter_unpack(rows))
    return Done(sums.part(), time.thread_time_ns() - began)
