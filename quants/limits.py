"""The limits of each symbol: decimal texts in Redis, integers to compare with.

`quants:limit:AAPL` is a hash of the fields in ROUNDED, of a `version` and of
`set_ns`, when it was last set. A field that is missing is no limit. A lower
bound is rounded up and an upper one down, so an integer breaches the rounded
bound exactly if it breaches the written one. Percents and seconds are integers
at nine decimals; a percent has no more of them than that.
"""

import logging
import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import redis

from quants.tick import Rows, Symbol, to_text

ROUNDED: dict[str, Callable[[Fraction], int]] = {
    "price_low": math.ceil,
    "price_high": math.floor,
    "notional": math.floor,
    "exposure": math.floor,
    "vwap_percent": math.floor,
    "stale_seconds": math.ceil,  # silent so long, or longer
    "ticks_per_second": math.floor,
}
FIELDS = [
    *("price_low", "price_high", "notional", "version"),
    *("exposure", "vwap_percent", "stale_seconds", "ticks_per_second", "set_ns"),
]
PRICES = "price_low", "price_high"
DECIMALS = {"vwap_percent": 9, "stale_seconds": 9, "ticks_per_second": 0}
PLAIN_DECIMAL = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?", re.ASCII)
SET_NS = re.compile(r"[0-9]{1,19}", re.ASCII)
INT64 = np.iinfo(np.int64)
MAX_PRODUCT = 2**126  # no price × size exceeds it

PRICE_BAND, NOTIONAL = "price_band", "notional"

Answer = Sequence[str | None] | str  # texts of FIELDS, or why there are none
Indices = npt.NDArray[np.intp]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

log = logging.getLogger("quants.limits")


def limit_key(symbol: Symbol) -> str:
    """The Redis key of a symbol's limits."""
    return f"quants:limit:{symbol.name}"


class Limits:
    """The last good limits of each symbol; no limit until they are read.

    Attributes:
        low: lowest price allowed, shape (symbols,), int64.
        high: highest price allowed, shape (symbols,), int64.
        notional: largest price × size allowed, exact; it can exceed int64.
        nearly: a little less than `notional`, shape (symbols,), float64.
        bounds: by field, the integer of each symbol; None is no limit.
        versions: what each hash says of itself.
        set_ns: when each hash was set, CLOCK_REALTIME; None if it does not say.
        changes: how often a hash was found changed.
        refused: values that were not taken.
    """

    def __init__(self, symbols: Sequence[Symbol]) -> None:
        count = len(symbols)
        self.symbols = symbols
        self.low = np.full(count, INT64.min)
        self.high = np.full(count, INT64.max)
        self.notional = [MAX_PRODUCT] * count
        self.nearly = np.full(count, np.inf)
        self.bounds = {field: list[int | None]([None] * count) for field in ROUNDED}
        self.versions: list[str | None] = [None] * count
        self.set_ns: list[int | None] = [None] * count
        self.changes = self.refused = 0
        self._answers: list[Answer] = [()] * count

    def update(self, answers: Sequence[Answer]) -> None:
        """Take what Redis said; a value that is no limit leaves the last good."""
        for index, answer in enumerate(answers):
            if answer != self._answers[index]:  # so that a refusal is told once
                self._update_symbol(index, answer)
                self.changes += 1
        self._answers = list(answers)

    def _update_symbol(self, index: int, answer: Answer) -> None:
        symbol = self.symbols[index]
        if isinstance(answer, str):
            self._refuse(symbol, "hash", answer)
            return
        texts = dict(zip(FIELDS, answer, strict=False))
        for field in ROUNDED:
            try:
                self._set(index, field, bound_of(field, texts.get(field), symbol))
            except ValueError as fault:
                self._refuse(symbol, field, fault)
        self.versions[index] = texts.get("version")
        moment = texts.get("set_ns") or ""
        self.set_ns[index] = int(moment) if SET_NS.fullmatch(moment) else None

    def _set(self, index: int, field: str, bound: int | None) -> None:
        self.bounds[field][index] = bound
        match field:
            case "price_low":
                self.low[index] = INT64.min if bound is None else clamped(bound)
            case "price_high":
                self.high[index] = INT64.max if bound is None else clamped(bound)
            case "notional":
                self.notional[index] = MAX_PRODUCT if bound is None else bound
                self.nearly[index] = np.inf if bound is None else nearly(bound)

    def limited(self, field: str) -> bool:
        """Whether any symbol has a limit of this kind."""
        return any(bound is not None for bound in self.bounds[field])

    def _refuse(self, symbol: Symbol, field: str, fault: object) -> None:
        self.refused += 1
        log.warning(
            "%s %s refused: %s; the last good limit stays",
            limit_key(symbol), field, fault,
        )  # fmt: skip


