"""The fastest wait: the same limits, asked for by the tick, by the batch, never.

Redis is a millisecond away here, as in another rack.
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from quants.lab.claims import Claim
from quants.lab.session import session
from quants.lab.slow_redis import SlowRedis
from quants.limits import Limits, read_limits, seed_limits
from quants.lookups import Cached, GetPerTick, PipelinePerBatch
from quants.market import Market
from quants.redis_server import connect
from quants.tick import Rows

TICKS = 64  # so few that a batch's questions are one piece on the wire
AWAY_SECONDS = 0.001
TIMES = 5
PATIENCE = 20.0  # seconds


class Lane(NamedTuple):
    """One way to check a batch: questions it asked Redis, seconds it took."""

    questions: int
    seconds: float
    found: list[int]


@dataclass(frozen=True)
class Lanes:
    """The same batch in each lane, the fastest of some tries."""

    ticks: int
    lanes: Mapping[str, Lane]

    def __repr__(self) -> str:
        lines = [f"{self.ticks} ticks            questions  µs a tick"]
        for name, lane in self.lanes.items():
            each = lane.seconds * 1e6 / self.ticks
            lines.append(f"{name:19} {lane.questions:>9} {each:>10,.2f}")
        return "\n".join(lines)


async def lanes() -> Lanes:
    """Check one batch in each lane, on a thread."""
    server = await (await session()).redis()
    async with SlowRedis(server.url) as slow:
        slow.takes(AWAY_SECONDS)
        return await asyncio.to_thread(in_each_lane, slow)


def in_each_lane(slow: SlowRedis) -> Lanes:
    """Blocking, while the loop hands questions on."""
    market = Market()
    rows, limits = market.take(TICKS), Limits(market.symbols)
    with connect(slow.url, PATIENCE) as client:
        seed_limits(client, market.symbols, market.opening_prices)
        limits.update(read_limits(client, market.symbols))
        ways: dict[str, GetPerTick | Cached] = {
            "a GET per tick": GetPerTick(client, market.symbols),
            "a pipeline a batch": PipelinePerBatch(client, market.symbols),
            "cached": Cached(limits),
        }
        lanes = {name: tried(way, rows, slow) for name, way in ways.items()}
    return Lanes(TICKS, lanes)


def tried(way: GetPerTick | Cached, rows: Rows, slow: SlowRedis) -> Lane:
    """The fastest of some tries, and what one of them asked."""
    tries = list[Lane]()
    for _ in range(TIMES):
        before, since = slow.questions, time.perf_counter()
        found = way.check(rows)
        seconds = time.perf_counter() - since
        tries.append(Lane(slow.questions - before, seconds, found))
    return min(tries, key=lambda lane: lane.seconds)


def asks_nothing(found: Lanes) -> bool | None:
    """Whether fewer questions are faster, and all find the same; counted."""
    get, pipeline, cached = found.lanes.values()
    if not get.found == pipeline.found == cached.found:
        return False
    fewer = get.questions > pipeline.questions > cached.questions == 0
    faster = get.seconds > 5 * pipeline.seconds and get.seconds > 100 * cached.seconds
    return True if fewer and faster else None if fewer else False


CLAIMS = (
    Claim(
        "the-fastest-wait-is-none",
        "limits that are here find the same ticks, and ask nobody",
        "limits that are here miss ticks, or save no question",
        asks_nothing,
    ),
)
