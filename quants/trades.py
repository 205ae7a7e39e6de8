"""What every layout of a trade file gives: trades, read but not yet ticks.

Each price and size still has its own decimals. How many a symbol needs is
known only after the last line.
"""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import numpy.typing as npt

from quants.errors import SettingsError
from quants.exact import Integers, decimals
from quants.lines import Column, Lines

TRADE = np.dtype(
    [
        ("line", "<i8"),  # where it stands in the file
        ("symbol", "<u4"),  # index into Found.symbols
        ("flags", "<u4"),
        ("id", "<i8"),  # of the trade; -1 if the layout has none
        ("time_ns", "<i8"),
        ("price", "<i8"),  # its digits, without zeros at the end
        ("price_decimals", "<i8"),
        ("size", "<i8"),
        ("size_decimals", "<i8"),
    ]
)
Trades = npt.NDArray[np.void]  # shape (n,), dtype TRADE

NO_TRADES: Trades = np.empty(0, TRADE)
NO_ID = -1
BUYER_IS_MAKER = 1  # bit 0 of a row's flags; clear if the seller is, or unknown


@dataclass(slots=True)
class Found:
    """What a reading has found so far, beside the trades."""

    symbols: dict[str, int] = field(default_factory=dict)  # name: index
    skipped: Counter[str] = field(default_factory=Counter)  # lines, by what they are

    def skip(self, kinds: Iterable[str]) -> None:
        """Count lines that are no trade, each by what it is."""
        self.skipped.update(kinds)

    def indices(self, names: Column) -> Integers:
        """The index of each symbol, a new one for a name not met before."""
        if "" in names.texts:
            reason = "is no name; correct the line"
            raise names.refuse(list(names.texts).index(""), reason)
        for name in dict.fromkeys(names.texts):
            self.symbols.setdefault(name, len(self.symbols))
        return np.array([self.symbols[name] for name in names.texts], np.int64)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the lines of one file are read.

    Attributes:
        read: the trades of some lines.
        counts_up: a symbol's trade ids do so by one, so a missing one shows.
        remarks: what its user should know.
    """

    read: Callable[[Lines, Found], Trades]
    counts_up: bool = False
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """What a layout is recognised by: the first lines, the name, --symbol."""

    lines: Lines
    symbol: str | None

    def fields(self, index: int = 0) -> list[str]:
        """The fields of one of the first lines; empty if it is not there."""
        return fields_of(self.lines, index) if index < len(self.lines) else []

    def named(self, pattern: str) -> str:
        """The symbol: as told, or as a pattern finds it in the file's name."""
        found = re.match(pattern, self.lines.path.name)
        if not (self.symbol or found):
            reason = f"{self.lines.path.name} names no symbol; say --symbol BTCUSDT"
            raise SettingsError("symbol", None, reason)
        return self.symbol or (found[1] if found else "")


def trades_of(
    lines: Lines,
    found: Found,
    symbols: Sequence[str],
    time_ns: Integers,
    prices: tuple[Integers, Integers],
    sizes: Column,
) -> Trades:
    """Put columns together; ids and flags are left to the layout."""
    trades = np.zeros(len(lines), TRADE)
    trades["line"] = lines.numbers
    trades["symbol"] = found.indices(lines.column("symbol", symbols))
    trades["id"] = NO_ID
    trades["time_ns"] = time_ns
    trades["price"], trades["price_decimals"] = prices
    trades["size"], trades["size_decimals"] = decimals(sizes)
    if trades["size"].min() < 0:
        reason = "is negative; a size is at least 0"
        raise sizes.refuse(int(trades["size"].argmin()), reason)
    return trades


def fields_of(lines: Lines, index: int) -> list[str]:
    """The fields of one line of CSV.

    Raises:
        RecordingError: it is none, or one of its fields has over 131,072 characters.
    """
    try:
        return next(csv.reader([lines.texts[index]]))
    except csv.Error as error:
        reason = f"is no line of CSV ({error}); correct it"
        raise lines.refuse(index, reason) from error


def split(lines: Lines, header: str, width: int) -> tuple[Lines, list[list[str]]]:
    """The fields by column, and their lines: those that are no header.

    Files that were put end to end have headers inside.

    Raises:
        RecordingError: a line has more fields, or fewer.
    """
    if header in lines.texts:
        lines = lines.where([text != header for text in lines.texts])
    joined = ",".join(lines.texts)
    if '"' in joined:
        rows = [fields_of(lines, index) for index in range(len(lines))]
        counts, fields = list(map(len, rows)), list(chain.from_iterable(rows))
    else:
        # All lines at once: a third of the cost of one by one.
        counts = [text.count(",") + 1 for text in lines.texts]
        fields = joined.split(",")
    if set(counts) - {width}:
        at = next(at for at, count in enumerate(counts) if count != width)
        reason = f"has {counts[at]} fields, not {width} as the first line"
        raise lines.refuse(at, f"{reason}; complete it or leave it out")
    return lines, [fields[at::width] for at in range(width)] if lines else []
