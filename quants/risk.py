"""The risk stage: every tick against its symbol's limits, alerts to Redis.

The limits sit in arrays and are compared on the loop, a batch at once. Redis
is only spoken to from threads: it tells which limits change, and takes alerts.
While it is away the last limits hold, with their age, and alerts wait.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from quants.alerts import add_once
from quants.errors import NotAsked, RedisFault
from quants.histogram import Histogram
from quants.limits import Answer, read_limits
from quants.metrics import Registry
from quants.outbox import Outbox
from quants.rules import Rules
from quants.tick import Batch, Symbol
from quants.tracking import Tracker
from quants.waiting import RedisThreads

LOOK_SECONDS = 0.25  # between two looks whether ticks still come
SILENCE_SECONDS = 1.0  # without a tick; before, ticks themselves tell the time

log = logging.getLogger("quants.risk")


@dataclass(frozen=True, slots=True)
class AlertCounts:
    """What became of one rule's breaches; undelivered = raised − delivered."""

    raised: int
    delivered: int
    suppressed: int
    undelivered: int


def calls_per_second(symbols: int, cooldown: float, refresh: float) -> float:
    """Calls to Redis at most, if each symbol's alerts leave in a call of their own.

    Args:
        cooldown, refresh: seconds between two alerts, and two reads of limits.
    """
    return symbols / max(cooldown, 0.001) + 1 / refresh


class Risk:
    """Raises alerts for ticks beyond their symbol's limits.

    Args:
        symbols: the feed's symbol table.
        stream: the feed's id, the first part of an alert's.
        redis_url: where the limits are and the alerts go.
        threads: how many calls to Redis may wait at once; None works it out.
        refresh_seconds: age at which limits are read again, if not tracked.
        cooldown_ns: event time between two alerts of one rule and symbol.
        capacity: alerts that wait while Redis is away.
        outbox_file: where they wait beyond the end of the run.
        drain_seconds: for the last alerts, after the feed has ended.

    Attributes:
        staleness: from the moment that limits were set until they were in force.
    """

    def __init__(
        self,
        symbols: Sequence[Symbol],
        stream: str,
        redis_url: str,
        registry: Registry,
        *,
        threads: int | None = None,
        refresh_seconds: float = 1.0,
        cooldown_ns: int = 1_000_000_000,
        capacity: int = 10_000,
        outbox_file: Path | None = None,
        drain_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.symbols, self.refresh_seconds = symbols, refresh_seconds
        self.drain_seconds = drain_seconds
        self.rules = Rules(symbols, stream, registry, cooldown_ns)
        self.outbox = Outbox(capacity, outbox_file, sleep)
        calls = calls_per_second(len(symbols), cooldown_ns / 1e9, refresh_seconds)
        self.redis = RedisThreads(redis_url, registry, calls, threads, clock=clock)
        self.tracker = Tracker(redis_url, symbols, self._hear, self._lose)
        self.staleness = Histogram()
        self.read_failures = 0
        self._clock, self._sleep = clock, sleep
        self._in_force = False  # limits have been read
        self._limits_read = clock()  # when they were last heard
        self._last_tick: float | None = None  # clock reading
        self._lost = asyncio.Event()  # set from the tracker's loss to the next poll
        self._missing = False  # the tracker has lost Redis and not found it again
        self._register(registry)

    def __repr__(self) -> str:
        return f"<Risk {self.rules!r} {self.outbox!r}>"

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Check batches until they end, then deliver what still waits."""
        with self.outbox:
            async with self.redis, self.tracker, asyncio.TaskGroup() as tasks:
                await self._poll()
                polling = tasks.create_task(self._keep_polling())
                watching = tasks.create_task(self._watch_silence())
                write = partial(self.redis.call, add_once)
                delivering = tasks.create_task(self.outbox.deliver(write))
                async for batch in batches:
                    self._check(batch)
                watching.cancel()
                await self.outbox.drained(self.drain_seconds)
                polling.cancel()
                delivering.cancel()

    def _check(self, batch: Batch) -> None:
        if not batch.is_gap:
            self._last_tick = self._clock()
        if alerts := self.rules.check(batch):
            self.outbox.put(alerts)

    async def _watch_silence(self) -> None:
        """A feed without ticks cannot tell that time passes; the clock does."""
        while True:
            await self._sleep(LOOK_SECONDS)
            seconds = self._clock() - (self._last_tick or self._clock())
            if seconds >= SILENCE_SECONDS:
                self.outbox.put(self.rules.silent(seconds))

    # -- limits: tracked, or else polled ------------------------------------

    async def _keep_polling(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.refresh_seconds):
                    await self._lost.wait()
            except TimeoutError:
                pass  # it is time, lost or not
            self._lost.clear()
            if not self.tracker.tracked:
                await self._poll()

    async def _poll(self) -> None:
        try:
            answers = await self.redis.call(read_limits, self.symbols)
        except RedisFault as fault:
            self.read_failures += not isinstance(fault, NotAsked)
            log.debug("limits not read: %s; the last ones hold", fault)
        else:
            if not self.tracker.tracked:  # else it may know newer ones by now
                self._take(answers)

    def _hear(self, answers: Sequence[Answer]) -> None:
        """The tracker tells what the limits are, or that they still hold."""
        if self._missing:
            self.redis.breaker.succeeded()
            self._missing = False
        self._take(answers)

    def _lose(self) -> None:
        """The tracker gets no answer; a poll finds out whether nobody does."""
        self.redis.breaker.failed()
        self._missing = True
        self._lost.set()

    def _take(self, answers: Sequence[Answer]) -> None:
        """Put limits into force, and note how old the changed ones are."""
        limits = self.rules.limits
        before = list(limits.set_ns)
        limits.update(answers)
        for old, new in zip(before, limits.set_ns, strict=True):
            if self._in_force and new is not None and new != old:
                self.staleness.record(time.time_ns() - new)
        self._in_force, self._limits_read = True, self._clock()

    # -- what is told -------------------------------------------------------

    def summary(self) -> dict[str, AlertCounts]:
        """What became of the breaches of each rule."""
        raised, delivered = self.rules.raised, self.outbox.delivered
        return {
            rule: AlertCounts(
                raised[rule], delivered[rule], n, raised[rule] - delivered[rule]
            )
            for rule, n in self.rules.suppressed.items()
        }

    def _register(self, registry: Registry) -> None:
        counter, gauge = registry.counter, registry.gauge
        counter(
            "quants_alerts_lost_total", "Alerts that found the outbox full",
            lambda: self.outbox.lost,
        )  # fmt: skip
        gauge(
            "quants_alerts_waiting", "Alerts not yet in Redis",
            lambda: len(self.outbox),
        )  # fmt: skip
        counter(
            "quants_redis_errors_total", "Calls to Redis that failed",
            lambda: {
                ("limits",): self.read_failures,
                ("alerts",): self.outbox.failures,
            }, ("call",),
        )  # fmt: skip
        gauge(
            "quants_limits_age_seconds", "Time since the limits were last read",
            lambda: self._clock() - self._limits_read,
        )  # fmt: skip
        gauge(
            "quants_limits_tracked", "1 if Redis tells of changes, 0 if polled",
            lambda: self.tracker.tracked,
        )  # fmt: skip
        registry.histogram(
            "quants_limits_staleness_seconds", "From set to in force, of limits",
            lambda: self.staleness,
        )  # fmt: skip
        counter(
            "quants_limits_refused_total", "Limits in Redis that are no limits",
            lambda: self.rules.limits.refused,
        )  # fmt: skip
