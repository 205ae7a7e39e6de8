"""The pump anyone would write first: one tick at a time, correct and slow.

For each tick a JSON message, a place in an unbounded queue, a VWAP in floats, a
line in the log, a question to Redis. Notebooks measure it and never improve it.
"""

import asyncio
import json
from collections import defaultdict
from dataclasses import dataclass

import aiofiles
import aiohttp
from redis.asyncio import Redis

WIRE = ("quants.v1.json",)
LIMITS = "price_low", "price_high", "notional"


@dataclass
class Tick:
    """One trade, as its message tells it."""

    seq: int
    time_ns: int
    sent_ns: int
    symbol: str
    price: float
    size: float


class NaivePump:
    """Receives ticks; sums, logs and checks them one by one."""

    def __init__(self, feed_url: str, log_file: str, redis_url: str) -> None:
        self.feed_url, self.redis_url = feed_url, redis_url
        self.log_file = log_file
        self.queue: asyncio.Queue[Tick | None] = asyncio.Queue()
        self.value: defaultdict[str, float] = defaultdict(float)
        self.volume: defaultdict[str, float] = defaultdict(float)

    async def run(self) -> None:
        """Pump until the feed ends and the queue is empty."""
        async with (
            aiofiles.open(self.log_file, "a", encoding="utf-8") as self.file,
            Redis.from_url(self.redis_url) as self.redis,
            aiohttp.ClientSession() as client,
        ):
            await asyncio.gather(self.listen(client), self.work())

    async def listen(self, client: aiohttp.ClientSession) -> None:
        """Put every tick of the feed into the queue, and None at its end."""
        async with client.ws_connect(self.feed_url, protocols=WIRE) as feed:
            async for message in feed:
                if tick := self.receive(message.data):
                    self.queue.put_nowait(tick)
        self.queue.put_nowait(None)

    async def work(self) -> None:
        """Take tick after tick through the three stages."""
        while tick := await self.queue.get():
            self.vwap(tick)
            await self.log(tick)
            await self.risk(tick)

    def receive(self, text: str) -> Tick | None:
        """The tick in a message; welcomes and heartbeats have none."""
        if (fields := json.loads(text)).pop("type") != "tick":
            return None
        price, size = float(fields.pop("price")), float(fields.pop("size"))
        return Tick(**fields, price=price, size=size)

    def vwap(self, tick: Tick) -> float:
        """The volume-weighted average price of the tick's symbol so far."""
        self.value[tick.symbol] += tick.price * tick.size
        self.volume[tick.symbol] += tick.size
        return self.value[tick.symbol] / (self.volume[tick.symbol] or 1)

    async def log(self, tick: Tick) -> None:
        """Write the tick to the log, one line."""
        line = f"{tick.seq} {tick.symbol} {tick.price} {tick.size}\n"
        await self.file.write(line)

    async def risk(self, tick: Tick) -> None:
        """Ask Redis for the symbol's limits; raise an alert beyond them."""
        key = f"quants:limit:{tick.symbol}"
        low, high, most = await self.redis.hmget(key, *LIMITS)
        inside = float(low or "-inf") <= tick.price <= float(high or "inf")
        if not inside or tick.price * tick.size > float(most or "inf"):
            await self.redis.xadd("quants:alerts", {tick.symbol: tick.seq})
