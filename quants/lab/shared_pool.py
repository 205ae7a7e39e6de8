"""A brown-out: Redis is not down, it takes its time; who waits with it?

Checks ask it for limits, on threads that they share with a log, as all users of
a loop's default pool do. This pool is our own, so that every reader's has as
many threads.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from redis import Redis, RedisError

from quants.lab.checks import Check, Checks, Fate, Look
from quants.lab.session import session
from quants.lab.slow_redis import SlowRedis, answers
from quants.limits import Answer, read_limits
from quants.market import Market
from quants.redis_server import connect
from quants.tick import Symbol

Told = list[Answer]
Way = Literal["no deadline", "deadline"]

THREADS = 8
CHECKS, WRITES = 100, 20  # a second
CALM_MS, SLOW_MS = 5, 300
SLOW_FROM, SLOW_TO, OVER = 0.8, 2.3, 3.0  # seconds
DEADLINE = 0.05
FOR_EVER = 60.0  # seconds; nobody here waits so long
TICK = b"\0" * 32


# ---- two ways to ask, as the notebook shows them


async def ask(pool: Executor, client: Redis, symbol: Symbol) -> Told:
    """What Redis knows of a symbol."""
    loop = asyncio.get_running_loop()
    told = loop.run_in_executor(pool, read_limits, client, [symbol])
    return await told


async def ask_soon(pool: Executor, client: Redis, symbol: Symbol) -> Told:
    """What Redis knows of a symbol, if it tells in time."""
    loop = asyncio.get_running_loop()
    told = loop.run_in_executor(pool, read_limits, client, [symbol])
    async with asyncio.timeout(DEADLINE):
        return await told


# ---- a ride through a brown-out


@dataclass(frozen=True)
class Ride:
    """What checks and a log that shares their threads went through.

    Attributes:
        looks: how many checks were inside.
        slow: when Redis took its time, in seconds.
        server: who answered.
    """

    way: Way
    checks: tuple[Check, ...]
    writes: tuple[Check, ...]
    looks: tuple[Look, ...]
    slow: tuple[float, float]
    server: str

    def took(self, calls: Sequence[Check], slow: bool) -> float:
        """Seconds that the median call took which began in the brown-out, or not."""
        begin, end = self.slow
        taken = [c.took for c in calls if (begin <= c.begun < end) is slow]
        return median(taken) if taken else 0.0

    @property
    def inside(self) -> float:
        """Checks that were inside during the brown-out, in the median."""
        begin, end = self.slow
        seen = [inside for when, inside in self.looks if begin <= when < end]
        return median(seen or [0])

    def __repr__(self) -> str:
        calm, slow = (1e3 * self.took(self.writes, when) for when in (False, True))
        given_up = sum(check.fate == "gave up" for check in self.checks)
        return (
            f"{self.way}: {len(self.checks)} checks, {given_up} given up, at most "
            f"{max(look.inside for look in self.looks)} inside; the log's writes took "
            f"{calm:.1f} ms in the median, {slow:,.0f} ms while Redis was slow."
        )


class Riding:
    """A ride that is under way."""

    def __init__(self, way: Way, slow: SlowRedis, file: Path, server: str) -> None:
        self.way, self.slow, self.file, self.server = way, slow, file, server
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="shared")
        self.symbol = Market().symbols[0]
        self.client = connect(slow.url, DEADLINE if way == "deadline" else FOR_EVER)
        self.checks = Checks(self._check, CHECKS)
        self.writes = Checks(self._write, WRITES)
        self.turned = [(0.0, CALM_MS)]

    async def connect(self) -> None:
        """Have each thread connect, so that no check pays for it."""
        loop, pool = asyncio.get_running_loop(), self.pool
        calls = (loop.run_in_executor(pool, self.client.ping) for _ in range(THREADS))
        await asyncio.gather(*calls, return_exceptions=True)

    async def _check(self) -> Fate:
        question = ask_soon if self.way == "deadline" else ask
        try:
            await question(self.pool, self.client, self.symbol)
        except (TimeoutError, RedisError):
            return "gave up"
        return "answered"

    async def _write(self) -> Fate:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.pool, self._append)
        return "answered"

    def _append(self) -> None:
        with self.file.open("ab") as file:
            file.write(TICK)

    def turn(self, milliseconds: int) -> None:
        """Redis takes so long from now on."""
        self.turned.append((self.checks.now, milliseconds))
        self.slow.takes(milliseconds / 1e3)

    def script(self) -> bool:
        """Turn to what the script says for now; whether it goes on."""
        now = self.checks.now
        wanted = SLOW_MS if SLOW_FROM <= now < SLOW_TO else CALM_MS
        if wanted != self.turned[-1][1]:
            self.turn(wanted)
        return now < OVER

    def ride(self) -> Ride:
        """What has been seen so far."""
        slow = [when for when, ms in self.turned if ms > CALM_MS]
        begin = slow[0] if slow else OVER
        calm = [when for when, ms in self.turned if when > begin and ms <= CALM_MS]
        checks, writes = self.checks, self.writes
        return Ride(
            self.way, tuple(checks.done), tuple(writes.done), tuple(checks.looks),
            (begin, calm[0] if calm else checks.now), self.server,
        )  # fmt: skip


@asynccontextmanager
async def riding(way: Way) -> AsyncIterator[Riding]:
    """Checks and writes, side by side; at the end all that is inside comes out."""
    lab = await session()
    server = await lab.redis()
    file = lab.folder / f"{time.monotonic_ns()}.log"
    async with SlowRedis(server.url) as slow:
        going = Riding(way, slow, file, answers(server))
        try:
            await going.connect()
            slow.takes(CALM_MS / 1e3)
            async with going.checks, going.writes:
                try:
                    yield going
                finally:
                    slow.takes(CALM_MS / 1e3)
        finally:
            # Its threads are idle; waiting for them would hold the loop.
            going.pool.shutdown(wait=False, cancel_futures=True)
            going.client.close()
