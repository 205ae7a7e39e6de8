"""The risk stage beside a real Redis that is changed, killed and stopped."""

import asyncio
import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import psutil
import pytest

from quants.alerts import STREAM, Alert
from quants.breaker import State
from quants.host import free_port
from quants.limits import limit_key
from quants.metrics import Registry
from quants.outages import alert_losses, outage_lines, redis_of
from quants.outbox import Outbox
from quants.redis_server import connect, redis_server
from quants.risk import AlertCounts, Risk, calls_per_second
from quants.tick import Batch, Symbol, gap, rows_of
from tests.redises import durable, stopped

AAPL, BTC = SYMBOLS = [Symbol("AAPL", 2, 0), Symbol("BTC", 8, 8)]
SECOND = 1_000_000_000
START = 1_767_364_200 * SECOND
NO_REDIS = "redis://127.0.0.1:1/0"
LIMITS: dict[Any, Any] = {
    "price_low": "180.00",
    "price_high": "190.00",
    "notional": "18000.00",
}


def batch(ticks, first_seq=1):
    """Ticks as (time_ns, price, size, symbol)."""
    rows = rows_of([(START + t, *values, 0) for t, *values in ticks])
    return Batch(rows, first_seq, len(rows), 0)


def breach(second, seq):
    """One AAPL tick above its band, after one that was inside: one alert."""
    ticks = [(second * SECOND, price, 1, 0) for price in (18_500, 19_001)]
    return batch(ticks, seq - 1)


async def each(*batches):
    for one in batches:
        yield one


async def until(fact, seconds=20):
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(0.005)


def alerts_in(client):
    return [fields for _, fields in client.xrange(STREAM)]


@pytest.mark.parametrize("path", [None, ""], ids=["redis-server", "fakeredis"])
async def test_limits_come_from_redis_and_alerts_go_there(path):
    with redis_server(path=path) as server, connect(server.url) as client:
        client.hset(limit_key(AAPL), mapping=LIMITS)
        risk = Risk(SYMBOLS, "s1", server.url, Registry())
        ticks = [(i, 19_001, 100, 0) for i in range(100)]
        await risk.run(each(batch(ticks), gap(101, 5), breach(2, 106)))
        assert [a["id"] for a in alerts_in(client)] == [
            "s1:1:notional", "s1:1:price_band", "s1:101:gap", "s1:106:price_band",
        ]  # fmt: skip
    assert risk.summary()["price_band"] == AlertCounts(2, 2, 99, 0)
    assert repr(risk) == "<Risk <Rules 4 alerts raised> <Outbox 0/10000, 0 lost>>"


# Of AAPL, in a second of event time each: (second, price in cents, size).
TRADES = [(0, 10_000, 1), (0, 10_200, 1), (1, 10_504, 2), (1, 10_000, 1), (1, 9999, 1)]


@pytest.mark.parametrize(("limit", "enough", "alert"), [
    # 101.00 is the VWAP of the second before; 105.04 is exactly 4 % above it.
    ({"vwap_percent": "3.999999999"}, {"vwap_percent": "4"},
     ("vwap_band", "3", "105.04", "105.03")),
    # 100 + 102 + 2 × 105.04 + 100 + 99.99 = 612.07
    ({"exposure": "612.06"}, {"exposure": "612.07"},
     ("exposure", "5", "612.07", "612.06")),
    ({"ticks_per_second": "2"}, {"ticks_per_second": "3"},
     ("message_rate", "5", "3", "2")),
])  # fmt: skip
async def test_a_rule_that_counts_has_its_limit_and_its_alert_in_redis(
    limit, enough, alert
):
    ticks = [(second * SECOND, price, size, 0) for second, price, size in TRADES]
    with redis_server() as server, connect(server.url) as client:
        for fields in (enough, limit):
            client.delete(limit_key(AAPL))
            client.hset(limit_key(AAPL), mapping=fields)
            risk = Risk(SYMBOLS, "s1", server.url, Registry())
            assert not alerts_in(client)  # with the one that is enough: none
            await risk.run(each(batch(ticks)))
        found = alerts_in(client)
    told = [tuple(a[f] for f in ("rule", "seq", "value", "limit")) for a in found]
    assert told == [alert]


