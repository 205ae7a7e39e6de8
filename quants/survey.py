"""What the first reading of a recording finds: its symbols, order and repeats.

A symbol gets the fewest decimals that hold every price and every size of its
trades exactly. The second reading then needs no float and rounds nothing.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from quants.errors import RecordingError
from quants.exact import DIGITS, POWERS, Integers
from quants.tick import TICK, Rows, Symbol, to_text
from quants.trades import NO_ID, Trades

MOST_RUNS = 1 << 13  # of trade ids that are remembered of a symbol: 128 KiB
AHEAD = 64  # parts of a file whose ids wait to be put into runs


class Ids:
    """The trade ids of a symbol so far, kept as runs of consecutive ones.

    Ids that count up are one run, however many they are. Of ids with holes
    the 8192 highest runs are kept. Ids mostly ascend; such ones are put into
    runs now and then only, for that costs as much as all the rest.
    """

    def __init__(self) -> None:
        self._starts = self._stops = np.empty(0, np.int64)  # (runs,), ascending
        self._ahead: list[Integers] = []  # ascending ids above those in the runs
        self._highest = -1

    def new(self, ids: Integers) -> npt.NDArray[np.bool_]:
        """Which of some ids come for the first time; all are then known."""
        if ids[0] > self._highest and (ids[1:] > ids[:-1]).all():
            self._ahead.append(ids)
            self._highest = int(ids[-1])
            if len(self._ahead) >= AHEAD:
                self.runs()
            return np.ones(len(ids), bool)
        starts, stops = self.runs()
        unique, first = np.unique(ids, return_index=True)
        run = np.searchsorted(starts, unique, "right")
        known = unique < np.append(0, stops)[run]
        self._add(unique[~known])
        fresh = np.zeros(len(ids), bool)
        fresh[first[~known]] = True
        return fresh

    def runs(self) -> tuple[Integers, Integers]:
        """Where the runs start, and where they stop, one above the last id."""
        ahead, self._ahead = self._ahead, []
        if ahead:
            self._add(np.concatenate(ahead))
        return self._starts, self._stops

    def _add(self, ids: Integers) -> None:
        """Add new ids, ascending: runs of one, and those that touch merge."""
        if not len(ids):
            return
        starts = np.sort(np.concatenate([self._starts, ids]))
        stops = np.sort(np.concatenate([self._stops, ids + 1]))
        apart = starts[1:] != stops[:-1]
        self._starts = starts[np.append(True, apart)][-MOST_RUNS:]
        self._stops = stops[np.append(apart, True)][-MOST_RUNS:]
        self._highest = int(self._stops[-1]) - 1


class Repeats:
    """Drops a trade whose id came before in its symbol, and counts it."""

    def __init__(self) -> None:
        self.dropped = 0
        self._ids: dict[int, Ids] = {}  # by symbol

    def without(self, trades: Trades) -> Trades:
        """The trades that come for the first time; those without id all do."""
        order = np.argsort(trades["symbol"], kind="stable")
        symbols, ids = trades["symbol"][order], trades["id"][order]
        edges = np.flatnonzero(np.diff(symbols)) + 1
        keep = np.ones(len(trades), bool)
        for of_symbol in np.split(np.arange(len(trades)), edges):
            if len(of_symbol) and ids[of_symbol[0]] != NO_ID:
                known = self._ids.setdefault(int(symbols[of_symbol[0]]), Ids())
                keep[order[of_symbol]] = known.new(ids[of_symbol])
        kept: Trades = trades[keep]
        self.dropped += len(trades) - len(kept)
        return kept

    def missing(self) -> dict[int, int]:
        """How many ids the holes between a symbol's runs have."""
        runs = {symbol: ids.runs() for symbol, ids in self._ids.items()}
        return {
            symbol: int((starts[1:] - stops[:-1]).sum())
            for symbol, (starts, stops) in runs.items()
        }


