"""The two pumps under one kind of watch: what each stage holds, what waits.

A pump is watched from outside. The naive one gets its four methods wrapped;
the pump of this package gets channels that know how long a batch was in hand.
Held time counts waiting too: it is what a tick experiences.
"""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from quants.channel import Channel, Statistics
from quants.feed_server import FeedServer
from quants.lab.session import Session, end, own_tasks
from quants.limits import seed_limits
from quants.market import Market
from quants.naive import NaivePump
from quants.pipeline import CONSUMERS, Pipeline
from quants.readings import Snapshot
from quants.redis_server import connect
from quants.settings import Settings
from quants.tick import Batch

PumpName = Literal["naive", "quants"]
STAGES = ("receive", *CONSUMERS)


@dataclass
class Watch:
    """What one stage did: ticks in and out, and how long it held them."""

    taken: int = 0
    done: int = 0
    held_ns: int = 0  # summed over ticks; those of a batch share its time
    sent_ns: int = 0  # intended send time of the last one done

    def timed(self, since_ns: int, ticks: int = 1, sent_ns: int = 0) -> None:
        """Count ticks that were held since then."""
        self.done += ticks
        self.held_ns += time.perf_counter_ns() - since_ns
        self.sent_ns = sent_ns


Watches = dict[str, Watch]


@dataclass
class Pump:
    """A pump at work, and how to look at it."""

    name: PumpName
    feed: FeedServer  # its tick_rate can be turned
    watches: Watches
    snapshot: Callable[[], Snapshot]
    tasks: tuple[asyncio.Task[Any], ...]

    def age_seconds(self) -> float:
        """How long ago the newest tick that is wholly done was sent."""
        sent = min(self.watches[name].sent_ns for name in CONSUMERS)
        return max(0.0, (time.time_ns() - sent) / 1e9) if sent else 0.0


# ---- the naive pump


@asynccontextmanager
async def naive_pump(session: Session, rate: int) -> AsyncIterator[Pump]:
    """The naive pump behind a feed of its own; stopped with its queue full."""
    market, server = Market(tick_rate=rate), await session.redis()
    await asyncio.to_thread(seed, server.url, market)
    async with FeedServer(market, rate) as feed:
        pump = NaivePump(feed.url, str(session.folder / "naive.log"), server.url)
        watches = watch_methods(pump)
        working = session.start(pump.run())
        subscribed = session.start(feed.subscribed.wait())
        await asyncio.wait({working, subscribed}, return_when="FIRST_COMPLETED")
        publishing = session.start(feed.publish())
        snapshot = partial(snapshot_of, pump, feed, watches, time.monotonic())
        try:
            yield Pump("naive", feed, watches, snapshot, (working, publishing))
        finally:
            feed.stop()
            # A gather that is cancelled does not wait for all that it gathered.
            gathered = [t for t in own_tasks() if is_part_of(pump, t)]
            await end(working, subscribed, publishing, *gathered)


def seed(redis_url: str, market: Market) -> None:
    """Limits for the market's symbols; blocks."""
    with connect(redis_url) as client:
        seed_limits(client, market.symbols, market.opening_prices)


def is_part_of(pump: object, task: asyncio.Task[Any]) -> bool:
    """Whether a task runs a method of this very object."""
    frame = getattr(task.get_coro(), "cr_frame", None)
    return frame is not None and frame.f_locals.get("self") is pump


def watch_methods(pump: NaivePump) -> Watches:
    """Wrap the pump's four stages, so that each call is timed."""
    watches = {name: Watch() for name in STAGES}
    for name, watch in watches.items():
        method = getattr(pump, name)
        wrap = awaited if inspect.iscoroutinefunction(method) else called
        setattr(pump, name, wrap(method, watch))
    return watches


def called(method: Callable[[Any], Any], watch: Watch) -> Callable[[Any], Any]:
    """The method, timed. What receives nothing, a heartbeat, is not counted."""

    def stage(item: Any) -> Any:
        since = time.perf_counter_ns()
        watch.taken += 1
        if (result := method(item)) is None:
            watch.taken -= 1
        else:
            watch.timed(since, 1, getattr(item, "sent_ns", 0))
        return result

    return stage


def awaited(method: Callable[[Any], Any], watch: Watch) -> Callable[[Any], Any]:
    """The coroutine method, timed until it has returned."""

    async def stage(item: Any) -> None:
        since = time.perf_counter_ns()
        watch.taken += 1
        await method(item)
        watch.timed(since, 1, item.sent_ns)

    return stage


def snapshot_of(
    pump: NaivePump, feed: FeedServer, watches: Watches, started: float
) -> Snapshot:
    """The naive pump's counters; each is counted where it happens."""
    received, processed = watches["receive"].done, watches["risk"].done
    in_hand = watches["vwap"].taken - processed
    waiting = pump.queue.qsize()
    counts = Statistics(received, processed, 0, 0, waiting + in_hand, waiting, 0, 0)
    seconds = time.monotonic() - started
    return Snapshot(seconds, feed.sent, received, 0, 0, {"naive": counts})


# ---- the pump of this package


@asynccontextmanager
async def quants_pump(session: Session, rate: int) -> AsyncIterator[Pump]:
    """The whole Pipeline, in this loop; it drains before it ends."""
    server = await session.redis()
    await asyncio.to_thread(seed, server.url, Market(tick_rate=rate))
    log_file = session.folder / f"{time.monotonic_ns()}.log"
    settings = Settings(
        tick_rate=rate, log_file=log_file, redis_url=server.url, metrics_port=0
    )
    pipeline = Pipeline(settings)
    watches = {name: Watch() for name in STAGES}
    pipeline.channels = {n: WatchedChannel(n, watches[n]) for n in CONSUMERS}
    running = session.start(pipeline.run())
    ready = session.start(pipeline.ready.wait())
    try:
        await asyncio.wait({running, ready}, return_when="FIRST_COMPLETED")
        if running.done():
            running.result()
        receiver, feed = pipeline.subscription.receiver, pipeline.own_feed
        assert feed is not None
        receive = partial(watched_receive, receiver.receive, watches["receive"])
        setattr(receiver, "receive", receive)  # noqa: B010 - a method, to mypy
        yield Pump("quants", feed, watches, pipeline.snapshot, (running,))
        pipeline.stop()
        await running
    finally:
        await end(running, ready)


class WatchedChannel(Channel):
    """A channel that knows how long its consumer held each batch."""

    def __init__(self, name: str, watch: Watch) -> None:
        super().__init__(name)
        self.watch = watch
        self._since = 0
        self._held: Batch | None = None

    async def __anext__(self) -> Batch:
        if self._held:
            self.watch.timed(self._since, len(self._held), self._held.sent_ns)
            self._held = None
        batch = self._held = await super().__anext__()
        self.watch.taken += len(batch)
        self._since = time.perf_counter_ns()
        return batch


def watched_receive(
    receive: Callable[[Any], Iterator[Batch]], watch: Watch, messages: Any
) -> Iterator[Batch]:
    """The receiver's batches; the time to make each is counted."""
    since = time.perf_counter_ns()
    for batch in receive(messages):
        watch.taken += len(batch)
        watch.timed(since, len(batch), batch.sent_ns)
        yield batch
        since = time.perf_counter_ns()


PUMPS = {"naive": naive_pump, "quants": quants_pump}
