"""Kernels: how the sums of a VWAP are computed, in pure Python or by NumPy.

Which kernel it was, and in what order or pieces the ticks came, cannot be seen
in the result. Floating point would show it: above 2**53 the order of additions
changes a float's sum.

NumPy adds int64, which is exact until it wraps around. So each batch is
measured first: the bits of its largest price, its largest size and its length
bound its sums. Below 62 bits they are added as they are. Above, the sizes are
split into two limbs, and where even that is too wide, Python's integers do it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol

import numpy as np

from quants.sums import Part, RunningSums, Sums
from quants.tick import Rows

KernelName = Literal["numpy", "python"]
SAFE_BITS = 62  # of an int64's 63; the last one makes room for carries


class Traded(Protocol):
    """Anything that shows a tick's three numbers: a row, a pooled lease."""

    @property
    def price(self) -> int:
        """Fixed point."""

    @property
    def size(self) -> int:
        """Fixed point."""

    @property
    def symbol(self) -> int:
        """Index into the symbol table."""


Read = Callable[[Rows], Iterable[Traded]]


class Kernel(Protocol):
    """Running sums for a table of symbols."""

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""

    def part(self) -> Part:
        """The sums so far, ready to be merged into others."""


class PythonKernel(RunningSums):
    """The sums in pure Python: one loop, three additions a tick.

    Args:
        symbols: length of the symbol table.
        read: how a batch becomes single ticks; `None` reads plain columns.

    Cost: about 110 ns a tick; ten times that through the leases of a pool.
    """

    def __init__(self, symbols: int, read: Read | None = None) -> None:
        super().__init__(symbols)
        self.read = read

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        self.add_ticks(columns(rows) if self.read is None else each(self.read(rows)))


def columns(rows: Rows) -> Iterator[tuple[int, int, int]]:
    """The price, size and symbol of every tick, as Python's integers."""
    lists = (rows[name].tolist() for name in ("price", "size", "symbol"))
    return zip(*lists, strict=True)


def each(ticks: Iterable[Traded]) -> Iterator[tuple[int, int, int]]:
    """The price, size and symbol of every tick, one object at a time."""
    return ((tick.price, tick.size, tick.symbol) for tick in ticks)


class NumpyKernel:
    """The same sums, a batch at a time, in int64.

    Cost: about 12 ns a tick at 1000 rows a batch; the int64 sums are carried
    over into Python's integers before they could wrap around.
    """

    def __init__(self, symbols: int) -> None:
        self._wide = RunningSums(symbols)  # what int64 can no longer hold
        self._clear(symbols)

    def _clear(self, symbols: int) -> None:
        self.price_size = np.zeros(symbols, np.int64)
        self.size = np.zeros(symbols, np.int64)
        self.ticks = np.zeros(symbols, np.int64)
        self._bound = 0  # no sum in the arrays can be larger

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        price_bits, size_bits = bit_lengths(rows)
        room = SAFE_BITS - price_bits - len(rows).bit_length()
        if size_bits <= room:
            self._reserve(1 << (SAFE_BITS - room + size_bits))
            add_int64(self, rows)
        elif size_bits <= 2 * room and price_bits:
            self._add_limbs(rows, room)
        else:
            self._wide.add_ticks(columns(rows))

    def _reserve(self, bound: int) -> None:
        """Make sure that adding up to `bound` cannot wrap around."""
        if self._bound + bound >> SAFE_BITS:
            self._carry()
        self._bound += bound

    def _carry(self) -> None:
        arrays = (self.price_size, self.size, self.ticks)
        traded = np.flatnonzero(self.ticks)
        parts = (traded, *(array[traded] for array in arrays))
        self._wide.merge(list(zip(*(p.tolist() for p in parts), strict=True)))
        self._clear(len(self.ticks))

    def _add_limbs(self, rows: Rows, room: int) -> None:
        """Add price·size as price·(high·2^room + low), each part in int64."""
        symbol = rows["symbol"].astype(np.intp)  # (n,)
        ticks = np.bincount(symbol, minlength=len(self.ticks)).tolist()
        low, high = rows["size"] & ((1 << room) - 1), rows["size"] >> room
        for limb, shift in ((low, 0), (high, room)):
            total = np.zeros((2, len(ticks)), np.int64)  # Σ price·limb, Σ limb
            np.add.at(total[0], symbol, rows["price"] * limb)
            np.add.at(total[1], symbol, limb)
            for index, (price_size, size) in enumerate(
                zip(*total.tolist(), strict=True)
            ):
                self._wide.price_size[index] += price_size << shift
                self._wide.size[index] += size << shift
        for index, count in enumerate(ticks):
            self._wide.ticks[index] += count

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""
        self._carry()
        return self._wide.sums()

    def part(self) -> Part:
        """The sums so far, ready to be merged into others."""
        self._carry()
        return self._wide.part()


def add_int64(sums: NumpyKernel, rows: Rows) -> None:
    """Add ticks whose sums are known to fit int64."""
    symbol = rows["symbol"].astype(np.intp)  # (n,) what indexing wants
    np.add.at(sums.price_size, symbol, rows["price"] * rows["size"])
    np.add.at(sums.size, symbol, rows["size"])
    sums.ticks += np.bincount(symbol, minlength=len(sums.ticks))


def bit_lengths(rows: Rows) -> tuple[int, int]:
    """Bits that hold every price, and every size, of a batch.

    The OR of all values has as many bits as the largest, and one pass finds it.
    A negative value would make it negative: then 64, more than any int64.
    """
    price, size = (int(np.bitwise_or.reduce(rows[c])) for c in ("price", "size"))
    return (
        64 if price < 0 else price.bit_length(),
        64 if size < 0 else size.bit_length(),
    )
