"""What a tick may not do: the rules in general, and those with fixed bounds.

A rule is asked about each tick once and in order, a piece at a time. It says
which of them break it, and of the others which are clear of the limit again.
"""

from typing import Protocol

import numpy as np

from quants.gate import Indices, Mask
from quants.limits import Integers, Limits, outside, over_notional
from quants.seconds import Piece
from quants.tick import to_text


class TickRule(Protocol):
    """What a tick may not do."""

    def broken(self, piece: Piece) -> Indices:
        """The ticks that break the rule, by position, in any order."""

    def texts(self, piece: Piece, i: int) -> tuple[str, str]:
        """What was found at a tick that breaks the rule, and its limit."""

    def back(self, piece: Piece, at: Indices) -> Mask:
        """Whether ticks that do not break the rule are clear of the limit."""
        return np.ones(len(at), bool)


class CountingRule(TickRule, Protocol):
    """A rule about the last seconds."""

    def fit(self) -> None:
        """The limits may have changed."""

    def turn(self, second: int) -> None:
        """A second begins."""


class PriceBand(TickRule):
    """A price stays between two bounds.

    Args:
        low, high: of each symbol, shape (symbols,).
        parts: a price is back inside at a bound's n-th part from it.
    """

    def __init__(
        self, limits: Limits, low: Integers, high: Integers, parts: int
    ) -> None:
        self.symbols, self.parts = limits.symbols, parts
        self.low, self.high = low, high

    def broken(self, piece: Piece) -> Indices:
        """The ticks whose price is outside."""
        return outside(piece.rows["price"], piece.symbol, self.low, self.high)

    def back(self, piece: Piece, at: Indices) -> Mask:
        """Whether a price is inside by the margin; a band too narrow has none."""
        price, symbol = piece.rows["price"][at], piece.symbol[at]  # (m,)
        low, high = self.low[symbol], self.high[symbol]
        low, high = low + margin(low, self.parts), high - margin(high, self.parts)
        return np.asarray(((low <= price) & (price <= high)) | (low > high))

    def texts(self, piece: Piece, i: int) -> tuple[str, str]:
        """The price, and the bound that it is beyond."""
        index, price = int(piece.symbol[i]), int(piece.rows["price"][i])
        low, high = int(self.low[index]), int(self.high[index])
        symbol = self.symbols[index]
        return symbol.price_text(price), symbol.price_text(low if price < low else high)


def margin(bound: Integers, parts: int) -> Integers:
    """The n-th part of each bound, rounded down; none of a bound that is no limit."""
    if not parts:
        return np.zeros_like(bound)
    return np.asarray(np.maximum(np.abs(bound), 0) // parts)  # |INT64.min| < 0


class Notional(TickRule):
    """No single tick has a price × size above its symbol's limit."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits

    def broken(self, piece: Piece) -> Indices:
        """The ticks that are too large."""
        return over_notional(piece.rows, piece.symbol, self.limits)

    def texts(self, piece: Piece, i: int) -> tuple[str, str]:
        """The tick's price × size, and the limit."""
        _, price, size, index, _ = piece.rows[i].item()
        symbol = self.limits.symbols[index]
        decimals = symbol.price_decimals + symbol.size_decimals
        limit = self.limits.notional[index]
        return to_text(price * size, decimals), to_text(limit, decimals)