async def test_a_limit_that_changes_is_known_within_one_refresh():
    with redis_server() as server, connect(server.url) as client:
        risk = Risk(SYMBOLS, "s1", server.url, Registry(), refresh_seconds=0.01)

        async def batches():
            yield breach(0, 1)
            assert risk.rules.raised.total() == 0
            client.hset(limit_key(AAPL), mapping=LIMITS)
            await until(lambda: risk.rules.limits.high[0] == 19000)
            yield breach(1, 2)

        await risk.run(batches())
        assert [a["seq"] for a in alerts_in(client)] == ["2"]


async def test_alerts_survive_a_kill_of_redis_and_arrive_once_each(tmp_path):
    port = free_port()
    url = f"redis://127.0.0.1:{port}/0"
    with ExitStack() as servers:
        child, client = servers.enter_context(durable(port, tmp_path))
        client.hset(limit_key(AAPL), mapping=LIMITS)
        risk = Risk(SYMBOLS, "s1", url, Registry(), refresh_seconds=0.02)

        async def batches():
            for seq in range(1, 401):
                yield breach(seq, seq)
                if seq % 10 == 0:  # let deliveries be under way
                    await asyncio.sleep(0)
                if seq == 100:
                    await until(lambda: risk.outbox.delivered.total() > 0)
                    child.kill()
                if seq == 300:
                    await until(lambda: risk.outbox.failures and risk.read_failures)
                    servers.enter_context(durable(port, tmp_path))
            await until(lambda: risk.outbox.delivered.total() == 400)

        await risk.run(batches())
        with connect(url) as reader:
            assert [int(a["seq"]) for a in alerts_in(reader)] == list(range(1, 401))
    assert risk.summary()["price_band"] == AlertCounts(400, 400, 0, 0)
    assert risk.outbox.lost == 0


async def test_a_delivery_whose_answer_got_lost_is_not_repeated(tmp_path):
    """SIGSTOP holds the answer back until the client has given up on it."""
    with redis_server() as server, connect(server.url) as client:
        client.hset(limit_key(AAPL), mapping=LIMITS)
        risk = Risk(SYMBOLS, "s1", server.url, Registry())

        async def batches():
            yield breach(1, 1)
            await until(lambda: risk.outbox.delivered.total() == 1)
            with stopped(client):
                yield breach(2, 2)
                await until(lambda: risk.outbox.failures)
            yield breach(3, 3)
            await until(lambda: risk.outbox.delivered.total() == 3)

        await risk.run(batches())
        assert [a["seq"] for a in alerts_in(client)] == ["1", "2", "3"]


async def test_with_redis_gone_the_last_limits_hold_and_the_end_is_not_late():
    with redis_server() as server, connect(server.url) as client:
        client.hset(limit_key(AAPL), mapping=LIMITS)
        now = [100.0]
        registry = Registry()
        risk = Risk(
            SYMBOLS, "s1", server.url, registry,
            refresh_seconds=0.01, drain_seconds=0.05, clock=lambda: now[0],
        )  # fmt: skip

        async def batches():
            yield breach(1, 1)
            await until(lambda: risk.outbox.delivered.total() == 1)
            psutil.Process(client.info("server")["process_id"]).kill()
            await until(lambda: risk.read_failures)
            now[0] = 107.0
            yield breach(2, 2)

        await risk.run(batches())
    assert risk.summary()["price_band"] == AlertCounts(2, 1, 0, 1)
    exposition = registry.exposition("text/plain")[0].decode()
    assert 'quants_alerts_total{rule="price_band"} 2.0' in exposition
    assert "quants_alerts_waiting 1.0" in exposition
    assert "quants_limits_age_seconds 7.0" in exposition
    assert 'quants_redis_errors_total{call="limits"} 0.0' not in exposition


async def test_an_error_of_the_feed_ends_the_stage_and_its_tasks():
    async def broken():
        yield breach(1, 1)
        raise ValueError("the feed is broken")

    with redis_server() as server:
        risk = Risk(SYMBOLS, "s1", server.url, Registry())
        with pytest.raises(ExceptionGroup) as fault:
            await risk.run(broken())
    assert fault.group_contains(ValueError, match="the feed is broken")
    assert asyncio.all_tasks() == {asyncio.current_task()}


# ---- limits in force


