"""A feed that is four times too fast for its one consumer.

What lies between them is a channel, with a bound or without one. The feed, the
subscription and the channel are the pump's own, over a real socket.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import psutil

from quants.channel import Channel, Statistics
from quants.feed_client import subscribe
from quants.feed_server import FeedServer
from quants.lab.card import within_reach
from quants.lab.claims import Claim
from quants.lab.session import end, session
from quants.market import Market
from quants.tick import TICK, Batch

Way = Literal["unbounded", "block", "drop_oldest", "conflate"]
WAYS: tuple[Way, ...] = ("unbounded", "block", "drop_oldest", "conflate")

FULL_RATE = 1_000_000  # ticks/s; less where that is out of reach
SLOWER = 4  # times slower than the feed is the consumer
MOST_BYTES = 300 << 20  # in a queue; then the flood ends early


async def listen_on(feed: AsyncIterable[Batch], channel: Channel) -> None:
    """Put every batch of the feed into the channel."""
    async for batch in feed:
        channel.put(batch)


async def listen(feed: AsyncIterable[Batch], channel: Channel) -> None:
    """Put every batch of the feed into the channel."""
    async for batch in feed:
        await channel.send(batch)


@dataclass
class Consumer:
    """Takes so many ticks a second, and knows how old the last one was."""

    speed: float
    age_seconds: float = 0.0

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Take what comes, at this speed."""
        free = time.monotonic()
        async for batch in batches:
            self.age_seconds = max(0.0, (time.time_ns() - batch.sent_ns) / 1e9)
            free = max(free, time.monotonic()) + len(batch) / self.speed
            await asyncio.sleep(free - time.monotonic())


class Look(NamedTuple):
    """One look at a flood."""

    seconds: float
    counts: Statistics
    rss_mb: float  # more than at the start
    age_seconds: float

    @property
    def queued_mb(self) -> float:
        """What the queued ticks weigh, at 32 bytes each."""
        return self.counts.queued * TICK.itemsize / 1e6


@dataclass(frozen=True)
class Flood:
    """What a slow consumer's channel did, under one policy."""

    way: Way
    rate: int
    speed: float
    looks: tuple[Look, ...]

    @property
    def counts(self) -> Statistics:
        """At the end, with the queue as it stood."""
        return self.looks[-1].counts

    @property
    def age_seconds(self) -> float:
        """How old the last tick was when the consumer took it."""
        return self.looks[-1].age_seconds

    @property
    def ageing(self) -> float:
        """Seconds by which ticks got older in a second."""
        return self.age_seconds / self.looks[-1].seconds

    @property
    def kept(self) -> tuple[int, int]:
        """At how many looks the law held, of how many."""
        return sum(map(conserved, self.looks)), len(self.looks)

    @property
    def law(self) -> str:
        """The conservation law in this run's numbers."""
        c = self.counts
        return (
            f"{self.way:<12}{c.received:>10,} ={c.processed:>10,} +{c.dropped:>10,} +"
            f"{c.conflated:>10,} +{c.queued:>10,}   at {self.kept[0]} of "
            f"{self.kept[1]} looks"
        )

    def __repr__(self) -> str:
        last = self.looks[-1]
        return (
            f"{self.way}: {last.counts.queued:,} ticks queued ({last.queued_mb:.0f} "
            f"MB), memory grew by {last.rss_mb:.0f} MB, the newest tick taken was "
            f"{last.age_seconds:.2f} s old."
        )


def conserved(look: Look) -> bool:
    """Whether every tick is accounted for."""
    c = look.counts
    return c.received == c.processed + c.dropped + c.conflated + c.queued


@dataclass
class Running:
    """A flood at work."""

    way: Way
    rate: int
    channel: Channel
    consumer: Consumer
    looks: list[Look] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._process, self._began = psutil.Process(), time.monotonic()
        self._before = self._process.memory_info().rss

    def look(self) -> bool:
        """Look at it once; whether there is memory for more."""
        grown = (self._process.memory_info().rss - self._before) / 1e6
        since, counts = time.monotonic() - self._began, self.channel.statistics()
        self.looks.append(Look(since, counts, grown, self.consumer.age_seconds))
        return counts.queued * TICK.itemsize < MOST_BYTES

    def flood(self) -> Flood:
        """What was seen so far."""
        return Flood(self.way, self.rate, self.consumer.speed, tuple(self.looks))


@asynccontextmanager
async def running(way: Way) -> AsyncIterator[Running]:
    """A feed, a channel and a slow consumer, all in this loop."""
    lab, rate = await session(), within_reach(FULL_RATE)
    channel = Channel(way, policy="block" if way == "unbounded" else way)
    put = listen_on if way == "unbounded" else listen
    market, consumer = Market(tick_rate=rate), Consumer(rate / SLOWER)
    async with FeedServer(market, rate) as feed, subscribe(feed.url) as client:
        taking = lab.start(put(client, channel)), lab.start(consumer.run(channel))
        publishing = lab.start(feed.publish())
        try:
            yield Running(way, rate, channel, consumer)
        finally:
            await end(*taking, publishing)
        lab.raise_faults()


# ---- what is claimed


def eats_memory(unbounded: Flood, *bounded: Flood) -> bool | None:
    """Whether more than four bounds wait, where there is none."""
    most = max(flood.counts.capacity for flood in bounded)
    return unbounded.counts.high_watermark > 4 * most


def keeps_its_bound(*bounded: Flood) -> bool | None:
    """Whether no channel ever held more than it may."""
    counts = [flood.counts for flood in bounded]
    if all(each.high_watermark < each.capacity for each in counts):
        return None  # no bound was met
    return all(each.high_watermark <= each.capacity for each in counts)


def only_moves_the_queue(unbounded: Flood, block: Flood) -> bool | None:
    """Whether ticks get about as old where the sender waits."""
    if unbounded.ageing < 0.2:
        return None  # the consumer was not too slow
    return block.ageing > unbounded.ageing / 2


def stays_fresh(block: Flood, *losing: Flood) -> bool | None:
    """Whether ticks stay younger than half of those for which nothing is lost."""
    if block.ageing < 0.2:
        return None
    return all(flood.ageing < block.ageing / 2 for flood in losing)


def all_conserve(*floods: Flood) -> bool | None:
    """Whether every look at every flood was lawful."""
    return all(conserved(look) for flood in floods for look in flood.looks)


CLAIMS = (
    Claim(
        "a-queue-without-a-bound-eats-memory",
        "without a bound the queue grows for as long as its consumer is too slow",
        "the queue without a bound stays as short as a bounded one",
        eats_memory,
    ),
    Claim(
        "a-bound-holds",
        "no bounded channel ever held more than it may",
        "a bounded channel held more than it may",
        keeps_its_bound,
        "no channel was ever full, so no bound was tried",
    ),
    Claim(
        "waiting-only-moves-the-queue",
        "where the sender waits the ticks get old as well",
        "where the sender waits the ticks stay young",
        only_moves_the_queue,
        "the consumer was not too slow, so nothing had to wait",
    ),
    Claim(
        "to-stay-fresh-you-must-lose",
        "only the policies that lose ticks keep the others young",
        "ticks get old although others are lost",
        stays_fresh,
        "the consumer was not too slow, so nothing had to be lost",
    ),
    Claim(
        "every-policy-conserves",
        "received = processed + dropped + conflated + queued, under every policy",
        "a policy lost a tick that it did not count",
        all_conserve,
    ),
)
