"""The other side: the pump a good engineer writes by hand in an afternoon.

One JSON message a tick, as exchanges send them, and one loop that does all the
work for it: msgspec decodes into a struct, three numbers are added in a dict, a
buffered file takes the line, the limits are in memory. Redis is asked for them
once a second, and told of breaches, from a thread. Floats, because everybody
begins so. No object and no call is spent that could be saved while each tick
is handled alone.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import redis
from aiohttp import web

from benchmarks.runs import Meter, Plan, Report, parent_is_done, play, say
from benchmarks.source import in_memory
from quants.feed_server import WAKE_UP_SECONDS
from quants.histogram import Histogram
from quants.pace import due, intended

REFRESH_SECONDS = 1.0
COOLDOWN_NS = 1_000_000_000


class Tick(msgspec.Struct, gc=False):
    """One message; numbers are JSON numbers."""

    seq: int
    time_ns: int
    sent_ns: int
    symbol: str
    price: float
    size: float


# ---- the feed


def heads_of(plan: Plan) -> list[str]:
    """The messages of all ticks, encoded before the clock runs, but sent_ns."""
    source = in_memory(Path(plan.rows))
    names = [symbol.name for symbol in source.symbols]
    heads: list[str] = []
    for rows in source.parts(plan.ticks):
        heads += [
            f'{{"seq":{seq},"time_ns":{time_ns},"symbol":"{names[symbol]}",'
            f'"price":{price / 100:.2f},"size":{size},"sent_ns":'
            for seq, (time_ns, price, size, symbol, _) in enumerate(
                rows.tolist(), len(heads) + 1
            )
        ]
    return heads


async def feed(plan: Plan) -> Report:
    """Serve the messages to the first subscriber, one send for each."""
    heads = heads_of(plan)
    subscribed: asyncio.Future[web.WebSocketResponse] = asyncio.Future()
    over = asyncio.Event()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=False)
        await ws.prepare(request)
        subscribed.set_result(ws)
        await over.wait()
        return ws

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    say(f"ws://127.0.0.1:{runner.addresses[0][1]}/")
    ws = await subscribed
    meter = Meter()
    if plan.tick_rate is None:
        await send_all(ws, heads)
    else:
        await send_paced(ws, heads, plan.tick_rate)
    await ws.close()
    await parent_is_done()
    seconds, cpu_seconds = meter.stop()
    over.set()
    await runner.cleanup()
    return Report(ticks=len(heads), seconds=seconds, cpu_seconds=cpu_seconds)


async def send_all(ws: web.WebSocketResponse, heads: list[str]) -> None:
    """As fast as they are taken; aiohttp drains every 64 KiB."""
    tail = f"{time.time_ns()}}}"
    for head in heads:
        await ws.send_str(head + tail)


async def send_paced(
    ws: web.WebSocketResponse, heads: list[str], tick_rate: float
) -> None:
    """What the clock owes, at the same wake-ups as our feed's."""
    start, anchor_ns, sent = time.monotonic(), time.time_ns(), 0
    while sent < len(heads):
        elapsed = time.monotonic() - start
        wanted = due(elapsed, tick_rate, sent)
        sent_ns = anchor_ns + int(intended(elapsed, tick_rate, sent) * 1e9)
        for head in heads[sent : sent + wanted]:
            await ws.send_str(f"{head}{sent_ns}}}")
        sent += wanted
        next_due = sent / tick_rate - elapsed
        await asyncio.sleep(
            WAKE_UP_SECONDS if wanted else max(next_due, WAKE_UP_SECONDS)
        )


# ---- the pump


