"""A small pump with /metrics, and what can be read out of its scrapes.

A scrape tells all that was counted since the start. What happened lately is
the difference of two scrapes. The pump takes each batch's time twice: from its
receipt, and from when it should have been sent.
"""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any, NamedTuple

import aiohttp

from quants.feed_client import subscribe
from quants.feed_server import FeedServer
from quants.histogram import Histogram, seconds_text
from quants.lab.claims import Claim
from quants.lab.hist_task import LatencyHist
from quants.lab.session import session
from quants.market import Market
from quants.metrics import Registry
from quants.server import MetricsServer
from quants.tick import Batch
from quants.vwap import Vwap

Counts = dict[float, int]  # by the upper bound of a bucket, in seconds

RATE = 1000  # ticks/s
SENT = "quants_vwap_latency_seconds"  # from the intended send time
RECEIVED = "lesson_vwap_held_seconds"  # from the receipt of a batch
SOME_SECONDS = 0.5  # until there is something to scrape
WINDOW = 6  # scrapes
LATE = 0.131072  # seconds; a bound of the scraped buckets


# ---- what is scraped


@dataclass(frozen=True)
class SmallPump:
    """A pump at work, and where it can be scraped."""

    server: MetricsServer
    feed: FeedServer
    vwap: Vwap

    def __repr__(self) -> str:
        return f"<SmallPump {self.feed.tick_rate:g} ticks/s, {self.server.url}metrics>"


async def small_pump() -> SmallPump:
    """Start a feed, a VWAP and /metrics; they end with the session."""
    lab, registry, held = await session(), Registry(), Histogram()
    feed = await lab.enter(FeedServer(Market(tick_rate=RATE), RATE))
    subscription = await lab.enter(subscribe(feed.url))
    vwap = Vwap(subscription.symbols, registry)
    registry.histogram(
        RECEIVED, "From the receipt of a batch to its VWAP.", lambda: held
    )
    server = await lab.enter(MetricsServer(registry, port=0))
    lab.start(vwap.run(timed(subscription, held)))
    lab.start(feed.publish())
    await asyncio.sleep(SOME_SECONDS)
    return SmallPump(server, feed, vwap)


async def timed(batches: AsyncIterable[Batch], held: Histogram) -> AsyncIterator[Batch]:
    """Pass batches on, and count for how long each was in hand."""
    async for batch in batches:
        received = time.perf_counter_ns()
        yield batch
        held.record(time.perf_counter_ns() - received, len(batch))


async def scrape(http: aiohttp.ClientSession, pump: SmallPump) -> str:
    """What /metrics says now, as a scraper asks for it."""
    accept = {"Accept": "text/plain"}
    async with http.get(f"{pump.server.url}metrics", headers=accept) as answer:
        return await answer.text()


def buckets(exposition: str, name: str) -> Counts:
    """How many durations lie in each bucket of a histogram, by its bound.

    /metrics tells of each bound how many are at most so long.
    """
    counts, before = {}, 0
    for line in exposition.splitlines():
        if line.startswith(f"{name}_bucket"):
            bound, at_most = line.split('le="')[1].split('"} ')
            counts[float(bound)] = int(float(at_most)) - before
            before = int(float(at_most))
    return counts


def between(before: Counts, after: Counts) -> Counts:
    """What was counted between two scrapes."""
    return {bound: count - before[bound] for bound, count in after.items()}


def told(exposition: str, name: str = SENT) -> str:
    """The lines of one histogram; bounds that add nothing are left out."""
    kept, last = [], "0"
    for line in exposition.splitlines():
        if name in line:
            adds = "le=" not in line or line.split()[-1] != last
            kept += [line] if adds else []
            last = line.split()[-1] if "le=" in line else last
    return "\n".join(kept)


async def lines(pump: SmallPump) -> str:
    """One scrape, as far as it tells of the time from due to VWAP."""
    async with aiohttp.ClientSession() as http:
        return told(await scrape(http, pump))


