"""Waiting for Redis: on a few threads, for a short time, never on the loop.

Three things bound what an ill Redis can cost. A deadline ends each call. A
bulkhead lets no more calls wait than there are threads; one more is refused at
once. A breaker refuses all of them while nothing answers.
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from types import TracebackType
from typing import Any, Self, TypeVar

import redis

from quants.breaker import Breaker
from quants.errors import NotAsked, RedisFault
from quants.histogram import Histogram, seconds_text
from quants.metrics import Registry
from quants.redis_server import connect

CALL_SECONDS = 0.25  # some hundred times what Redis takes on the same machine
FEWEST, MOST = 2, 32  # threads: one may hang while another goes on
BUSY_SHARE = 0.5  # of a thread's time
PINGS = 5

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def threads_for(calls_per_second: float, seconds_per_call: float) -> int:
    """How many threads so many calls need, each busy half of the time.

    Little's law: calls per second, times seconds per call, is how many
    wait at once on average; it does not matter how they are spread.
    """
    waiting = calls_per_second * seconds_per_call
    return min(max(math.ceil(waiting / BUSY_SHARE), FEWEST), MOST)


def round_trip(url: str, call_seconds: float = CALL_SECONDS) -> float:
    """Seconds that Redis takes to answer, the median of a few; blocking.

    A Redis that does not answer counts as one that takes until the deadline.
    """
    seconds = []
    with connect(url, call_seconds) as client:
        try:
            for _ in range(PINGS):
                start = time.perf_counter()
                client.ping()
                seconds.append(time.perf_counter() - start)
        except (redis.RedisError, OSError):
            return call_seconds
    return median(seconds)


class RedisThreads:
    """A Redis client and the threads that may wait for it.

    Args:
        calls_per_second: how many there will be, for the number of threads.
        threads: that number; None works it out from a measured round trip.
        call_seconds: the deadline of a call, and of each read in it.

    Attributes:
        in_flight: calls that hold a thread, given up or not.
        busy: calls refused because every thread was held.
        seconds: what each call took, as its caller saw it.
    """

    def __init__(
        self,
        url: str,
        registry: Registry,
        calls_per_second: float = 1.0,
        threads: int | None = None,
        call_seconds: float = CALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url, self.calls_per_second = url, calls_per_second
        self.threads, self.why = threads or FEWEST, "as told"
        self.call_seconds, self._clock = call_seconds, clock
        self._measures = threads is None
        self.breaker = Breaker(clock=clock)
        self.seconds = Histogram()
        self.in_flight = self.busy = 0
        self._register(registry)

    def __repr__(self) -> str:
        return f"<RedisThreads {self.in_flight}/{self.threads} held, {self.breaker!r}>"

    async def __aenter__(self) -> Self:
        if self._measures:
            took = await asyncio.to_thread(round_trip, self.url, self.call_seconds)
            self._measure(took)
        self._client, self._closed = connect(self.url, self.call_seconds), False
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="redis")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A thread that still waits for an answer ends by its socket's timeout;
        # the loop does not wait for it.
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    async def call(
        self,
        function: Callable[[redis.Redis, Argument], Result],
        what: Argument,
    ) -> Result:
        """`function(client, what)`, on a thread.

        Raises:
            NotAsked: the breaker is open, or every thread is held.
            RedisFault: no answer before the deadline, or an error.
        """
        self._admit()
        start, loop = self._clock(), asyncio.get_running_loop()
        job = loop.run_in_executor(self._pool, self._on_thread, function, what)
        self.in_flight += 1
        job.add_done_callback(self._landed)
        await asyncio.wait([job], timeout=self.call_seconds)
        self.seconds.record(round((self._clock() - start) * 1e9))
        return self._answer(job)

    def _on_thread(
        self, function: Callable[[redis.Redis, Argument], Result], what: Argument
    ) -> Result:
        try:
            return function(self._client, what)
        finally:
            if self._closed:  # meanwhile: this call's connection is a new one
                self._client.close()

    def _admit(self) -> None:
        if self.in_flight >= self.threads:
            self.busy += 1
            raise NotAsked(f"all {self.threads} threads wait for Redis already")
        if not self.breaker.admits():
            pause = self.breaker.probe_seconds
            raise NotAsked(f"Redis is away; it is asked again every {pause:g} s")

    def _answer(self, future: asyncio.Future[Result]) -> Result:
        """The result of a call; the breaker hears what it was."""
        try:
            # What is there counts, however late the loop comes to look.
            if not future.done():
                raise TimeoutError(f"no answer within {self.call_seconds:g} s")
            result = future.result()
        except redis.ResponseError as refusal:
            self.breaker.succeeded()  # an error is an answer, too
            raise RedisFault(f"Redis refuses: {refusal}") from refusal
        except (redis.RedisError, OSError) as fault:
            self.breaker.failed()
            raise RedisFault(f"Redis: {fault}") from fault
        self.breaker.succeeded()
        return result

    def _landed(self, future: asyncio.Future[Any]) -> None:
        self.in_flight -= 1
        if not future.cancelled():
            future.exception()  # seen, though its caller may have given up

    def _measure(self, seconds: float) -> None:
        self.threads = threads_for(self.calls_per_second, seconds)
        self.why = f"{self.calls_per_second:,.3g} calls/s of {seconds_text(seconds)}"

    def _register(self, registry: Registry) -> None:
        counter, gauge = registry.counter, registry.gauge
        registry.histogram(
            "quants_redis_call_seconds", "Time that calls to Redis took",
            lambda: self.seconds,
        )  # fmt: skip
        gauge("quants_redis_threads", "Threads for Redis", lambda: self.threads)
        gauge("quants_redis_threads_held", "Of them, held", lambda: self.in_flight)
        gauge(
            "quants_redis_breaker_state", "0 closed, 1 half open, 2 open",
            lambda: self.breaker.state,
        )  # fmt: skip
        counter(
            "quants_redis_breaker_opened_total", "Outages of Redis",
            lambda: self.breaker.opened,
        )  # fmt: skip
        counter(
            "quants_redis_calls_refused_total", "Calls not made, by reason",
            lambda: {("busy",): self.busy, ("away",): self.breaker.refused},
            ("reason",),
        )  # fmt: skip
