"""The risk stage: every tick against its symbol's limits, alerts to Redis.

The limits sit in arrays and are compared on the loop, a batch at once. Redis
is only spoken to from a thread pool: to read the limits again every second and
to deliver alerts. While it is away the last limits hold and alerts wait.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import redis

from quants.alerts import add_once
from quants.limits import read_limits
from quants.metrics import Registry
from quants.outbox import Outbox
from quants.redis_server import connect
from quants.rules import Rules
from quants.tick import Batch, Symbol

Argument = TypeVar("Argument")
Result = TypeVar("Result")

log = logging.getLogger("quants.risk")


@dataclass(frozen=True, slots=True)
class AlertCounts:
    """What became of one rule's breaches; undelivered = raised − delivered."""

    raised: int
    delivered: int
    suppressed: int
    undelivered: int


class RedisThreads:
    """A Redis client and the threads that may wait for it."""

    def __init__(self, url: str, threads: int) -> None:
        self._client = connect(url)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="redis")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A thread that still waits for an answer ends by its socket's timeout;
        # the loop does not wait for it.
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def call(
        self, function: Callable[[redis.Redis, Argument], Result], what: Argument
    ) -> Result:
        """`function(client, what)`, on a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, function, self._client, what)


class Risk:
    """Raises alerts for ticks beyond their symbol's limits.

    Args:
        symbols: the feed's symbol table.
        stream: the feed's id, the first part of an alert's.
        redis_url: where the limits are and the alerts go.
        threads: how many calls to Redis may wait at once.
        refresh_seconds: age at which limits are read again.
        cooldown_ns: event time between two alerts of one rule and symbol.
        capacity: alerts that wait while Redis is away.
        drain_seconds: for the last alerts, after the feed has ended.
    """

    def __init__(
        self,
        symbols: Sequence[Symbol],
        stream: str,
        redis_url: str,
        registry: Registry,
        *,
        threads: int = 4,
        refresh_seconds: float = 1.0,
        cooldown_ns: int = 1_000_000_000,
        capacity: int = 10_000,
        drain_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.symbols, self.redis_url = symbols, redis_url
        self.threads, self.refresh_seconds = threads, refresh_seconds
        self.drain_seconds = drain_seconds
        self.rules = Rules(symbols, stream, registry, cooldown_ns)
        self.outbox = Outbox(capacity, sleep)
        self.read_failures = 0
        self._clock, self._sleep = clock, sleep
        self._limits_read = clock()  # when the limits were last heard
        self._register(registry)

    def __repr__(self) -> str:
        return f"<Risk {self.rules!r} {self.outbox!r}>"

    async def run(self, batches: AsyncIterable[Batch]) -> None:
        """Check batches until they end, then deliver what still waits."""
        async with (
            RedisThreads(self.redis_url, self.threads) as threads,
            asyncio.TaskGroup() as tasks,
        ):
            await self._refresh(threads)
            refreshing = tasks.create_task(self._keep_fresh(threads))
            write = partial(threads.call, add_once)
            delivering = tasks.create_task(self.outbox.deliver(write))
            async for batch in batches:
                for alert in self.rules.check(batch):
                    self.outbox.put(alert)
            await self.outbox.drained(self.drain_seconds)
            refreshing.cancel()
            delivering.cancel()

    async def _keep_fresh(self, threads: RedisThreads) -> None:
        while True:
            await self._sleep(self.refresh_seconds)
            await self._refresh(threads)

    async def _refresh(self, threads: RedisThreads) -> None:
        try:
            self.rules.limits.update(await threads.call(read_limits, self.symbols))
        except (redis.RedisError, OSError) as fault:
            self.read_failures += 1
            log.debug("limits not read: %s; the last ones hold", fault)
        else:
            self._limits_read = self._clock()

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
        counter(
            "quants_limits_refused_total", "Limits in Redis that are no limits",
            lambda: self.rules.limits.refused,
        )  # fmt: skip
