"""The wiring: which part is started when, and what feeds what.

    own feed, or --feed-url -> subscription -> fan-out -+-> vwap
                                                        +-> log
                                                        +-> risk -> Redis

The end of the feed closes the channels, a closed channel ends its consumer's
loop, and the task group waits for all of them. `stop()` ends the feed.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from operator import attrgetter

from quants.access import token_for
from quants.channel import Channel, Statistics, fan_out
from quants.engines import chosen, open_engine
from quants.errors import EnvironmentFault
from quants.feed_client import Subscription
from quants.feed_server import FeedServer
from quants.host import available_cores
from quants.limits import seed_limits
from quants.market import Market
from quants.metrics import Registry
from quants.monitor import Monitor, freeze_after
from quants.page import Shown, shown
from quants.pools import TickPool
from quants.readings import Snapshot, register_consumers, register_feed, register_pump
from quants.redis_server import RedisServer, connect, redis_server
from quants.risk import Risk
from quants.server import MetricsServer
from quants.settings import Settings
from quants.supervisor import Stage, Supervisor
from quants.tick import Batch
from quants.ticklog import TickLog
from quants.vwap import Engine, Vwap
from quants.worker import Work

log = logging.getLogger(__name__)

CONSUMERS = ("vwap", "log", "risk")
OUTBOX = ".outbox.jsonl"  # after the log's name: alerts that wait for Redis
DRAIN_SECONDS = 5.0
LATE_SECONDS = 10.0  # then a run of fixed length did not keep its rate


class Pipeline:
    """The whole pump, made from Settings; `run()` is its life.

    Attributes:
        notes: sentences a person should read: what was found, kept, missing.
        faults: what ended the run before its time, in sentences.
        first_tick, last_tick: clock readings; None before.
        redis: the Redis of this run, once it is open.
    """

    def __init__(
        self, settings: Settings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.settings, self._clock = settings, clock
        self.registry = Registry()
        self.channels = {name: Channel(name) for name in CONSUMERS}
        self.monitor = Monitor(self.registry, gc_threshold=settings.gc_threshold)
        self.notes: list[str] = []
        self.faults: list[str] = []
        self.supervisor = Supervisor(self.registry, self.notes)
        self.first_tick: float | None = None
        self.last_tick: float | None = None
        self.own_feed: FeedServer | None = None
        self.pool: TickPool | None = None
        self.engine_name = chosen(settings.engine, settings.cores)
        self.ready = asyncio.Event()  # set when every part is open
        self._task: asyncio.Task[None] | None = None  # the one in run()
        self._first_tick = asyncio.Event()
        self._deadline = asyncio.timeout(None)  # set by stop()

    def __repr__(self) -> str:
        channels = " ".join(map(repr, self.channels.values()))
        return f"<Pipeline {self.subscription!r} {channels}>"

    async def run(self) -> None:
        """Open every part, feed them until the end, wait until all is done.

        Raises:
            QuantsError: what could not be opened, or which stage failed.
        """
        self._task = asyncio.current_task()
        async with AsyncExitStack() as stack:
            await self._open(stack)
            try:
                async with self._deadline, asyncio.TaskGroup() as tasks:
                    watching = tasks.create_task(self._watch())
                    async with asyncio.TaskGroup() as stages:
                        for name, stage in self.stages.items():
                            supervised = self.supervisor.run(stage, self.channels[name])
                            stages.create_task(supervised)
                        stages.create_task(self._feed())
                        self.ready.set()
                        channels = list(self.channels.values())
                        await fan_out(self._batches(), channels)
                    watching.cancel()
            except TimeoutError:
                raise EnvironmentFault(self._undrained()) from None

    def stop(self) -> None:
        """End the feed; what is queued is worked off, within 5 s.

        Before everything is open there is nothing to work off: then at once.
        """
        if not self.ready.is_set():
            assert self._task is not None
            self._task.cancel()
            return
        loop = asyncio.get_running_loop()
        self._deadline.reschedule(loop.time() + DRAIN_SECONDS)
        if self.own_feed is not None:
            self.own_feed.stop()
        else:
            self.subscription.stop()

    def snapshot(self) -> Snapshot:
        """The counters of this moment."""
        receiver, start = self.subscription.receiver, self.first_tick
        return Snapshot(
            (self.last_tick or self._clock()) - start if start else 0.0,
            self.own_feed.sent if self.own_feed else None,
            receiver.received,
            receiver.gap_ticks,
            receiver.duplicates,
            self.statistics(),
        )

    def statistics(self) -> dict[str, Statistics]:
        """The counters of each consumer; in ticks, conserved: see `channel`."""
        found = {name: channel.statistics() for name, channel in self.channels.items()}
        return found | {"vwap": self.vwap.corrected(found["vwap"])}

    def look(self) -> Shown | None:
        """What the live page shows; None before everything is open."""
        return shown(self) if self.ready.is_set() else None

    # -- opening, in the order that leaves nothing behind when a part fails --

    async def _open(self, stack: AsyncExitStack) -> None:
        settings = self.settings
        self.token = token_for(settings.host, os.environ.get("QUANTS_TOKEN"))
        stack.enter_context(self.monitor)
        for name, channel in self.channels.items():
            self.monitor.watched.watch(name, channel)
        http = MetricsServer(
            self.registry,
            settings.host,
            settings.metrics_port,
            token=self.token,
            look=self.look,
        )
        self.metrics = await stack.enter_async_context(http)
        await self._open_feed(stack)
        await self._open_redis(stack)
        await self._open_stages(stack)
        self._register()
        log.debug("open: %s", self)

    async def _open_feed(self, stack: AsyncExitStack) -> None:
        url, wire = self.settings.feed_url, self.settings.wire
        if url is None:
            self.own_feed = await stack.enter_async_context(self._make_feed())
            url = self.own_feed.url
        subscription = Subscription(url, wire, token=self.token)
        self.subscription = await stack.enter_async_context(subscription)

    def _make_feed(self) -> FeedServer:
        settings = self.settings
        self.market = Market(settings.seed, settings.symbols, settings.tick_rate)
        return FeedServer(self.market, settings.tick_rate, token=self.token)

    async def _open_redis(self, stack: AsyncExitStack) -> None:
        found = redis_server(self.settings.redis_url)
        self.redis: RedisServer = await asyncio.to_thread(found.__enter__)
        stack.push(found)
        self.notes.append(self.redis.how)
        if self.own_feed and self.redis.ours:
            await asyncio.to_thread(self._seed_limits)
        elif self.redis.ours:
            self.notes.append("no limits are set in it: risk raises no alerts")

    def _seed_limits(self) -> None:
        with connect(self.redis.url) as client:
            seed_limits(client, self.market.symbols, self.market.opening_prices)

    async def _open_stages(self, stack: AsyncExitStack) -> None:
        settings, registry = self.settings, self.registry
        symbols, stream = self.subscription.symbols, self.subscription.stream
        self.vwap = Vwap(symbols, registry, engine=await self._open_engine(stack))
        log = TickLog(
            settings.log_file,
            stream=stream,
            symbols=symbols,
            registry=registry,
            first_seq=self.subscription.receiver.expected or 1,
            fsync=settings.fsync,
        )
        self.log = await stack.enter_async_context(log)
        self.notes += filter(None, [self.log.recovered])
        if self.own_feed is not None:
            self.own_feed.history.archive = self.log.archive
        self.risk = Risk(
            symbols,
            stream,
            self.redis.url,
            registry,
            threads=settings.risk_threads,
            # Beside the log, whose lock keeps other pumps out of it as well.
            outbox_file=settings.log_file.with_name(
                f"{settings.log_file.name}{OUTBOX}"
            ),
        )
        self.stages: dict[str, Stage] = {
            "vwap": self.vwap, "log": self.log, "risk": self.risk
        }  # fmt: skip

    async def _open_engine(self, stack: AsyncExitStack) -> Engine:
        settings, symbols = self.settings, len(self.subscription.symbols)
        cores, here = settings.cores, available_cores()
        if cores > here:
            self.notes.append(f"cores={cores}: this machine has {here}; going on")
        work = Work(symbols, settings.kernel)
        if settings.kernel == "python" and self.engine_name != "interpreters":
            self.pool = TickPool(settings.pool_size, self.registry)
            work = replace(work, pool_size=settings.pool_size)
        engine = open_engine(self.engine_name, work, cores, self.pool)
        return await stack.enter_async_context(engine)

    # -- running ------------------------------------------------------------

    async def _feed(self) -> None:
        """Publish the own feed, or end a foreign one after its time."""
        duration, rate = self.settings.duration, self.settings.tick_rate
        if self.own_feed is not None:
            limit = None if duration is None else round(rate * duration)
            await self.own_feed.publish(limit)
        elif duration is not None:
            await self._first_tick.wait()
            await asyncio.sleep(duration)
            self.stop()

    async def _batches(self) -> AsyncIterator[Batch]:
        async for batch in self.subscription:
            if self.first_tick is None:
                self.first_tick = self._clock()
                self._first_tick.set()
            yield batch
        self.last_tick = self._clock()

    async def _watch(self) -> None:
        """What goes on beside the stages until they are done."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.monitor.run())
            if self.settings.freeze_gc:
                received = attrgetter("received")
                counters = self.subscription.receiver
                tasks.create_task(freeze_after(lambda: received(counters)))

    def _undrained(self) -> str:
        queued = {name: s.queued for name, s in self.statistics().items()}
        slow = ", ".join(f"{name} {ticks}" for name, ticks in queued.items() if ticks)
        return f"not drained within {DRAIN_SECONDS:g} s; ticks still queued: {slow}"

    def _register(self) -> None:
        def processed() -> int:
            return self.statistics()["vwap"].processed

        receiver = self.subscription.receiver
        register_pump(self.registry, processed, receiver, self.vwap, self.monitor)
        register_feed(self.registry, self.subscription, self.own_feed)
        register_consumers(self.registry, self.statistics, self.channels)
