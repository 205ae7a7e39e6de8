"""The rules that count: what a tick may do depends on the seconds before it.

They hear when a second of event time begins; a piece never reaches beyond one.
"""

import math
from collections.abc import Iterator
from itertools import accumulate
from operator import mul

import numpy as np

from quants.gate import Indices, Mask
from quants.limits import INT64, Limits, clamped
from quants.seconds import Piece, RecentSums
from quants.tick import to_text
from quants.tick_rules import CountingRule, PriceBand
from quants.windows import ranks

WHOLE = 100 * 10**9  # percents, at the nine decimals of `vwap_percent`
NONE = np.empty(0, np.intp)


class VwapBand(PriceBand, CountingRule):
    """A price stays within `vwap_percent` of the VWAP of the last seconds.

    The VWAP is that of the complete ones, and stands until the next second
    begins. Without volume in them there is none, and no bound.
    """

    def __init__(self, limits: Limits, parts: int) -> None:
        count = len(limits.symbols)
        super().__init__(limits, np.zeros(count, int), np.zeros(count, int), parts)
        self.percents = limits.bounds["vwap_percent"]
        self.recent = RecentSums(count)
        self.fit()

    def broken(self, piece: Piece) -> Indices:
        """The ticks whose price is too far from the VWAP."""
        self.recent.add(piece.rows)
        return super().broken(piece)

    def fit(self) -> None:
        """The bounds around the VWAP there is."""
        self.low.fill(INT64.min)
        self.high.fill(INT64.max)
        sums = self.recent.complete
        for index, percent in enumerate(self.percents):
            if percent is not None and sums.size[index] > 0:
                low, high = around(sums.price_size[index], sums.size[index], percent)
                self.low[index], self.high[index] = clamped(low), clamped(high)

    def turn(self, second: int) -> None:
        """The VWAP moves on by the second that is complete."""
        self.recent.turn(second)
        self.fit()


def around(price_size: int, size: int, percent: int) -> tuple[int, int]:
    """The integers within some percent of price_size / size, exactly.

    It is (price_size ± abs(price_size)·percent) / size; `low` is rounded up,
    `high` down.
    """
    reach, middle = abs(price_size) * percent, price_size * WHOLE
    return -((reach - middle) // (size * WHOLE)), (reach + middle) // (size * WHOLE)


class Exposure(CountingRule):
    """The sum of price × size of a window stays within its limit.

    The window is the last complete seconds and the current one, up to the tick.
    """

    def __init__(self, limits: Limits) -> None:
        self.symbols, self.limits = limits.symbols, limits.bounds["exposure"]
        self.recent = RecentSums(len(limits.symbols))
        self._spent = np.zeros(len(limits.symbols))  # in this second, at the most
        self._before = list[int]()  # the sums before the last piece that was suspect
        self.fit()

    def broken(self, piece: Piece) -> Indices:
        """The ticks at which the sum so far is above the limit."""
        rows, symbol = piece.rows, piece.symbol
        value = np.multiply(rows["price"], rows["size"], dtype=np.float64)  # (n,)
        # No part of a sum is larger than the sum of all magnitudes.
        self._spent += np.bincount(symbol, np.abs(value), len(self._spent))
        suspects = self._spent >= self._nearly_left  # (symbols,)
        found = NONE
        if suspects.any():
            never_back = bool(value.min() >= 0)  # no sum can shrink again
            found = self._exactly(piece, suspects, never_back)
        self.recent.add(rows)
        return found

    def _exactly(self, piece: Piece, suspects: Mask, never_back: bool) -> Indices:
        self._before = before = self.recent.price_sizes()
        over = np.array([never_back and self._is_over(*b) for b in enumerate(before)])
        found = [over[piece.symbol].nonzero()[0]]  # all the ticks of these
        for index in (suspects & ~over).nonzero()[0].tolist():
            at = (piece.symbol == index).nonzero()[0]
            sums = list(accumulate(products(piece, at), initial=before[index]))[1:]
            found.append(at[[self._is_over(index, now) for now in sums]])
        return np.concatenate(found)

    def _is_over(self, index: int, price_size: int) -> bool:
        limit = self.limits[index]
        return limit is not None and price_size > limit

    def texts(self, piece: Piece, i: int) -> tuple[str, str]:
        """The sum so far, with the tick itself."""
        index = int(piece.symbol[i])
        symbol, limit = self.symbols[index], self.limits[index] or 0
        at = (piece.symbol[: i + 1] == index).nonzero()[0]
        so_far = self._before[index] + sum(products(piece, at))
        decimals = symbol.price_decimals + symbol.size_decimals
        return to_text(so_far, decimals), to_text(limit, decimals)

    def fit(self) -> None:
        """What is left of each limit for the current second."""
        complete = self.recent.complete.price_size
        left = [
            math.inf if limit is None else float(limit - spent)
            for limit, spent in zip(self.limits, complete, strict=True)
        ]
        # Who has not spent this much is surely within: 2^30 float additions err
        # by less than the millionth part that is missing from it.
        self._nearly_left = np.array(left) * (1 - 2**-20)  # (symbols,)

    def turn(self, second: int) -> None:
        """The window moves on by a second."""
        self.recent.turn(second)
        self._spent.fill(0)
        self.fit()


def products(piece: Piece, at: Indices) -> Iterator[int]:
    """The exact price × size of some ticks."""
    rows = piece.rows[at]
    return map(mul, rows["price"].tolist(), rows["size"].tolist())


class MessageRate(CountingRule):
    """A symbol has at most `ticks_per_second` ticks in a second."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits.bounds["ticks_per_second"]
        self._count = np.zeros(len(self.limits), np.intp)  # in this second
        self.fit()

    def broken(self, piece: Piece) -> Indices:
        """The ticks beyond that many."""
        count = np.bincount(piece.symbol, minlength=len(self._count))  # (symbols,)
        self._count += count
        if (self._count <= self._most).all():
            return NONE
        room = self._most - (self._count - count)  # for ticks of this piece
        beyond: Mask = ranks(piece.symbol, count) >= room[piece.symbol]  # (n,)
        return beyond.nonzero()[0]

    def texts(self, piece: Piece, i: int) -> tuple[str, str]:
        """The how many-th of its second a tick is, and the limit."""
        index = int(piece.symbol[i])
        later = int((piece.symbol[i + 1 :] == index).sum())
        return str(self._count[index] - later), str(self._most[index])

    def fit(self) -> None:
        """The limits as an array."""
        no_limit = int(INT64.max)
        most = [no_limit if n is None else clamped(n) for n in self.limits]
        self._most = np.array(most)  # (symbols,)

    def turn(self, second: int) -> None:
        """Counting begins again."""
        self._count.fill(0)
