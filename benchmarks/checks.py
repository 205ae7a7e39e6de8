"""A run counts only if its results are right: sums, log, alerts, all ticks.

The expected figures come from pandas and from Python's integers, an oracle
that shares nothing with the kernels.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from benchmarks.competent import Tick
from benchmarks.runs import NOTIONAL, Plan, Report
from benchmarks.source import Looped
from quants.recovery import replay
from quants.tick import TICK, Rows

LINES = 50_000  # of a log, decoded at a time


class WrongResult(AssertionError):
    """What a run computed is not what it should be."""


def require(right: bool, what: str) -> None:
    """Raise if it is not right."""
    if not right:
        raise WrongResult(what)


def check(plan: Plan, source: Looped, sent: Report, received: Report) -> None:
    """Nothing lost, VWAP as the oracle has it, every row in the log."""
    ticks = plan.ticks
    require(sent.ticks == received.ticks == ticks, f"{received.ticks} of {ticks} ticks")
    require(not received.missing, f"{received.missing} missing")
    expected = reference(source, ticks)
    decimals = 100 if plan.side == "competent" else 1  # its prices are not cents
    for name, (price_size, size, count) in expected.items():
        found = received.sums.get(name, (0, 0, 0))
        require(found[1:] == (size, count), f"{name}: {found}, not {size, count}")
        near = abs(found[0] * decimals - price_size) <= 1e-9 * price_size
        exact = found[0] == price_size
        require(near if plan.side == "competent" else exact, f"{name}: {found[0]}")
    check_log(plan, source)
    check_breaches(source, ticks, received)


def check_log(plan: Plan, source: Looped) -> None:
    """Compare every row of the log with the row that was sent."""
    again = Looped(source.rows, source.symbols)
    logged = 0
    for rows in lines_of(plan, again) if plan.side == "competent" else rows_of(plan):
        expected = np.concatenate(list(again.parts(len(rows))))
        require(np.array_equal(rows, expected), f"log differs after {logged} rows")
        logged += len(rows)
    require(logged == plan.ticks, f"{logged} rows logged of {plan.ticks}")


def rows_of(plan: Plan) -> Iterator[Rows]:
    """The rows of our log; a gap has none and would show in the count."""
    for batch in replay(plan.log):
        yield batch.rows


def lines_of(plan: Plan, source: Looped) -> Iterator[Rows]:
    """The lines of the other log, as rows."""
    index = {symbol.name: i for i, symbol in enumerate(source.symbols)}
    decoder, first = msgspec.json.Decoder(list[Tick]), 1
    lines = Path(plan.log).read_bytes().splitlines()
    for start in range(0, len(lines), LINES):
        ticks = decoder.decode(b"[%b]" % b",".join(lines[start : start + LINES]))
        numbers = [tick.seq for tick in ticks]
        require(numbers == list(range(first, first + len(ticks))), "log out of order")
        first += len(ticks)
        yield np.array(
            [
                (t.time_ns, round(t.price * 100), int(t.size), index[t.symbol], 0)
                for t in ticks
            ],
            TICK,
        )


def check_breaches(source: Looped, ticks: int, received: Report) -> None:
    """Every tick beyond its limit was seen, and no other."""
    value = source.rows["price"] * source.rows["size"]
    broken = value > int(NOTIONAL) * 100
    times, rest = divmod(ticks, len(broken))
    expected = times * int(broken.sum()) + int(broken[:rest].sum())
    require(received.breaches == expected, f"{received.breaches}, not {expected}")


def reference(source: Looped, ticks: int) -> dict[str, tuple[int, int, int]]:
    """Σ price·size, Σ size and count by symbol, of the first looped ticks."""
    times, rest = divmod(ticks, len(source.rows))
    whole, begun = by_symbol(source, len(source.rows)), by_symbol(source, rest)
    names = [symbol.name for symbol in source.symbols]
    return {
        name: (times * a + x, times * b + y, times * n + z)
        for name, (a, b, n), (x, y, z) in zip(names, whole, begun, strict=True)
    }


def by_symbol(source: Looped, ticks: int) -> list[tuple[int, int, int]]:
    """The same of the first ticks of one loop; pandas adds int64."""
    rows = source.rows[:ticks]
    if ticks:
        largest = int(rows["price"].max()) * int(rows["size"].max())
        require(largest * ticks < 2**63, "pandas would wrap around")
    table = pd.DataFrame({"symbol": rows["symbol"], "size": rows["size"]})
    table["price_size"] = rows["price"] * rows["size"]
    groups = table.groupby("symbol")
    sums = groups.agg(a=("price_size", "sum"), b=("size", "sum"), n=("size", "count"))
    every = sums.reindex(range(len(source.symbols)), fill_value=0)
    return [(int(a), int(b), int(n)) for a, b, n in every.itertuples(index=False)]
