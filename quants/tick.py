"""The tick: one 32-byte row, the same on the wire, on disk and in memory.

Prices and sizes are integers in fixed point. Each symbol says how many
decimals its integers stand for: a price of 18950 at 2 decimals is 189.50.
Nothing is rounded on the way; a text that does not fit is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from quants.errors import InexactValue

TICK = np.dtype(
    [
        ("time_ns", "<i8"),  # event time, ns since 1970, UTC
        ("price", "<i8"),  # fixed point, price_decimals of the symbol
        ("size", "<i8"),  # fixed point, size_decimals of the symbol
        ("symbol", "<u4"),  # index into the feed's symbol table
        ("flags", "<u4"),
    ]
)
assert TICK.itemsize == 32

Rows = npt.NDArray[np.void]  # shape (n,), dtype TICK

# The same 32 bytes without names, to copy by: NumPy copies a TICK field by
# field, ten times as slowly.
ROW = np.dtype((np.void, TICK.itemsize))

NO_ROWS: Rows = np.empty(0, TICK)
NO_ROWS.flags.writeable = False


@dataclass(frozen=True, slots=True)
class Symbol:
    """An instrument and the decimals of its fixed-point integers."""

    name: str
    price_decimals: int = 2
    size_decimals: int = 0

    def price_text(self, price: int) -> str:
        """The exact decimal text of a price, e.g. 18950 -> '189.50'."""
        return to_text(price, self.price_decimals)

    def size_text(self, size: int) -> str:
        """The exact decimal text of a size."""
        return to_text(size, self.size_decimals)


@dataclass(frozen=True, slots=True)
class Batch:
    """A run of ticks with consecutive sequence numbers, or a hole in it.

    `rows` views the bytes of `frame`; nothing is copied and nobody may write.
    A gap has no rows and `span` missing ticks. `frame` is the very message
    that came over the wire, which is what the tick log appends.

    Attributes:
        rows: ticks, shape (n,), read-only.
        first_seq: sequence number of the first row (of a gap: first missing).
        span: sequence numbers covered: n, or the ticks missing.
        sent_ns: intended send time of the first row, CLOCK_REALTIME.
        frame: header and rows as bytes; empty after conflation.
    """

    rows: Rows
    first_seq: int
    span: int
    sent_ns: int
    frame: bytes = b""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def next_seq(self) -> int:
        """The sequence number that follows this batch."""
        return self.first_seq + self.span

    @property
    def is_gap(self) -> bool:
        """Whether this stands for ticks that never came."""
        return not len(self.rows)


def gap(first_seq: int, missing: int, sent_ns: int = 0, frame: bytes = b"") -> Batch:
    """The batch that says: `missing` ticks from `first_seq` on never came."""
    return Batch(NO_ROWS, first_seq, missing, sent_ns, frame)


def latest_per_symbol(older: Batch, newer: Batch) -> Batch:
    """Conflate two batches: of each symbol only its last row survives."""
    rows = np.concatenate([older.rows, newer.rows])[::-1]  # (n,) newest first
    _, first = np.unique(rows["symbol"], return_index=True)
    return replace(newer, rows=rows[np.sort(first)[::-1]], frame=b"")


def to_fixed(text: str, decimals: int) -> int:
    """The integer that holds a decimal text exactly.

    Raises:
        InexactValue: the text has a non-zero digit beyond `decimals`, or is
            no plain decimal number.
    """
    number = text.strip()
    unsigned = number[1:] if number.startswith(("-", "+")) else number
    whole, _, fraction = unsigned.partition(".")
    kept, lost = fraction[:decimals].ljust(decimals, "0"), fraction[decimals:]
    plain = text.isascii() and (whole + fraction).isdigit()
    if not plain or lost.strip("0"):
        raise InexactValue(text, decimals)
    fixed = int("0" + whole + kept)
    return -fixed if number.startswith("-") else fixed


def to_text(value: int, decimals: int) -> str:
    """The decimal text of a fixed-point integer, with exactly `decimals`."""
    sign, digits = ("-", str(-value)) if value < 0 else ("", str(value))
    if not decimals:
        return sign + digits
    digits = digits.rjust(decimals + 1, "0")
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


def rows_of(ticks: Sequence[tuple[Any, ...]]) -> Rows:
    """Rows from tuples (time_ns, price, size, symbol, flags); for tests."""
    return np.array(list(ticks), dtype=TICK)
