"""The reader's own fan-out in the way of a flood.

await fanned.fanned(mine)
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

from quants.channel import Policy
from quants.feed_client import Subscription, subscribe
from quants.feed_server import FeedServer
from quants.lab.card import within_reach
from quants.lab.claims import Claim
from quants.lab.exercise import Answer
from quants.lab.fan_out_task import Line
from quants.lab.session import end, session
from quants.lab.slow_consumers import FULL_RATE, SLOWER, Consumer
from quants.market import Market
from quants.tick import Batch

END_SECONDS = 5.0  # what a fan-out may take to finish when the feed has ended
POLICIES: tuple[Policy, ...] = ("block", "drop_oldest", "conflate")


class Fate(NamedTuple):
    """What became of the ticks of a line."""

    policy: str
    accounted: int  # ticks
    most: int  # batches, as the next
    capacity: int


def fate_of(line: Line) -> Fate:
    """What a line counted."""
    return Fate(line.policy, line.accounted, line.most, line.capacity)


@dataclass(frozen=True)
class Fanned:
    """What a reader's fan-out did with a flood."""

    received: int  # ticks
    fates: tuple[Fate, ...]

    def __repr__(self) -> str:
        return "\n".join(
            f"{fate.policy}: {fate.accounted:,} of {self.received:,} ticks accounted "
            f"for, at most {fate.most} batches of {fate.capacity} queued"
            for fate in self.fates
        )


class Counted:
    """A subscription's batches, counted as they are handed out."""

    def __init__(self, feed: Subscription) -> None:
        self.feed, self.ticks = feed, 0

    async def __aiter__(self) -> AsyncIterator[Batch]:
        async for batch in self.feed:
            self.ticks += len(batch)
            yield batch


async def fanned(answer: Answer, seconds: float = 1.5) -> Fanned:
    """A flood through a fan-out into three lines, one of each policy.

    Who blocks takes all the feed has, or the other two would never be full.
    """
    lab, rate = await session(), within_reach(FULL_RATE)
    lines = [Line(policy) for policy in POLICIES]
    speeds = (2 * rate, rate / SLOWER, rate / SLOWER)
    market = Market(tick_rate=rate)
    async with FeedServer(market, rate) as feed, subscribe(feed.url) as client:
        batches = Counted(client)
        putting = lab.start(answer(batches, lines))
        taking = [
            lab.start(Consumer(speed).run(line))
            for speed, line in zip(speeds, lines, strict=True)
        ]
        publishing = lab.start(feed.publish())
        try:
            await asyncio.wait([putting], timeout=seconds)
            feed.stop()
            await asyncio.wait([putting], timeout=END_SECONDS)
            found = Fanned(batches.ticks, tuple(map(fate_of, lines)))
        finally:
            await end(putting, *taking, publishing)
        lab.raise_faults()
    return found


def all_arrived(fanned: Fanned) -> bool | None:
    """Whether every line knows each tick's fate, and none went beyond its bound."""
    return all(
        fate.accounted == fanned.received and fate.most <= fate.capacity
        for fate in fanned.fates
    )


CLAIMS = (
    Claim(
        "your-fan-out-conserves",
        "through this fan-out no tick is unaccounted for, and no bound is broken",
        "this fan-out loses ticks that nobody counted, or breaks a bound",
        all_arrived,
    ),
)