# ---- what is seen


class Scrape(NamedTuple):
    """When it was, in seconds, and the counts of both histograms by name."""

    seconds: float
    counts: dict[str, Counts]


class Stall(NamedTuple):
    """When the loop was blocked, and for how long, in seconds."""

    seconds: float
    length: float


class Point(NamedTuple):
    """Quantiles of the last scrapes, in seconds; nan if nothing was counted."""

    seconds: float
    p50: float
    p99: float
    held_p99: float  # from the receipt


@dataclass
class Seen:
    """What scrapes have shown of a pump that stalls.

    Attributes:
        hist: what merges counts and finds quantiles, such as the reader's own.
        parts: what was counted between a scrape and the next.
        stalls: when the loop was blocked, and for how long.
    """

    hist: Any = LatencyHist
    scrapes: list[Scrape] = field(default_factory=list)
    parts: list[dict[str, Counts]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def add(self, now: Scrape) -> None:
        """One more scrape."""
        if self.scrapes:
            before = self.scrapes[-1].counts
            self.parts.append({n: between(before[n], c) for n, c in now.counts.items()})
            sent, held = (self.merged(name, WINDOW) for name in (SENT, RECEIVED))
            found = sent.quantile(0.5), sent.quantile(0.99), held.quantile(0.99)
            numbers = (nan if each is None else each for each in found)
            self.points.append(Point(now.seconds, *numbers))
        self.scrapes.append(now)

    def merged(self, name: str, last: int = 0) -> Any:
        """The last parts of one histogram, merged; 0 takes all."""
        merged = self.hist({})
        for part in self.parts[-last:]:
            merged.merge(self.hist(part[name]))
        return merged

    def whole(self, name: str) -> Counts:
        """What was counted between the first scrape and the last."""
        return between(self.scrapes[0].counts[name], self.scrapes[-1].counts[name])

    def late(self, name: str) -> int:
        """Ticks whose time is beyond LATE."""
        return sum(count for bound, count in self.whole(name).items() if bound > LATE)

    def __repr__(self) -> str:
        if not self.parts:
            return "Nothing was scraped yet."
        sent, held = (self.merged(name).quantile(0.99) for name in (SENT, RECEIVED))
        ticks = sum(self.whole(SENT).values())
        return (
            f"{len(self.scrapes)} scrapes, {ticks:,} ticks, {len(self.stalls)} "
            f"stalls; p99 from due at most {seconds_text(sent)}, from receipt at most "
            f"{seconds_text(held)}; {self.late(SENT):,} and {self.late(RECEIVED):,} "
            f"ticks over {seconds_text(LATE)}."
        )


# ---- what is claimed


def shows_the_stall(seen: Seen) -> bool | None:
    """Whether ten times as many ticks are late from due as from receipt."""
    if not any(stall.length > LATE for stall in seen.stalls):
        return None
    return seen.late(SENT) >= 10 * max(1, seen.late(RECEIVED))


def adds_up(seen: Seen) -> bool | None:
    """Whether merged parts are what was counted in all, bucket by bucket."""
    if len(seen.scrapes) < 2:
        return None
    return all(
        not_empty(seen.merged(name)) == not_empty(seen.whole(name))
        for name in (SENT, RECEIVED)
    )


def not_empty(counts: Mapping[float, int]) -> Counts:
    """The buckets that hold something."""
    return {bound: count for bound, count in counts.items() if count}


CLAIMS = (
    Claim(
        "due-times-show-the-stall",
        "from when ticks were due the stall is plain; from receipt they were all quick",
        "both clocks find about as many ticks late",
        shows_the_stall,
        "the loop was not stalled for long enough",
    ),
    Claim(
        "windows-merge-to-the-whole",
        "the differences of scrapes, merged, are what was counted in all",
        "the differences of scrapes, merged, are not what was counted in all",
        adds_up,
        "there were less than two scrapes",
    ),
)
