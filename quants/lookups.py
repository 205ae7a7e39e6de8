"""The same check in three lanes: where are the limits when a tick comes?

Each lane finds the ticks of a batch that lie outside their symbol's price
band, by position.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from quants.limits import PRICES, Limits, bound_of, limit_key, outside
from quants.tick import Rows, Symbol


@dataclass(frozen=True)
class GetPerTick:
    """In Redis, which is asked for each tick."""

    client: redis.Redis
    symbols: Sequence[Symbol]

    def check(self, rows: Rows) -> list[int]:
        found = []
        for i, (_, price, _, index, _) in enumerate(rows.tolist()):
            symbol = self.symbols[index]
            texts = self.client.hmget(limit_key(symbol), PRICES)
            if breaks(price, texts, symbol):
                found.append(i)
        return found


@dataclass(frozen=True)
class PipelinePerBatch(GetPerTick):
    """In Redis, which is asked once for all ticks of a batch."""

    def check(self, rows: Rows) -> list[int]:
        ticks = [(row[1], self.symbols[row[3]]) for row in rows.tolist()]
        pipeline = self.client.pipeline(transaction=False)
        for _, symbol in ticks:
            pipeline.hmget(limit_key(symbol), PRICES)
        answers = enumerate(zip(ticks, pipeline.execute(), strict=True))
        return [i for i, ((p, s), texts) in answers if breaks(p, texts, s)]


@dataclass(frozen=True)
class Cached:
    """Here, in arrays; somebody else keeps them fresh."""

    limits: Limits

    def check(self, rows: Rows) -> list[int]:
        low, high = self.limits.low, self.limits.high
        symbol = rows["symbol"].astype(int)
        found: list[int] = outside(rows["price"], symbol, low, high).tolist()
        return found


def breaks(price: int, texts: Sequence[Any], symbol: Symbol) -> bool:
    """Whether a price lies outside the band that Redis tells."""
    pairs = zip(PRICES, texts, strict=True)
    low, high = (bound_of(field, text, symbol) for field, text in pairs)
    below = low is not None and price < low
    return below or (high is not None and price > high)
