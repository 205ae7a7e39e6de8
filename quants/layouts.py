"""The layouts of trade files: lines in, trades out, one function for each.

An opening function is asked whether a file's first lines are its layout. If
so, it gives the function that reads them, a few thousand lines at a time.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import date, timedelta
from functools import partial

import numpy as np

from quants.coinbase import coinbase, coinbase_advanced
from quants.errors import RecordingError
from quants.exact import (
    Integers,
    check,
    day_times,
    decimals,
    epoch_times,
    integers,
    iso_times,
    ns_times,
    trade_ids,
    without_zeros,
)
from quants.lines import Column, Lines
from quants.trades import (
    BUYER_IS_MAKER,
    NO_TRADES,
    Found,
    Head,
    Layout,
    Trades,
    split,
    trades_of,
)

# Binance ---------------------------------------------------------------------

BOOLEANS = {"True": 1, "true": 1, "TRUE": 1, "False": 0, "false": 0, "FALSE": 0}


def binance(head: Head) -> Layout | None:
    """aggTrades and trades, spot and futures, with or without a header.

    In all four the id, price and size come first, and the time stands before
    the first boolean, which says whether the buyer is the maker.
    """
    header = head.lines.texts[0] if not head.fields()[0].isdigit() else ""
    sample = head.fields(1 if header else 0)
    maker = next((i for i, text in enumerate(sample) if text in BOOLEANS), 0)
    if maker not in (5, 6) or "buyer" not in (header or "buyer").lower():
        return None
    symbol = head.named(r"([A-Z0-9_]+)-(?:aggT|t)rades-")
    read = partial(read_binance, header, len(sample), maker, symbol)
    return Layout(read, counts_up=True)


def read_binance(
    header: str, width: int, maker: int, symbol: str, lines: Lines, found: Found
) -> Trades:
    """Spot times are in us from 2025 on and in ms before: their size tells."""
    lines, columns = split(lines, header, width)
    if not columns:
        return NO_TRADES
    prices = decimals(lines.column("price", columns[1]))
    sizes = lines.column("size", columns[2])
    time_ns = epoch_times(lines.column("time", columns[maker - 1]))
    trades = trades_of(lines, found, [symbol] * len(lines), time_ns, prices, sizes)
    trades["id"] = trade_ids(lines.column("trade id", columns[0]))
    trades["flags"] = truths(lines.column("buyer is maker", columns[maker]))
    return trades


def truths(column: Column) -> Integers:
    """1 for true, 0 for false."""
    found = list(map(BOOLEANS.get, column.texts))
    if None in found:
        raise column.refuse(found.index(None), "is neither true nor false; correct it")
    return np.array(found, np.int64)


# LOBSTER ---------------------------------------------------------------------

LOBSTER_FILE = r"([A-Z][A-Z0-9.-]*)_(\d{4}-\d\d-\d\d)_"
EXECUTIONS = ("4", "5")  # of a visible and of a hidden order
OTHERS = {
    "1": "order",
    "2": "cancellation",
    "3": "deletion",
    "6": "cross",
    "7": "halt",
}


def lobster(head: Head) -> Layout | None:
    """LOBSTER message files; symbol and date are in the file's name only."""
    fields, path = head.fields(), head.lines.path
    if len(fields) != 6 or kind_fault(fields[1]) or fields[5] not in ("1", "-1"):
        return None
    name = re.match(LOBSTER_FILE, path.name)
    day = name and lobster_day(name[2])
    if not (name and day):
        reason = "its name holds no date; call it AAPL_2012-06-21_message.csv or so"
        raise RecordingError(path, None, reason)
    midnight_ns = new_york_midnight_ns(day)
    return Layout(partial(read_lobster, head.symbol or name[1], midnight_ns))


def lobster_day(text: str) -> date | None:
    """The day in a file's name; None if it is none from 1970 to 2115."""
    with suppress(ValueError):
        day = date.fromisoformat(text)
        return day if 1970 <= day.year <= 2115 else None
    return None


def read_lobster(symbol: str, midnight_ns: int, lines: Lines, found: Found) -> Trades:
    """Prices are in 1/10,000; the direction is that of the resting order."""
    kinds = split(lines, "", 6)[1][1]
    check(lines.column("type", kinds), kind_fault)
    found.skip(OTHERS[kind] for kind in kinds if kind in OTHERS)
    executed = lines.where([kind in EXECUTIONS for kind in kinds])
    lines, columns = split(executed, "", 6)
    if not columns:
        return NO_TRADES
    times, _, _, sizes, prices, directions = columns
    trades = trades_of(
        lines,
        found,
        [symbol] * len(lines),
        day_times(lines.column("time", times), midnight_ns),
        without_zeros(integers(lines.column("price", prices)), 4),
        lines.column("size", sizes),
    )
    trades["flags"] = [BUYER_IS_MAKER * (side == "1") for side in directions]
    return trades


