"""The naive pump is slow, and correct: its lessons would be cheap otherwise."""

import asyncio
import inspect
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from quants import naive
from quants.alerts import STREAM
from quants.feed_server import FeedServer
from quants.lab.source import show
from quants.limits import seed_limits
from quants.market import Market
from quants.naive import NaivePump
from quants.pace import AS_FAST_AS_TAKEN
from quants.redis_server import connect, redis_server
from quants.tick import Rows

TICKS = 1000


@pytest.fixture(scope="module")
def redis_url():
    with redis_server() as server:
        yield server.url


@pytest.fixture
def client(redis_url):
    with connect(redis_url) as client:
        client.flushall()
        yield client


async def pumped(redis_url: str, log_file: Path) -> tuple[NaivePump, Market, Rows]:
    """A naive pump after 1000 ticks, and the rows it was sent."""
    async with FeedServer(Market(), AS_FAST_AS_TAKEN) as feed:
        pump = NaivePump(feed.url, str(log_file), redis_url)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pump.run())
            await feed.subscribed.wait()
            await feed.publish(TICKS)
    market = Market()
    return pump, market, market.take(TICKS)


async def test_its_vwap_is_the_exact_one_to_the_precision_of_a_float(
    redis_url: str, tmp_path: Path
):
    pump, market, rows = await pumped(redis_url, tmp_path / "naive.log")
    for index, symbol in enumerate(market.symbols):
        mine = rows[rows["symbol"] == index]
        value = sum(p * s for p, s in mine[["price", "size"]].tolist())
        exact = Fraction(value, sum(mine["size"].tolist())) / 10**symbol.price_decimals
        vwap = pump.value[symbol.name] / pump.volume[symbol.name]
        assert vwap == pytest.approx(float(exact), rel=1e-12)


async def test_its_log_has_one_line_a_tick_in_order(redis_url: str, tmp_path: Path):
    _, market, rows = await pumped(redis_url, tmp_path / "naive.log")
    lines = (tmp_path / "naive.log").read_text("utf-8").splitlines()
    written = [line.split()[:2] for line in lines]
    names = [market.symbols[i].name for i in rows["symbol"].tolist()]
    assert written == [[str(n), name] for n, name in enumerate(names, 1)]


async def test_it_raises_an_alert_for_each_tick_beyond_a_limit(
    redis_url: str, client: Any, tmp_path: Path
):
    market = Market()
    seed_limits(client, market.symbols, market.opening_prices)
    aapl = {"price_low": "0.01", "price_high": "0.02"}  # all of them beyond
    client.hset("quants:limit:AAPL", mapping=aapl)
    client.delete("quants:limit:MSFT")  # no limit: none of them
    _, _, rows = await pumped(redis_url, tmp_path / "naive.log")
    alerts = [fields for _, fields in client.xrange(STREAM)]
    symbols = rows["symbol"].tolist()
    every_aapl = [str(n) for n, symbol in enumerate(symbols, 1) if symbol == 0]
    assert every_aapl == [a["AAPL"] for a in alerts if "AAPL" in a]
    assert not [a for a in alerts if "MSFT" in a]


async def test_an_alert_for_value_needs_a_tick_beyond_the_notional(
    redis_url: str, client: Any, tmp_path: Path
):
    market = Market()
    for symbol in market.symbols:
        client.hset(f"quants:limit:{symbol.name}", "notional", "60000")
    _, _, rows = await pumped(redis_url, tmp_path / "naive.log")
    value = rows["price"] * rows["size"]  # at 2 decimals: int64 is plenty
    beyond = [str(n) for n, worth in enumerate(value.tolist(), 1) if worth > 6_000_000]
    assert beyond
    alerts = [*(fields for _, fields in client.xrange(STREAM))]
    assert [seq for fields in alerts for seq in fields.values()] == beyond


def test_it_fits_on_a_page_and_so_does_each_of_its_methods():
    assert len(inspect.getsource(naive).splitlines()) <= 90
    for method in vars(NaivePump).values():
        if inspect.isfunction(method):
            show(method)  # refuses what does not fit
