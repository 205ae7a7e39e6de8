"""The market: an endless stream of trades, the same rows on every machine.

Ticks are made in blocks of 4096, one after the other. Block b reads 64 random
bits a tick, numbers 4096 b to 4096 b + 4095 of the seed's PCG64 stream, and
goes on from the prices at which block b - 1 ended. All of it is integers and
tables: the framing, the Python, the NumPy and the CPU change nothing.

Lifelike: trades come in bursts of one symbol, four long on average, and Zipf's
law picks the symbol. A quarter are odd lots; the others follow the half-cubic
law of trade sizes, P(lots >= k) ~ k^-3/2, and prices the cubic law of returns,
P(move >= k tick sizes) ~ k^-3 (Gabaix et al., Nature 423, 2003).

Not lifelike: event time is even, `tick_rate` trades in every second, so the
busy open and close of a session show in sizes and moves, not in the number of
trades; they are set once a block. Sessions of 6.5 h follow each other without
a night. A price 8192 tick sizes from home turns back, as in a mirror: every
home price has five digits of them, so no price ever reaches zero.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from quants.errors import SettingsError
from quants.tick import NO_ROWS, TICK, Rows, Symbol

Integers = npt.NDArray[np.int64]

BLOCK = 4096  # ticks
OPEN_NS = 1_767_364_200 * 10**9  # 2026-01-02T14:30:00Z, the opening bell
SESSION_MINUTES = 390
REACH = 8192  # tick sizes a price may go from home; a power of two
CODES = 1 << 16  # entries of a table that 16 random bits look up

DRAW = np.dtype(  # the 64 random bits of a tick, and what they decide
    [("burst", "u1"), ("side", "i1"), ("pick", "<u2"), ("move", "<u2"), ("lots", "<u2")]
)

HOME_PRICES = {  # in whole units of currency; the first eight are the default
    "AAPL": 190, "MSFT": 410, "NVDA": 125, "AMZN": 185,
    "GOOGL": 165, "META": 500, "TSLA": 250, "JPM": 200,
    "BTCUSDT": 60_000, "ETHUSDT": 3_000,
}  # fmt: skip


class Market:
    """A source of ticks; the same arguments give the same rows.

    Args:
        seed: at least 0.
        symbols: how many, or which: 1 to 4096 of them.
        tick_rate: ticks in a second of event time, a whole number.
    """

    def __init__(
        self,
        seed: int = 1,
        symbols: int | Sequence[Symbol] = 8,
        tick_rate: float = 1000,
    ) -> None:
        self.seed = _whole("seed", seed, least=0)
        self.symbols = _symbol_table(symbols)
        self.tick_rate = _whole("tick_rate", tick_rate, least=1)
        self.next_seq = 1  # of the row that take() gives next
        self._rest = NO_ROWS  # of the current block, not yet taken
        self._random = np.random.PCG64(self.seed)
        self._walk = np.zeros(len(self.symbols), np.int64)  # where a block ended
        self._popular = zipf(len(self.symbols))
        self._moves = power_law(1) // 2  # at midday one trade in 8 moves the price
        self._sizes = trade_sizes()
        grids = [_price_grid(n, symbol) for n, symbol in enumerate(self.symbols)]
        self._home, self._tick_size = np.array(grids, np.int64).T.copy()
        # 100 coins would be a fortune: with 8 decimals a lot of 100 is 0.1.
        units = [10 ** max(0, symbol.size_decimals - 3) for symbol in self.symbols]
        self._unit = np.array(units, np.int64)

    def __repr__(self) -> str:
        return (
            f"<Market seed {self.seed}, {len(self.symbols)} symbols, "
            f"{self.tick_rate} ticks/s, next seq {self.next_seq}>"
        )

    @property
    def opening_prices(self) -> list[int]:
        """Where each symbol's walk begins, in its fixed point."""
        return [int(price) for price in self._home * self._tick_size]

    def take(self, n: int) -> Rows:
        """The next n rows, read-only; within a block a view, no copy."""
        parts = list(self._parts(n))
        if len(parts) == 1:
            return parts[0]
        return _read_only(np.concatenate([NO_ROWS, *parts]))

    def _parts(self, n: int) -> Iterator[Rows]:
        while n > 0:
            if not len(self._rest):
                self._rest = self._next_block()
            part, self._rest = self._rest[:n], self._rest[n:]
            self.next_seq += len(part)
            n -= len(part)
            yield part

    def _next_block(self) -> Rows:
        draw = self._random.random_raw(BLOCK).astype("<u8").view(DRAW)
        calm = calmness((self.next_seq - 1) // self.tick_rate // 60)
        first, length = bursts(draw["burst"] < 64)  # 1 in 4 begins one
        pick = self._popular.take(draw["pick"][first])  # (bursts,)
        symbol = np.repeat(pick, length)  # (BLOCK,)
        move = self._moves.take(draw["move"] * calm >> 6)
        move *= draw["side"] >> 7 | 1  # -1 or 1
        walk, self._walk = walks(pick, first, length, move, self._walk)
        steps = self._home.take(symbol) + mirror(walk)
        lots = self._sizes.take(draw["lots"] * calm >> 6)
        rows = np.zeros(BLOCK, TICK)
        rows["time_ns"] = event_times(self.next_seq, self.tick_rate)
        rows["price"] = steps * self._tick_size.take(symbol)
        rows["size"] = lots * self._unit.take(symbol)
        rows["symbol"] = symbol
        return _read_only(rows)


def _read_only(rows: Rows) -> Rows:
    rows.flags.writeable = False
    return rows


def event_times(seq: int, tick_rate: int) -> Integers:
    """OPEN_NS + (seq - 1) * 10^9 // tick_rate, for a block from `seq` on."""
    # Split, because seq * 10^9 leaves int64 after nine billion ticks.
    whole, rest = divmod((seq - 1) * 10**9, tick_rate)
    ticks = np.arange(BLOCK, dtype=np.int64)
    return (ticks * 10**9 + rest) // tick_rate + (OPEN_NS + whole)


def calmness(minute: int) -> np.uint32:
    """64 at midday, 17 at the open and close: activity is 64 / calmness.

    A code times calmness / 64 is a smaller code, and a power law's table holds
    its rare, large values at the small codes: P(k or more) times activity.
    """
    from_midday = abs(2 * (minute % SESSION_MINUTES) + 1 - SESSION_MINUTES)
    return np.uint32(64 - 48 * from_midday**2 // SESSION_MINUTES**2)


def bursts(begins: npt.NDArray[np.bool_]) -> tuple[Integers, Integers]:
    """First tick and length of each burst; a block begins a new one."""
    edges = np.flatnonzero(np.concatenate([[True], begins[1:], [True]]))
    return edges[:-1], edges[1:] - edges[:-1]


def walks(
    pick: Integers, first: Integers, length: Integers, move: Integers, start: Integers
) -> tuple[Integers, Integers]:
    """The walk of each tick's own symbol, (BLOCK,), and the ends, (symbols,)."""
    moved = np.add.reduceat(move, first)  # by each burst, (bursts,)
    # Sorting the bursts costs a quarter of sorting the ticks.
    order = pick.astype("u2").argsort(kind="stable")  # by symbol, in time
    sums = np.concatenate([[0], moved[order].cumsum()])
    count = np.bincount(pick, minlength=len(start))  # bursts of a symbol
    last = count.cumsum()
    shift = start - sums[last - count]  # makes the sums a symbol's own
    level = np.empty_like(moved)  # of its symbol's walk, after a burst
    level[order] = sums[1:] + np.repeat(shift, count)
    shift_in_burst = np.repeat(level - moved.cumsum(), length)
    return move.cumsum() + shift_in_burst, sums[last] + shift


def mirror(walk: Integers) -> Integers:
    """The walk folded into -REACH..REACH: beyond, it runs backwards."""
    from_edge = ((walk + REACH) & (4 * REACH - 1)) - 2 * REACH
    return REACH - abs(from_edge)


def power_law(power: int) -> Integers:
    """Table by code: P(k or more) = k^(-3 / power), for k = 1, 2, ...

    It holds the largest k with k^3 <= (CODES / (code + 1))^power.
    """
    code = np.arange(1, CODES + 1, dtype=np.int64)
    cubes = np.arange(1, 2048, dtype=np.int64) ** 3
    return _look_up(cubes, CODES**power // code**power)


def trade_sizes() -> Integers:
    """Table by code: three quarters whole lots of 100, the others 1 to 99."""
    code = np.arange(CODES, dtype=np.int64)
    return np.where(code % 4 == 3, code // 4 % 99 + 1, 100 * power_law(2))


def zipf(n: int) -> Integers:
    """Table by code: one of n symbols, the k-th with a weight of 1 / k."""
    weights = ((1 << 20) // np.arange(1, n + 1, dtype=np.int64)).cumsum()
    return _look_up(weights, np.arange(CODES, dtype=np.int64) * weights[-1] // CODES)


def _look_up(steps: Integers, values: Integers) -> Integers:
    """How many of the ascending steps each value has reached."""
    return np.searchsorted(steps, values, side="right").astype(np.int64)


def _whole(name: str, value: float, least: int) -> int:
    if value != value // 1 or value < least:
        raise SettingsError(name, value, f"a whole number from {least} on works")
    return int(value)


def _symbol_table(symbols: int | Sequence[Symbol]) -> tuple[Symbol, ...]:
    count = symbols if isinstance(symbols, int) else len(symbols)
    if not 1 <= count <= BLOCK:
        raise SettingsError("symbols", count, f"1 to {BLOCK} symbols work")
    if not isinstance(symbols, int):
        return tuple(symbols)
    names = [*list(HOME_PRICES)[:8], *(f"SYM{n:03}" for n in range(8, count))]
    return tuple(map(Symbol, names[:count]))


def _price_grid(number: int, symbol: Symbol) -> tuple[int, int]:
    """Home price in tick sizes, always five digits of them, and the tick size."""
    home = HOME_PRICES.get(symbol.name, 20 + 37 * number % 480)
    digits = str(home * 10**symbol.price_decimals)
    return int(digits[:5].ljust(5, "0")), 10 ** max(0, len(digits) - 5)