def kind_fault(kind: str) -> str:
    """Why a text is no type of a message; empty if it is one."""
    known = kind in EXECUTIONS or kind in OTHERS
    return "" if known else "is none of 1 to 7; correct the line"


def new_york_midnight_ns(day: date) -> int:
    """When a day began at the exchange, from 2007 on, in ns since 1970.

    By rule, because not every system has a table of time zones: summer time
    begins on the second Sunday of March, ends on the first of November.
    """
    begins, ends = _sunday(date(day.year, 3, 14)), _sunday(date(day.year, 11, 7))
    hours = 4 if begins < day <= ends else 5
    return ((day - date(1970, 1, 1)).days * 24 + hours) * 3600 * 10**9


def _sunday(last: date) -> date:
    """The Sunday on a day or before it."""
    return last - timedelta(last.isoweekday() % 7)


# Plain CSV -------------------------------------------------------------------

NAMES = {
    "time": ("time_ns", "time", "timestamp", "datetime"),
    "price": ("price",),
    "size": ("size", "quantity", "qty"),
    "symbol": ("symbol",),
    "trade id": ("trade_id", "id", "seq"),
}
CSV_FILE = r"([A-Z][A-Z0-9]*(?:-[A-Z0-9]+)?)[._-]"


def plain_csv(head: Head) -> Layout | None:
    """CSV whose first line names its columns, one trade a line."""
    names = [name.strip().lower() for name in head.fields()]
    places = {what: _place(names, known) for what, known in NAMES.items()}
    if sum(at >= 0 for at in places.values()) < 2:
        return None
    for what in ("time", "price", "size"):
        if places[what] < 0:
            reason = f"no column holds the {what}; call it {' or '.join(NAMES[what])}"
            raise head.lines.refuse(0, reason)
    symbol = head.named(CSV_FILE) if places["symbol"] < 0 else ""
    sample = head.fields(1) or names
    clock, id_at = _clock(names, sample, places["time"]), places["trade id"]
    if id_at >= 0 and not "".join(sample[id_at : id_at + 1]).isdigit():
        places["trade id"] = -1
    read = partial(read_csv, head.lines.texts[0], len(names), places, symbol, clock)
    return Layout(read, remarks=tuple(_csv_remarks(names, sample, places)))


def _place(names: Sequence[str], known: Sequence[str]) -> int:
    """Where the first of the known names stands; -1 if none does."""
    return next((names.index(name) for name in known if name in names), -1)


def _clock(
    names: Sequence[str], sample: Sequence[str], at: int
) -> Callable[[Column], Integers]:
    """How to read the column of times: by its name, else by its first text."""
    if names[at] == "time_ns":
        return ns_times
    return iso_times if "-" in "".join(sample[at : at + 1]) else epoch_times


def _csv_remarks(
    names: Sequence[str], sample: Sequence[str], places: Mapping[str, int]
) -> Iterator[str]:
    id_at = _place(names, NAMES["trade id"])
    if id_at != places["trade id"]:
        yield "Trade ids are no whole numbers, so a repeated trade is not noticed."
    used = {*places.values(), id_at}
    aside = [name for at, name in enumerate(names) if at not in used]
    if aside:
        yield f"Columns left aside: {', '.join(aside)}."
    time = "".join(sample[places["time"] : places["time"] + 1])
    if "-" in time and not re.search(r"(Z|[+-]\d\d:\d\d)$", time[10:]):
        yield "Times name no zone and are read as UTC."


def read_csv(
    header: str,
    width: int,
    places: Mapping[str, int],
    symbol: str,
    clock: Callable[[Column], Integers],
    lines: Lines,
    found: Found,
) -> Trades:
    """The columns that are known, by name."""
    lines, columns = split(lines, header, width)
    if not columns:
        return NO_TRADES
    given = {what: columns[at] for what, at in places.items() if at >= 0}
    trades = trades_of(
        lines,
        found,
        given.get("symbol", (symbol,) * len(lines)),
        clock(lines.column("time", given["time"])),
        decimals(lines.column("price", given["price"])),
        lines.column("size", given["size"]),
    )
    if "trade id" in given:
        trades["id"] = trade_ids(lines.column("trade id", given["trade id"]))
    return trades


# All of them -----------------------------------------------------------------

# In the order in which they are tried: a header of Binance's is plain CSV too.
LAYOUTS: dict[str, Callable[[Head], Layout | None]] = {
    "coinbase-advanced": coinbase_advanced,
    "coinbase": coinbase,
    "binance": binance,
    "lobster": lobster,
    "csv": plain_csv,
}
