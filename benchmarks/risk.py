"""Waiting for Redis: limits kept here, a Redis that hangs, a limit that changes.

The lanes of `quants/lookups.py` check the same batch. Then a risk stage gets
50,000 ticks/s, with alerts among them, beside a Redis that is well and one that
is stopped: how late does a task wake that wants to every 5 ms?
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median

import redis

from benchmarks.size import Size
from quants.breaker import State
from quants.evidence import Claim, Finding, find, in_turn
from quants.histogram import Histogram, seconds_text
from quants.limits import Limits, limit_key, read_limits, seed_limits
from quants.lookups import Cached, GetPerTick, PipelinePerBatch
from quants.market import Market
from quants.metrics import Registry
from quants.redis_server import connect, redis_server
from quants.risk import Risk
from quants.tick import Batch, Rows

ROWS = 1000
TICK_RATE = 50_000
LEAST_SECONDS = 1.0  # a breaker needs half of it
BEAT_SECONDS = 0.005
CHANGE_SECONDS = 0.01
NOTIONAL = "20000"  # some alerts each second
STALE_MS = 50.0  # a poll a second takes ten times as long on average

LANES = Claim(
    "limits kept here: at least 1,000 times the ticks of a GET for each",
    "kept here", "a GET per tick", "ticks/s", "at least", 1000,
)  # fmt: skip
LAG = Claim(
    "a Redis that hangs makes the loop no later: p99 of a 5 ms beat, 50,000 ticks/s",
    "Redis stopped", "Redis well", "ms", "no worse",
)  # fmt: skip
OPEN = Claim(
    "a Redis that hangs is left alone within 1 s",
    "longest", "the limit", "s", "at most", 1.0,
)  # fmt: skip
STALE = Claim(
    "a limit is in force within 50 ms of being set: p99 at 50,000 ticks/s",
    "p99", "the limit", "ms", "at most", 1.0,
)  # fmt: skip


def measure(size: Size) -> list[Finding]:
    """The four claims, beside one Redis."""
    market = Market(tick_rate=TICK_RATE)
    with redis_server() as server, connect(server.url) as client:
        seed_limits(client, market.symbols, market.opening_prices, notional=NOTIONAL)
        seconds = max(size.seconds, LEAST_SECONDS)
        stage = Stage(market, server.url, client, seconds)
        return [lanes(market, client, size), *hanging(stage, size), stale(stage, size)]


# ---- the lanes


def lanes(market: Market, client: redis.Redis, size: Size) -> Finding:
    """One batch in each lane, in turn; all find the same."""
    rows, limits = market.take(ROWS), Limits(market.symbols)
    limits.update(read_limits(client, market.symbols))
    get = GetPerTick(client, market.symbols)
    pipeline, cached = PipelinePerBatch(client, market.symbols), Cached(limits)
    assert get.check(rows) == pipeline.check(rows) == cached.check(rows)
    sides: dict[str, GetPerTick | Cached] = {
        "cached": cached, "get": get, "again": get, "pipeline": pipeline
    }  # fmt: skip
    runs = {name: partial(rate, lane, rows) for name, lane in sides.items()}
    rates = in_turn(runs, size.rounds)
    fact = f"a pipeline per batch: {median(rates['pipeline']):,.0f} ticks/s"
    return find(LANES, rates["cached"], rates["get"], rates["again"], [fact])


def rate(lane: GetPerTick | Cached, rows: Rows, seconds: float = 0.05) -> float:
    """Ticks per second of a lane, over some batches."""
    start, batches = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        lane.check(rows)
        batches += 1
    return batches * len(rows) / (time.perf_counter() - start)


# ---- a stage at work


class Stage:
    """Runs a risk stage on a loop of its own, as often as it is asked.

    Attributes:
        opened: seconds that a stopped Redis took to open the breaker, by run.
    """

    def __init__(
        self, market: Market, url: str, client: redis.Redis, seconds: float
    ) -> None:
        self.symbols, self.url, self.seconds = market.symbols, url, seconds
        self.rows = market.take(round(TICK_RATE * seconds) + TICK_RATE)
        self.client, self.opened = client, list[float]()
        self.pid = client.info("server")["process_id"]

    def lag(self, well: bool) -> float:
        """p99 of how late a beat is, in ms, while Redis is well or stopped."""
        return asyncio.run(self._lag(well)).quantile(0.99) * 1e3

    async def _lag(self, well: bool) -> Histogram:
        risk = self._risk()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(risk.run(self._batches(risk)))
            await tracked(risk)
            with self._stopped(not well):
                lag = await self._beat(risk, running)
        return lag

    def _risk(self) -> Risk:
        return Risk(self.symbols, "b", self.url, Registry(), drain_seconds=0)

    async def _batches(self, risk: Risk) -> AsyncIterator[Batch]:
        """What is due each millisecond, until the seconds are over."""
        await tracked(risk)
        loop, sent = asyncio.get_running_loop(), 0
        start = loop.time()
        while (passed := loop.time() - start) < self.seconds:
            rows = self.rows[sent : int(passed * TICK_RATE)]
            if len(rows):
                yield Batch(rows, sent + 1, len(rows), 0)
                sent += len(rows)
            await asyncio.sleep(0.001)

    async def _beat(self, risk: Risk, running: asyncio.Task[None]) -> Histogram:
        loop, lag = asyncio.get_running_loop(), Histogram()
        start, opened = loop.time(), 0.0
        while not running.done():
            due = loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            lag.record(round((loop.time() - due) * 1e9))
            if risk.redis.breaker.state is State.OPEN and not opened:
                opened = loop.time() - start
                self.opened.append(opened)
        return lag

    @contextmanager
    def _stopped(self, really: bool) -> Iterator[None]:
        try:
            if really:
                os.kill(self.pid, signal.SIGSTOP)
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def staleness(self) -> Histogram:
        """From set to in force, of a limit that changes a hundred times a second."""
        return asyncio.run(self._staleness())

    async def _staleness(self) -> Histogram:
        risk = self._risk()
        running = asyncio.create_task(risk.run(self._batches(risk)))
        await tracked(risk)
        await asyncio.to_thread(self._change, running)
        await running
        return risk.staleness

    def _change(self, running: asyncio.Task[None]) -> None:
        key = limit_key(self.symbols[0])
        while not running.done():
            self.client.hset(key, "set_ns", str(time.time_ns()))
            time.sleep(CHANGE_SECONDS)


async def tracked(risk: Risk) -> None:
    """Wait until Redis tells the stage of changes."""
    while not risk.tracker.tracked:  # noqa: ASYNC110 - nobody sets an event
        await asyncio.sleep(BEAT_SECONDS)


def hanging(stage: Stage, size: Size) -> list[Finding]:
    """Redis stopped, well, and well again, in turn."""
    stopped, well = partial(stage.lag, False), partial(stage.lag, True)
    sides = {"stopped": stopped, "well": well, "again": well}
    lags = in_turn(sides, size.rounds)
    longest = [max(stage.opened, default=float("inf"))]
    times = ", ".join(map(seconds_text, sorted(stage.opened)))
    return [
        find(LAG, lags["stopped"], lags["well"], lags["again"]),
        find(OPEN, longest, [1.0], [1.0], [f"{len(stage.opened)} outages: {times}"]),
    ]


def stale(stage: Stage, size: Size) -> Finding:
    """A limit that is set, and set again; a p99 for each round."""
    rounds = [stage.staleness() for _ in range(size.rounds)]
    total = Histogram()
    for found in rounds:
        total.merge(found)
    points = {f"p{q * 100:g}": total.quantile(q) for q in (0.5, 0.9, 0.99)}
    texts = [f"{name} {seconds_text(seconds)}" for name, seconds in points.items()]
    longest = seconds_text(total.maximum)
    fact = f"{total.count} changes: {', '.join(texts)}, longest {longest}"
    p99s = [found.quantile(0.99) * 1e3 for found in rounds]
    limit = [STALE_MS] * size.rounds
    return find(STALE, p99s, limit, limit, [fact])
