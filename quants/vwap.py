"""Volume-weighted average price: exact, per symbol, by two kernels.

VWAP = Σ price·size / Σ size, as a `Fraction` of two integers. A kernel keeps
the running sums; which one, and in what order or pieces the ticks came, cannot
be seen in the result. Floating point would show it: above 2**53 the order of
additions changes a float's sum.

NumPy adds int64, which is exact until it wraps around. So each batch is
measured first: the bits of its largest price, its largest size and its length
bound its sums. Below 62 bits they are added as they are. Above, the sizes are
split into two limbs, and where even that is too wide, Python's integers do it.
"""

import logging
import time
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Context
from fractions import Fraction
from typing import Literal, Protocol

import numpy as np

from quants.errors import EmptyBatch
from quants.histogram import Histogram
from quants.metrics import Registry
from quants.tick import Batch, Rows, Symbol

log = logging.getLogger(__name__)

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


class Kernel(Protocol):
    """Running sums for a table of symbols."""

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""


class PythonKernel:
    """The sums in pure Python: one loop, three additions a tick.

    Args:
        symbols: length of the symbol table.
        read: how a batch becomes single ticks; `None` reads plain columns.

    Cost: about 150 ns a tick, all of it under the GIL.
    """

    def __init__(self, symbols: int, read: Read | None = None) -> None:
        self.price_size = [0] * symbols
        self.size = [0] * symbols
        self.ticks = [0] * symbols
        self.read = read

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        if self.read is not None:
            return self._add_each(self.read(rows))
        columns = (rows[name].tolist() for name in ("price", "size", "symbol"))
        for price, size, symbol in zip(*columns, strict=True):
            self.price_size[symbol] += price * size
            self.size[symbol] += size
            self.ticks[symbol] += 1

    def _add_each(self, ticks: Iterable[Traded]) -> None:
        for tick in ticks:
            self.price_size[tick.symbol] += tick.price * tick.size
            self.size[tick.symbol] += tick.size
            self.ticks[tick.symbol] += 1

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""
        return [
            Sums(*three)
            for three in zip(self.price_size, self.size, self.ticks, strict=True)
        ]


class NumpyKernel:
    """The same sums, a batch at a time, in int64.

    Cost: about 12 ns a tick at 1000 rows a batch; the int64 sums are carried
    over into Python's integers before they could wrap around.
    """

    def __init__(self, symbols: int) -> None:
        self._wide = PythonKernel(symbols)  # what int64 can no longer hold
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
            self._wide.add(rows)

    def _reserve(self, bound: int) -> None:
        """Make sure that adding up to `bound` cannot wrap around."""
        if self._bound + bound >> SAFE_BITS:
            self._carry()
        self._bound += bound

    def _carry(self) -> None:
        wide = self._wide
        for symbol in np.flatnonzero(self.ticks).tolist():
            wide.price_size[symbol] += int(self.price_size[symbol])
            wide.size[symbol] += int(self.size[symbol])
            wide.ticks[symbol] += int(self.ticks[symbol])
        self._clear(len(self.ticks))

    def _add_limbs(self, rows: Rows, room: int) -> None:
        """Add price·size as price·(high·2^room + low), each part in int64."""
        symbol = rows["symbol"].astype(np.intp)  # (n,)
        ticks = np.bincount(symbol, minlength=len(self.ticks))
        low, high = rows["size"] & ((1 << room) - 1), rows["size"] >> room
        sums = []
        for limb in (low, high):
            total = np.zeros((2, len(self.ticks)), np.int64)  # Σ price·limb, Σ limb
            np.add.at(total[0], symbol, rows["price"] * limb)
            np.add.at(total[1], symbol, limb)
            sums.append(total.tolist())
        for index in np.flatnonzero(ticks).tolist():
            self._wide.price_size[index] += sums[0][0][index] + (
                sums[1][0][index] << room
            )
            self._wide.size[index] += sums[0][1][index] + (sums[1][1][index] << room)
            self._wide.ticks[index] += int(ticks[index])

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""
        self._carry()
        return self._wide.sums()


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


def vwap_text(sums: Sums, symbol: Symbol, digits: int = 18) -> str | None:
    """The VWAP as a decimal text of the price, None without volume."""
    if not sums.size:
        return None
    price = sums.vwap() / 10**symbol.price_decimals
    context = Context(prec=digits)
    return f"{context.divide(price.numerator, price.denominator):f}"


class Vwap:
    """The stage: sums every batch, and knows how old each was by then."""

    def __init__(
        self,
        symbols: Sequence[Symbol],
        registry: Registry,
        *,
        kernel: KernelName = "numpy",
        read: Read | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.symbols = symbols
        self.latency = Histogram()  # intended send to summed, weighted by ticks
        self.gap_ticks = 0
        self._clock_ns = clock_ns
        self._kernel: Kernel = (
            NumpyKernel(len(symbols))
            if kernel == "numpy"
            else PythonKernel(len(symbols), read)
        )
        registry.histogram(
            "quants_vwap_latency_seconds",
            "From the intended send time of a batch to its VWAP",
            lambda: self.latency,
        )

    def __repr__(self) -> str:
        ticks = sum(s.ticks for s in self.sums())
        return f"<Vwap {len(self.symbols)} symbols, {ticks} ticks>"

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Sum batches until they end."""
        async for batch in batches:
            if batch.is_gap:
                self.gap_ticks += batch.span
                continue
            self._kernel.add(batch.rows)
            self.latency.record(self._clock_ns() - batch.sent_ns, len(batch))
            log.debug("%d ticks up to %d summed", len(batch), batch.next_seq - 1)

    def sums(self) -> list[Sums]:
        """The sums so far, one per symbol."""
        return self._kernel.sums()
