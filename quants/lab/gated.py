"""The reader's gate between checks and a real Redis, through a brown-out."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Protocol

import redis

from quants.breaker import Breaker
from quants.errors import RedisFault
from quants.lab.checks import Fate
from quants.lab.claims import Claim
from quants.lab.outage import PATIENCE, THREADS, Outage, Script, is_spared, through
from quants.lab.session import session
from quants.lab.slow_redis import SlowRedis
from quants.limits import limit_key, seed_limits
from quants.market import Market
from quants.redis_server import RedisServer, connect

BROWNOUT: Script = (("well", 0.5), ("slow", 1.0), ("frozen", 1.0))
DEADLINE = 0.05
PROBE_SECONDS = 0.25

heard: ContextVar[set[Fate]] = ContextVar("heard")  # by the check that asks


class Gate(Protocol):
    """What a gate can do."""

    async def limit(self, symbol: str) -> Any:
        """The limit of a symbol."""


class Asking:
    """Asks Redis for the limit of a symbol, on a thread."""

    def __init__(self, pool: ThreadPoolExecutor, client: redis.Redis) -> None:
        self.pool, self.client = pool, client
        self.market = Market()
        self.keys = {s.name: limit_key(s) for s in self.market.symbols}

    async def ask(self, symbol: str) -> str | None:
        """What Redis knows; RedisFault if it does not say so."""
        heard.get().add("gave up")  # until there is an answer
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self.pool, self._read, self.keys[symbol])
        except (redis.RedisError, OSError) as fault:
            raise RedisFault(f"Redis: {fault}") from fault
        heard.get().add("answered")
        return found

    def seed(self) -> None:
        """Give each symbol a limit to be told."""
        seed_limits(self.client, self.market.symbols, self.market.opening_prices)

    def _read(self, key: str) -> str | None:
        found: Any = self.client.hget(key, "price_high")
        return None if found is None else str(found)


async def gated(make: Callable[..., Gate]) -> Outage:
    """Checks through a gate while Redis gets slow, and then stops (SIGSTOP)."""
    server = await (await session()).redis()
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="gated")
    try:
        async with SlowRedis(server.url) as slow:
            with connect(slow.url, DEADLINE) as client:
                return await brownout(make, Asking(pool, client), slow, server)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


async def brownout(
    make: Callable[..., Gate], asking: Asking, slow: SlowRedis, server: RedisServer
) -> Outage:
    """A gate that knows its limit, and then what the script says."""
    await asyncio.to_thread(asking.seed)
    breaker, without = Breaker(probe_seconds=PROBE_SECONDS), 0
    gate, symbol = make(asking.ask, breaker, DEADLINE), next(iter(asking.keys))

    async def check() -> Fate:
        nonlocal without
        heard.set(fates := set[Fate]())
        without += await gate.limit(symbol) is None
        return "answered" if "answered" in fates else next(iter(fates), "not asked")

    for _ in range(round(PATIENCE / DEADLINE)):
        if await check() == "answered":
            break
        await asyncio.sleep(DEADLINE)
    without = 0
    outage = await through(BROWNOUT, check, breaker, slow, server)
    return replace(outage, without=without)


def holds(outage: Outage) -> bool | None:
    """Whether each check had a limit, few waited, and all asked again."""
    if (spared := is_spared(outage)) is None:
        return None
    return spared and outage.recovered and outage.without == 0


CLAIMS = (
    Claim(
        "your-gate-holds",
        "through this gate each check has a limit, and hardly any waits for Redis",
        "through this gate checks wait for Redis, or have no limit",
        holds,
        "Redis was not away for long enough",
    ),
)