class Places:
    """How many digits a column needs, by symbol, before and behind the point.

    Args:
        name: of the column: price or size.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.decimals = self._whole = np.empty(0, np.int64)  # (symbols,)

    def add(self, trades: Trades, names: list[str]) -> None:
        """Note the digits of some trades.

        Raises:
            RecordingError: no number of decimals holds all of a symbol's
                values in 18 digits.
        """
        whole, places = self._digits(trades)
        before = self.decimals, self._whole
        self.decimals = _grown(self.decimals, len(names))
        self._whole = _grown(self._whole, len(names))
        np.maximum.at(self.decimals, trades["symbol"], places)
        np.maximum.at(self._whole, trades["symbol"], whole)
        too_wide = self._whole >= POWERS[DIGITS - self.decimals]
        if too_wide.any():
            self.decimals, self._whole = before
            raise self._too_wide(trades, names, int(too_wide.argmax()))

    def _digits(self, trades: Trades) -> tuple[Integers, Integers]:
        """What is before the point, and how many digits are behind it."""
        values: Integers = trades[self.name]
        places: Integers = trades[f"{self.name}_decimals"]
        return abs(values) // POWERS[places], places

    def _too_wide(self, trades: Trades, names: list[str], at: int) -> RecordingError:
        """The error of the first trade that does not go with those before."""
        mine = trades[trades["symbol"] == at]
        whole, places = self._digits(mine)
        known = at < len(self.decimals)
        places = np.maximum.accumulate(places).clip(self.decimals[at] if known else 0)
        whole = np.maximum.accumulate(whole).clip(self._whole[at] if known else 0)
        row = int((whole >= POWERS[DIGITS - places]).argmax())
        value, decimals = (
            int(mine[n][row]) for n in (self.name, f"{self.name}_decimals")
        )
        reason = (
            f"{self.name} {to_text(value, decimals)!r} and those of {names[at]} before "
            f"it need {len(str(whole[row]))} digits before the point and {places[row]} "
            f"behind it, over {DIGITS} in all; leave one of the lines out"
        )
        return RecordingError(self.path, int(mine["line"][row]), reason)

    def fixed(self, trades: Trades) -> Integers:
        """The column in fixed point, each value with its symbol's decimals."""
        symbols, places = trades["symbol"], trades[f"{self.name}_decimals"]
        known = symbols < len(self.decimals)
        more = np.where(known, self.decimals[symbols * known] - places, -1)
        if len(more) and more.min() < 0:
            line = int(trades["line"][more.argmin()])
            reason = "was another at the first reading; let nobody write the file"
            raise RecordingError(self.path, line, f"{self.name} {reason}")
        fixed: Integers = trades[self.name] * POWERS[more]
        return fixed


def _grown(array: Integers, length: int) -> Integers:
    more = np.zeros(max(0, length - len(array)), np.int64)
    return np.concatenate([array, more])


class Survey:
    """What a first reading found: enough to read the same file as ticks.

    Attributes:
        late: trades that are earlier than one before them.
        last_time_ns: the latest time, not always that of the last trade.
    """

    def __init__(self, path: Path) -> None:
        self.price, self.size = Places(path, "price"), Places(path, "size")
        self.ticks = self.late = self.first_time_ns = self.last_time_ns = 0

    def add(self, trades: Trades, names: list[str]) -> None:
        """Note some trades; `names` are the symbols found so far."""
        times = trades["time_ns"]
        if not self.ticks:
            self.first_time_ns = self.last_time_ns = int(times[0])
        latest = np.maximum.accumulate(np.append(self.last_time_ns, times))  # (n+1,)
        self.late += int(np.count_nonzero(times < latest[:-1]))
        self.last_time_ns = int(latest[-1])
        self.ticks += len(trades)
        self.price.add(trades, names)
        self.size.add(trades, names)

    def table(self, names: list[str]) -> tuple[Symbol, ...]:
        """The symbols, in the order in which they came."""
        price, size = self.price.decimals.tolist(), self.size.decimals.tolist()
        return tuple(map(Symbol, names, price, size))

    def rows(self, trades: Trades) -> Rows:
        """Trades as ticks, read-only.

        Raises:
            RecordingError: the survey was of another file.
        """
        rows = np.zeros(len(trades), TICK)
        rows["price"] = self.price.fixed(trades)
        rows["size"] = self.size.fixed(trades)
        for name in ("time_ns", "symbol", "flags"):
            rows[name] = trades[name]
        rows.flags.writeable = False
        return rows
