"""Rolling windows: the exact sums of the last second, or of the last n ticks.

A window is what has come less what has gone again. So two kernels that only
ever add give its sums, exact however wide the numbers are, and a tick costs
two additions, however many others the window holds.

A `TimeWindow` ends at the newest event time seen, of whatever symbol, and holds
the ticks with newest - span_ns < time_ns <= newest. Its watermark is newest -
lateness_ns, which lies inside: a tick older than that is late, counted and
never in the window; any other that comes out of order is put where it belongs.
Each is judged by those before it: how they were batched changes nothing.

The lessons stand first: adding up anew, how to stop it, and why not in floats.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from quants.errors import SettingsError
from quants.kernels import NumpyKernel
from quants.sums import Part, RunningSums, Sums
from quants.tick import ROW, TICK, Rows

FOREVER_NS = 2**62  # 146 years; no event time is that far from 1970
Trade = tuple[float, float]  # price and size
Indices = npt.NDArray[np.intp]


class NaiveWindow:
    """The last `span_ns` of ticks that come in order, and their sums."""

    def __init__(self, symbols: int, span_ns: int) -> None:
        self.total, self.span_ns = [Sums()] * symbols, span_ns
        self.ticks: deque[tuple[int, int, int, int]] = deque()

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        for time_ns, price, size, symbol, _ in rows.tolist():
            self.ticks.append((time_ns, price, size, symbol))
            while self.ticks[0][0] <= time_ns - self.span_ns:
                self.ticks.popleft()

    def sums(self) -> list[Sums]:
        """The sums of the window, one per symbol."""
        total = self.total.copy()
        for _, price, size, symbol in self.ticks:
            total[symbol] += Sums(price * size, size, 1)
        return total


class RollingWindow:
    """The last `span_ns` of ticks that come in order, and their sums."""

    def __init__(self, symbols: int, span_ns: int) -> None:
        self.total, self.span_ns = [Sums()] * symbols, span_ns
        self.ticks: deque[tuple[int, int, int, int]] = deque()

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        for time_ns, price, size, symbol, _ in rows.tolist():
            self.ticks.append((time_ns, price, size, symbol))
            self.total[symbol] += Sums(price * size, size, 1)
            while self.ticks[0][0] <= time_ns - self.span_ns:
                _, price, size, symbol = self.ticks.popleft()
                self.total[symbol] += Sums(-price * size, -size, -1)

    def sums(self) -> list[Sums]:
        """The sums of the window, one per symbol."""
        return self.total.copy()


def float_vwaps(trades: Iterable[Trade], n: int) -> Iterator[float]:
    """The VWAP of the last n trades after each of them, in floats."""
    held: deque[Trade] = deque()
    value = volume = 0.0
    for price, size in trades:
        held.append((price, size))
        value += price * size
        volume += size
        if len(held) > n:
            price, size = held.popleft()
            value -= price * size
            volume -= size
        yield value / volume


class Window:
    """What has come less what has gone: the sums of the ticks in between."""

    def __init__(self, symbols: int) -> None:
        self.symbols = symbols
        self.come, self.gone = NumpyKernel(symbols), NumpyKernel(symbols)

    def _inside(self) -> RunningSums:
        inside = RunningSums(self.symbols)
        inside.merge(self.come.part())
        inside.merge([(n, -value, -size, -t) for n, value, size, t in self.gone.part()])
        return inside

    def sums(self) -> list[Sums]:
        """The sums of the window, one per symbol."""
        return self._inside().sums()

    def part(self) -> Part:
        """The sums of the symbols in the window, ready to be merged."""
        return self._inside().part()

    def held(self) -> int:
        """How many ticks the window holds."""
        return sum(self._inside().ticks)


class TimeWindow(Window):
    """The ticks of the last `span_ns`, by event time.

    Attributes:
        newest_ns: where the window ends. A single tick from the future moves
            it there, and those that follow are late: watch `late`.
        late: ticks that came too late.

    Cost: about three session kernels, 40 ns a tick at 1000 rows a batch; 20 µs
    a batch of few. A batch out of order is sorted with the ticks it comes before.
    Memory: up to 96 bytes for each tick of the fullest window so far.
    """

    def __init__(self, symbols: int, span_ns: int, lateness_ns: int = 0) -> None:
        super().__init__(symbols)
        if not 0 <= lateness_ns < span_ns < FOREVER_NS:
            reason = f"0 <= lateness_ns < span_ns={span_ns} < 2^62 must hold"
            raise SettingsError("lateness_ns", lateness_ns, reason)
        self.span_ns, self.lateness_ns = span_ns, lateness_ns
        self.newest_ns, self.late = -FOREVER_NS, 0
        self.queue = TimeQueue()

    def __repr__(self) -> str:
        span = f"{self.span_ns / 1e9:g} s"
        return f"<TimeWindow of {span}, {self.held()} ticks, {self.late} late>"

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        if not len(rows):
            return
        time_ns = rows["time_ns"]  # (n,)
        if time_ns[0] < self.newest_ns or (time_ns[1:] < time_ns[:-1]).any():
            rows = self._on_time(rows)
            self.queue.insert(rows)
        else:
            self.newest_ns = int(time_ns[-1])
            self.queue.append(rows)
        self.come.add(rows)
        self.gone.add(self.queue.pop_until(self.newest_ns - self.span_ns))

    def _on_time(self, rows: Rows) -> Rows:
        """The rows that are not late when their turn comes."""
        time_ns = rows["time_ns"]
        newest = np.maximum.accumulate(np.maximum(time_ns, self.newest_ns))  # (n,)
        self.newest_ns = int(newest[-1])
        on_time: Rows = rows.view(ROW)[newest - time_ns <= self.lateness_ns]
        self.late += len(rows) - len(on_time)
        return on_time.view(TICK)


class TimeQueue:
    """Ticks in order of time: in at the back, out at the front of one array."""

    def __init__(self) -> None:
        self.array = np.empty(0, ROW)
        self.start = self.stop = 0  # of the ticks in it

    def append(self, rows: Rows) -> None:
        """Put ticks behind the others."""
        # A full array moves all to its front, or to a larger one if half would
        # be full: at least as many come before the next move.
        if self.stop + len(rows) > len(self.array):
            held = self.array[self.start : self.stop]
            if 2 * (len(held) + len(rows)) > len(self.array):
                self.array = np.empty(3 * (len(held) + len(rows)), ROW)
            self.array[: len(held)] = held
            self.start, self.stop = 0, len(held)
        self.array[self.stop : self.stop + len(rows)] = rows.view(ROW)
        self.stop += len(rows)

    def insert(self, rows: Rows) -> None:
        """Put ticks of any time where they belong."""
        oldest = int(rows["time_ns"].min(initial=FOREVER_NS))
        overtaken = slice(self.end_of(oldest), self.stop)
        both = np.concatenate([self.array[overtaken], rows.view(ROW)])
        self.stop = overtaken.start
        self.append(both[both.view(TICK)["time_ns"].argsort(kind="stable")])

    def end_of(self, time_ns: int) -> int:
        """Where in the array the ticks end that are not newer than `time_ns`."""
        times = self.array[self.start : self.stop].view(TICK)["time_ns"]
        return self.start + int(times.searchsorted(time_ns, side="right"))

    def pop_until(self, time_ns: int) -> Rows:
        """Take out the ticks that are not newer than `time_ns`."""
        start, self.start = self.start, self.end_of(time_ns)
        return self.array[start : self.start].view(TICK)


class CountWindow(Window):
    """The last n ticks of each symbol, in the order they came.

    Cost: about four session kernels, 60 ns a tick at 1000 rows a batch.
    Memory: 32 bytes for each of the symbols·n seats, taken or not.
    """

    def __init__(self, symbols: int, n: int) -> None:
        super().__init__(symbols)
        if n < 1:
            raise SettingsError("n", n, "a window holds at least 1 tick")
        self.n = n
        self.seen = np.zeros(symbols, np.intp)  # ticks of each symbol so far
        self._seats = np.zeros(symbols * n, ROW)  # n in a row for each symbol

    def __repr__(self) -> str:
        return f"<CountWindow of {self.n} a symbol, {self.held()} ticks>"

    def add(self, rows: Rows) -> None:
        """Add ticks, shape (n,)."""
        symbol = rows["symbol"].astype(np.intp)  # (n,)
        count = np.bincount(symbol, minlength=self.symbols)
        rank = ranks(symbol, count)
        if (count > self.n).any():  # the others go before the batch ends
            stays = rank >= (count - self.n)[symbol]
            rows, symbol, rank = rows[stays], symbol[stays], rank[stays]
        seat = (self.seen[symbol] + rank) % self.n
        taken = seat < self.seen[symbol]
        seat += symbol * self.n
        self.gone.add(self._seats[seat[taken]].view(TICK))
        self.come.add(rows)
        self._seats[seat] = rows.view(ROW)
        self.seen += count


def ranks(symbol: Indices, count: Indices) -> Indices:
    """How many ticks of its symbol stand before each tick of a batch."""
    narrow = np.min_scalar_type(len(count))  # up to 16 bits: fast
    order = symbol.astype(narrow).argsort(kind="stable")
    first = np.cumsum(count) - count  # (symbols,) where each begins in order
    rank = np.empty_like(symbol)
    rank[order] = np.arange(len(symbol)) - np.repeat(first, count)
    return rank
