"""A feed and one subscriber in this loop, with messages of any size.

The ends are the pump's own, and so is the socket between them. How many ticks
a message carries can be turned while it flows.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf

from quants.feed_client import Subscription, subscribe
from quants.feed_server import FeedServer
from quants.lab.session import end, session
from quants.market import Market
from quants.pace import SteadyPace
from quants.tick import Rows

MOST_MESSAGES, MOST_TICKS = 256, 1 << 16  # in one wake-up of the feed


class Hose(SteadyPace):
    """A market's ticks in messages of at most `batch`, and when they are due."""

    def __init__(self, batch: int, tick_rate: float = inf) -> None:
        super().__init__(tick_rate)
        self.batch, self._market = batch, Market()
        self.symbols = self._market.symbols

    def take(self, n: int) -> Rows:
        """The rows of the next message."""
        return self._market.take(min(n, self.batch))

    def due(self, now: float, sent: int) -> int:
        """Ticks to send now; few enough for the loop to stay lively."""
        most = min(MOST_MESSAGES * self.batch, MOST_TICKS)
        return min(super().due(now, sent), most)


@dataclass
class Flow:
    """A feed and its one subscriber, and what has come through."""

    hose: Hose
    feed: FeedServer
    ticks: int = 0
    messages: int = 0

    async def drink(self, feed: Subscription) -> None:
        """Take what comes; a batch is one message."""
        async for batch in feed:
            self.ticks += len(batch)
            self.messages += 1


@asynccontextmanager
async def flowing(hose: Hose) -> AsyncIterator[Flow]:
    """A feed that publishes to a subscriber, both in this loop."""
    lab = await session()
    async with FeedServer(hose, pace=hose) as feed, subscribe(feed.url) as client:
        flow = Flow(hose, feed)
        tasks = lab.start(flow.drink(client)), lab.start(feed.publish())
        try:
            yield flow
        finally:
            await end(*tasks)
        lab.raise_faults()