class Risk:
    """The limits of each symbol, and what broke them."""

    def __init__(self, url: str) -> None:
        self.limits: dict[str, tuple[float, float, float]] = {}
        self.waiting: list[dict[Any, Any]] = []
        self.breaches = self.alerts = 0
        self._client = redis.Redis.from_url(url, decode_responses=True)
        self._cooled: dict[str, int] = {}

    def refresh(self) -> None:
        """Read all limits, deliver what waits; blocking, for a thread."""
        keys = [str(key) for key in self._client.keys("quants:limit:*")]
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.hmget(key, "price_low", "price_high", "notional")
        waiting, self.waiting = self.waiting, []
        for alert in waiting:
            pipeline.xadd("competent:alerts", alert)
        answers = pipeline.execute()
        for key, (low, high, notional) in zip(keys, answers, strict=False):
            name = key.rpartition(":")[2]
            self.limits[name] = float(low), float(high), float(notional)
        self.alerts += len(waiting)

    async def keep_fresh(self) -> None:
        """Refresh once a second, for ever."""
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await asyncio.to_thread(self.refresh)

    def broken(self, tick: Tick) -> None:
        """A tick is beyond a limit: one alert per symbol and cooldown."""
        self.breaches += 1
        if abs(tick.time_ns - self._cooled.get(tick.symbol, 0)) >= COOLDOWN_NS:
            self._cooled[tick.symbol] = tick.time_ns
            self.waiting.append(msgspec.structs.asdict(tick))


async def pump(plan: Plan) -> Report:
    """Take every message by itself until the server closes."""
    risk, book = Risk(plan.redis_url), dict[str, list[float]]()
    await asyncio.to_thread(risk.refresh)
    refreshing = asyncio.create_task(risk.keep_fresh())
    meter = Meter()
    watching = asyncio.create_task(meter.watch())
    async with aiohttp.ClientSession() as session:
        connecting = session.ws_connect(plan.url, compress=0, decode_text=False)
        async with connecting as ws:
            timed = plan.tick_rate is not None
            missing, ages = await take(ws, plan, risk, book, timed, meter)
    await asyncio.to_thread(risk.refresh)
    seconds, cpu_seconds = meter.stop()
    refreshing.cancel()
    watching.cancel()
    latency = Histogram()
    for age in ages:
        latency.record(age)
    return Report(
        ticks=sum(int(sums[2]) for sums in book.values()),
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        missing=missing,
        breaches=risk.breaches,
        alerts=risk.alerts,
        sums={name: (s[0], s[1], int(s[2])) for name, s in book.items()},
        p50=latency.quantile(0.5) if ages else 0.0,
        p99=latency.quantile(0.99) if ages else 0.0,
        rss=meter.rss,
    )


async def take(
    ws: aiohttp.ClientWebSocketResponse[Any],
    plan: Plan,
    risk: Risk,
    book: dict[str, list[float]],
    timed: bool,
    meter: Meter,
) -> tuple[int, list[int]]:
    """The loop: everything that is done for a tick."""
    decode = msgspec.json.Decoder(Tick).decode
    limits, clock_ns, receive = risk.limits, time.time_ns, ws.receive
    ages: list[int] = []
    missing, expected = 0, 1
    # One write of 1 MiB in some thousand ticks: nobody would use a thread for it.
    with open(plan.log, "wb", buffering=1 << 20) as log:  # noqa: ASYNC230
        write = log.write
        # `async for` awaits one coroutine more a message.
        while (message := await receive()).type is aiohttp.WSMsgType.TEXT:
            raw = message.data
            tick = decode(raw)
            if tick.seq != expected:
                missing += tick.seq - expected
            if expected == 1:
                meter.start()
            expected = tick.seq + 1
            price, size = tick.price, tick.size
            traded = price * size
            sums = book.get(tick.symbol)
            if sums is None:
                sums = book[tick.symbol] = [0.0, 0.0, 0]
            sums[0] += traded
            sums[1] += size
            sums[2] += 1
            low, high, notional = limits[tick.symbol]
            if price < low or price > high or traded > notional:
                risk.broken(tick)
            write(raw)
            write(b"\n")
            if timed:
                ages.append(clock_ns() - tick.sent_ns)
    return missing, ages


if __name__ == "__main__":
    play(feed, pump)