async def test_the_age_of_a_limit_when_it_comes_into_force_is_recorded():
    """But not of one that was there before us, nor of one that says nothing."""
    with redis_server() as server, connect(server.url) as client:
        client.hset(limit_key(AAPL), mapping=LIMITS | {"set_ns": 1})
        risk = Risk(SYMBOLS, "s1", server.url, Registry())

        async def batches():
            yield breach(0, 2)
            await until(lambda: risk.tracker.tracked)
            for high, more in (("191", {}), ("192", {"set_ns": time.time_ns()})):
                client.hset(limit_key(AAPL), mapping={"price_high": high, **more})
                exact = int(high) * 100
                await until(lambda: risk.rules.limits.high[0] == exact)  # noqa: B023

        await risk.run(batches())
    assert (risk.staleness.count, risk.staleness.negative) == (1, 0)
    assert 0 < risk.staleness.maximum < 20


async def test_a_poll_does_not_undo_what_the_tracker_knows_by_now(monkeypatch):
    """Its answer comes late: it was read before the change."""
    old, new = [list(LIMITS.values()), ()], [["1.00", "2.00", *"1" * 7], ()]
    risk = Risk(SYMBOLS, "s1", NO_REDIS, Registry())

    async def call(function, symbols):
        risk.tracker._hear(new)
        return old

    monkeypatch.setattr(risk.redis, "call", call)
    await risk._poll()
    assert risk.rules.limits.high[0] == 200


async def test_where_limits_cannot_be_tracked_they_are_polled():
    with redis_server(path="") as server, connect(server.url) as client:
        registry = Registry()
        risk = Risk(SYMBOLS, "s1", server.url, registry, refresh_seconds=0.01)

        async def batches():
            await until(lambda: risk.tracker.refused)
            client.hset(limit_key(AAPL), mapping=LIMITS)
            await until(lambda: risk.rules.limits.high[0] == 19000)
            yield breach(1, 2)

        await risk.run(batches())
        assert [a["seq"] for a in alerts_in(client)] == ["2"]
    assert "quants_limits_tracked 0.0" in registry.exposition()[0].decode()


async def test_a_feed_that_falls_silent_is_an_alert_by_the_clock():
    """Ticks cannot tell: there are none. The clock jumps, we do not wait."""
    now = [100.0]
    with redis_server() as server, connect(server.url) as client:
        client.hset(limit_key(AAPL), "stale_seconds", "5")
        registry = Registry()
        risk = Risk(SYMBOLS, "s1", server.url, registry, clock=lambda: now[0])

        async def batches():
            yield breach(0, 2)
            await asyncio.sleep(0)
            now[0] += 60
            await until(lambda: risk.outbox.delivered["stale"])

        await risk.run(batches())
        (alert,) = alerts_in(client)
    assert (alert["rule"], alert["symbol"], alert["seq"]) == ("stale", "AAPL", "2")


async def test_an_outage_that_the_tracker_sees_ends_when_it_finds_redis_again():
    """No poll, no alert: nobody else asks."""
    risk = Risk(SYMBOLS, "s1", NO_REDIS, Registry())
    states = []
    for tell in (risk._lose, risk._lose, partial(risk._hear, [(), ()])):
        tell()
        states.append(risk.redis.breaker.state)
    assert states == [State.CLOSED, State.OPEN, State.CLOSED]


# ---- what is told


@pytest.mark.parametrize(
    ("symbols", "cooldown", "refresh", "expected"),
    [(8, 1.0, 1.0, 9.0), (8, 0.5, 2.0, 16.5), (1, 0.0, 1.0, 1001.0)],
)
def test_each_symbol_may_need_a_call_per_cooldown(symbols, cooldown, refresh, expected):
    assert calls_per_second(symbols, cooldown, refresh) == expected


def test_alerts_that_nobody_can_deliver_any_more_are_a_problem(tmp_path):
    outbox = Outbox(capacity=1, path=tmp_path / "gone" / "outbox.jsonl")
    with outbox:
        outbox.put(
            [Alert(f"s1:{seq}:gap", "gap", "*", seq, 0, "1", "0") for seq in (1, 2)]
        )
    full, unwritten = alert_losses(outbox)
    assert full == "1 alerts are lost: 1 waited already"
    assert unwritten.startswith(f"1 alerts are lost: {tmp_path}/gone/outbox.jsonl: No")


def test_a_quiet_run_says_nothing_of_outages():
    risk = Risk(SYMBOLS, "s1", NO_REDIS, Registry())
    assert list(outage_lines(redis_of(risk))) == []