def breaches(rows: Rows, limits: Limits) -> dict[str, Indices]:
    """The rows beyond a fixed limit, by rule; exact.

    Args:
        rows: ticks, shape (n,).
    Cost: O(n), three gathers and a few passes; more only for breaches.
    """
    symbol = rows["symbol"].astype(np.intp)  # (n,)
    return {
        PRICE_BAND: outside(rows["price"], symbol, limits.low, limits.high),
        NOTIONAL: over_notional(rows, symbol, limits),
    }


def outside(price: Integers, symbol: Indices, low: Integers, high: Integers) -> Indices:
    """Which prices lie outside the band of their symbol.

    Args:
        price, symbol: of each tick, shape (n,).
        low, high: bounds of each symbol, shape (symbols,).
    """
    low, high = low.take(symbol), high.take(symbol)  # (n,)
    beyond: Mask = (price < low) | (price > high)
    return beyond.nonzero()[0]


def over_notional(rows: Rows, symbol: Indices, limits: Limits) -> Indices:
    """The rows whose price × size exceeds the limit, exactly.

    The product of two int64 can overflow, and a float is inexact: floats decide
    what lies clear of the limit, Python's integers the rest.
    """
    value = np.multiply(rows["price"], rows["size"], dtype=np.float64)  # (n,)
    suspects: Indices = (value >= limits.nearly.take(symbol)).nonzero()[0]
    if not len(suspects):
        return suspects
    clear = limits.nearly[symbol[suspects]] * (1 + 2**-48)
    over: Mask = value[suspects] > clear
    for i in (~over).nonzero()[0].tolist():
        _, price, size, index, _ = rows[suspects[i]].item()
        over[i] = price * size > limits.notional[index]
    return suspects[over]


def bound_of(field: str, text: str | None, symbol: Symbol) -> int | None:
    """The integer that stands for a limit's text; None is no limit.

    Raises:
        ValueError: the text is no plain decimal, or is negative and no price.
    """
    if text is None:
        return None
    if not PLAIN_DECIMAL.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is not a decimal number such as 189.50")
    if text.startswith("-") and field not in PRICES:
        raise ValueError(f"{text[:80]!r} is negative")
    return ROUNDED[field](Fraction(text) * 10 ** decimals_of(field, symbol))


def decimals_of(field: str, symbol: Symbol) -> int:
    """The decimals of the integers that a limit is compared with."""
    if field in PRICES:
        return symbol.price_decimals
    return DECIMALS.get(field, symbol.price_decimals + symbol.size_decimals)


def clamped(bound: int) -> int:
    """The nearest int64: no price lies beyond."""
    return min(max(bound, int(INT64.min)), int(INT64.max))


def nearly(bound: int) -> float:
    """A float that no float product of an exact breach falls below.

    Three roundings of 2⁻⁵³ each make the product, one the bound: 2⁻⁵⁰ is more.
    """
    return min(bound, MAX_PRODUCT) * (1 - 2**-50)


def read_limits(client: redis.Redis, symbols: Sequence[Symbol]) -> list[Answer]:
    """The texts of FIELDS for each symbol; one round trip, blocking.

    A key that is no hash answers with its error; other errors are raised.
    """
    pipeline = client.pipeline(transaction=False)
    for symbol in symbols:
        pipeline.hmget(limit_key(symbol), FIELDS)
    return [_answer(reply) for reply in pipeline.execute(raise_on_error=False)]


def _answer(reply: list[str | None] | Exception) -> Answer:
    if not isinstance(reply, Exception):
        return reply
    if "WRONGTYPE" not in str(reply):
        raise reply
    return str(reply)


def seed_limits(
    client: redis.Redis,
    symbols: Sequence[Symbol],
    reference_prices: Sequence[int],
    band_percent: int = 2,
    notional: str = "10000000",
) -> None:
    """Write limits to watch at work: a band around each reference price."""
    pipeline = client.pipeline(transaction=False)
    for symbol, price in zip(symbols, reference_prices, strict=True):
        decimals = symbol.price_decimals + 2  # of a hundredth of the price
        fields: dict[Any, Any] = {  # the client's type of a mapping is invariant
            "price_low": to_text(price * (100 - band_percent), decimals),
            "price_high": to_text(price * (100 + band_percent), decimals),
            "notional": notional,
            "version": "1",
        }
        pipeline.hset(limit_key(symbol), mapping=fields)
    pipeline.execute()
