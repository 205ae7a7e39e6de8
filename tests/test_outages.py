"""Redis hangs, dies, fills up, locks us out: the pump goes on, no alert is lost.

A real Redis each time; what it holds in the end is compared with what was raised.
"""

import asyncio
import json
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.request import urlopen

import pytest
import redis

from quants.alerts import STREAM
from quants.breaker import State
from quants.feed_server import FeedServer
from quants.host import free_port
from quants.limits import limit_key
from quants.market import Market
from quants.metrics import Registry
from quants.redis_server import connect, redis_server
from quants.risk import Risk
from quants.tick import Batch, Symbol, rows_of
from tests.proxy import Proxy
from tests.redises import durable, stopped
from tests.test_cli import DEADLINE, started
from tests.test_cli import until as said

AAPL = Symbol("AAPL", 2, 0)
SECOND = 1_000_000_000
LIMITS: dict[Any, Any] = {"price_low": "180.00", "price_high": "190.00"}
Note = Callable[[str, object], None]
Fault = Callable[[redis.Redis], AbstractContextManager[None]]


def breach(number: int) -> Batch:
    """One alert: a tick inside the band, then one above, each second another."""
    rows = rows_of([(number * SECOND, price, 1, 0, 0) for price in (18_500, 19_001)])
    return Batch(rows, 2 * number - 1, 2, 0)


def numbers(client: redis.Redis) -> list[int]:
    """Which breaches Redis has been told of, in the order that it was."""
    entries: Any = client.xrange(STREAM)
    return [int(fields["seq"]) // 2 for _, fields in entries]


async def until(fact: Callable[[], object], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not fact():
            await asyncio.sleep(0.005)


# ---- what can ail it


@contextmanager
def out_of_memory(client: redis.Redis) -> Iterator[None]:
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)


@contextmanager
def read_only(client: redis.Redis) -> Iterator[None]:
    client.replicaof("127.0.0.1", "1")
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def locked(client: redis.Redis) -> Iterator[None]:
    """Everybody else is sent away, and would need a password to come back."""
    client.config_set("requirepass", "secret")
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    yield
    client.config_set("requirepass", "")


@pytest.mark.parametrize("fault", [stopped, out_of_memory, read_only, locked])
async def test_whatever_ails_redis_alerts_wait_and_then_arrive_once_in_order(
    fault: Fault,
):
    with redis_server() as server, connect(server.url) as client:
        client.hset(limit_key(AAPL), mapping=LIMITS)
        risk = Risk([AAPL], "s1", server.url, Registry())

        async def batches():
            yield breach(1)
            await until(lambda: risk.outbox.delivered.total() == 1)
            with fault(client):
                for number in range(2, 7):
                    yield breach(number)
                await until(lambda: risk.outbox.failures)
                assert risk.rules.raised.total() == 6  # the last limits hold
                assert len(risk.outbox) == 5
                if fault is not stopped:
                    assert numbers(client) == [1]
            yield breach(7)
            await until(lambda: risk.outbox.delivered.total() == 7)

        await risk.run(batches())
        assert numbers(client) == list(range(1, 8))
    assert risk.outbox.lost == 0


@pytest.mark.parametrize("fault", [out_of_memory, read_only])
async def test_a_redis_that_refuses_alerts_is_still_asked_for_limits(fault: Fault):
    with redis_server() as server, connect(server.url) as client:
        client.hset(limit_key(AAPL), mapping=LIMITS)
        risk = Risk([AAPL], "s1", server.url, Registry(), drain_seconds=0)

        async def batches():
            with fault(client):
                yield breach(1)
                await until(lambda: risk.outbox.failures >= 4)
                assert risk.redis.breaker.opened == 0
                assert risk.tracker.tracked
            yield breach(2)
            await until(lambda: risk.outbox.delivered.total() == 2)

        await risk.run(batches())


async def test_a_stopped_redis_opens_the_breaker_and_does_not_hold_the_loop(
    record_property: Note,
):
    """With no alert on its way, nor a poll due: the tracker finds out, and polls."""
    with redis_server() as server, connect(server.url) as client:
        risk = Risk([AAPL], "s1", server.url, Registry(), refresh_seconds=1000)
        loop, gaps = asyncio.get_running_loop(), list[float]()

        async def batches():
            yield breach(1)
            await until(lambda: risk.tracker.tracked)
            with stopped(client):
                start = last = loop.time()
                while risk.redis.breaker.state is State.CLOSED:
                    await asyncio.sleep(0.005)
                    gaps.append(loop.time() - last)
                    last = loop.time()
                record_property("seconds to an open breaker", last - start)
                assert last - start < 5  # 0.6 on a quiet machine
            assert len(gaps) > 20

        await risk.run(batches())
    assert (risk.redis.breaker.opened, risk.read_failures) == (1, 1)
    assert risk.redis.in_flight <= risk.redis.threads


async def test_a_connection_that_swallows_all_is_found_out_and_left():
    """Half open: both ends believe in it, and nothing arrives."""
    with redis_server() as server, connect(server.url) as client:
        client.hset(limit_key(AAPL), mapping=LIMITS)
        port = SimpleNamespace(port=int(server.url.split(":")[2][:-2]))
        async with Proxy(cast(FeedServer, port)) as proxy:
            url = proxy.url.replace("ws:", "redis:") + "0"
            risk = Risk([AAPL], "s1", url, Registry())

            async def batches():
                yield breach(1)
                await until(lambda: risk.outbox.delivered.total() == 1)
                proxy.swallowing = True
                yield breach(2)
                await until(lambda: risk.redis.breaker.opened)
                assert not risk.tracker.tracked
                proxy.swallowing = False
                await until(lambda: risk.outbox.delivered.total() == 2)
                await until(lambda: risk.tracker.tracked)

            await risk.run(batches())
        assert numbers(client) == [1, 2]


@pytest.mark.parametrize(
    ("alerts", "outages"),
    [(300, 3), pytest.param(10_000, 20, marks=pytest.mark.long)],
)
async def test_through_many_outages_no_alert_is_lost_and_none_doubled(
    alerts: int, outages: int, tmp_path: Path, record_property: Note
):
    """Half of them a hang, half of them kill -9 and a new start."""
    draw, port = random.Random(1), free_port()
    begins = set(draw.sample(range(alerts // 10, alerts), outages))
    path = tmp_path / "outbox.jsonl"
    with ExitStack() as servers:
        child, client = servers.enter_context(durable(port, tmp_path))
        client.hset(limit_key(AAPL), mapping=LIMITS)
        url = f"redis://127.0.0.1:{port}/0"
        risk = Risk([AAPL], "s1", url, Registry(), outbox_file=path)

        def failed() -> int:
            return risk.outbox.failures + risk.redis.breaker.refused

        async def outage(number: int) -> None:
            """Until a delivery fails, or is refused; then Redis is back."""
            nonlocal child
            before = failed()
            if number % 2:
                with stopped(client):
                    await until(lambda: failed() > before)
            else:
                child.kill()
                await until(lambda: failed() > before)
                started = durable(port, tmp_path)
                child, _ = await asyncio.to_thread(servers.enter_context, started)

        async def batches():
            for number in range(1, alerts + 1):
                yield breach(number)
                if number in begins:
                    yield breach(number)  # a tick that came twice is no news
                    await outage(number)
                if number % 20 == 0:
                    await asyncio.sleep(0)
            await until(lambda: risk.outbox.delivered.total() == alerts)

        await risk.run(batches())
        with connect(url) as reader:
            assert numbers(reader) == list(range(1, alerts + 1))
    assert (risk.outbox.lost, path.exists()) == (0, False)
    record_property("alerts", alerts)
    record_property("outages", outages)


# ---- a whole pump

NOTIONAL: dict[Any, Any] = {"notional": "20000"}  # above it now and then


@contextmanager
def pump(folder: Path, url: str, seconds: int) -> Iterator[subprocess.Popen[str]]:
    options = ["--redis-url", url, "--duration", str(seconds), "--tick-rate", "2000"]
    options += ["--metrics-port", "0", "--report", "report.json"]
    with started("run", *options, cwd=folder) as child:
        yield child


def seen_by(folder: Path) -> dict[str, Any]:
    """What the metrics of a pump say now."""
    found = re.search(r"metrics: (http\S+)", said(folder, "metrics: http"))
    assert found
    with urlopen(f"{found[1]}metrics", timeout=DEADLINE) as answer:
        metrics: dict[str, Any] = json.load(answer)
    return metrics


def wait_for(fact: Callable[[], object]) -> None:
    ends = time.monotonic() + DEADLINE
    while not fact():
        assert time.monotonic() < ends
        time.sleep(0.02)


def ended(child: subprocess.Popen[str], folder: Path) -> tuple[str, dict[str, Any]]:
    """The summary and the report of a pump; it has to have gone well."""
    summary, _ = child.communicate(timeout=DEADLINE)
    assert child.returncode == 0, summary + (folder / "err").read_text("utf-8")
    return summary, json.loads((folder / "report.json").read_text("utf-8"))


def raised(report: dict[str, Any]) -> int:
    return sum(counts["raised"] for counts in report["alerts"].values())


def ids(client: redis.Redis) -> list[str]:
    entries: Any = client.xrange(STREAM)
    return [fields["id"] for _, fields in entries]


def seqs(client: redis.Redis) -> list[int]:
    return [int(id.split(":")[-2]) for id in ids(client)]


@pytest.fixture
def places(tmp_path: Path) -> tuple[int, str, Path]:
    """A port, its url, and a folder for a Redis to keep its data in."""
    (tmp_path / "redis").mkdir()
    port = free_port()
    return port, f"redis://127.0.0.1:{port}/0", tmp_path / "redis"


def limit_all(client: redis.Redis) -> None:
    for symbol in Market().symbols:
        client.hset(limit_key(symbol), mapping=NOTIONAL)


def test_a_pump_whose_redis_is_killed_and_started_again_loses_no_alert_and_tells(
    tmp_path: Path, places, record_property: Note
):
    port, url, data = places
    with ExitStack() as servers:
        server, client = servers.enter_context(durable(port, data))
        limit_all(client)
        with pump(tmp_path, url, seconds=6) as child:
            wait_for(lambda: ids(client))
            server.kill()
            wait_for(lambda: seen_by(tmp_path)["quants_alerts_waiting"] > 0)
            wait_for(lambda: seen_by(tmp_path)["quants_redis_breaker_opened_total"])
            _, client = servers.enter_context(durable(port, data))
            summary, report = ended(child, tmp_path)
        assert len(ids(client)) == raised(report) > 8
        assert seqs(client) == sorted(set(seqs(client)))
    assert re.search(
        r"Redis was away for [\d.]+ s, the breaker opened \w+( times)?; at most \d+ "
        r"alerts waited, all of them are delivered", summary,
    ), summary  # fmt: skip
    assert report["redis"]["waited_at_most"] > 0
    assert not list(tmp_path.glob("*.jsonl"))
    record_property("alerts", raised(report))


def test_alerts_that_wait_when_a_pump_ends_are_delivered_by_the_next_one(
    tmp_path: Path, places
):
    port, url, data = places
    with durable(port, data) as (server, client):
        limit_all(client)
        with pump(tmp_path, url, seconds=3) as child:
            wait_for(lambda: ids(client))
            server.kill()
            summary, first = ended(child, tmp_path)
    left = first["redis"]["waiting"]
    assert left > 0
    assert (
        f"{left} wait in ticks.log.outbox.jsonl; the next run delivers them" in summary
    )
    with durable(port, data) as (_, client):
        before = len(ids(client))
        with pump(tmp_path, url, seconds=1) as child:
            summary, second = ended(child, tmp_path)
        assert f"{left} alerts of an earlier run came first" in summary
        assert len(set(ids(client))) == len(ids(client))
        assert len(ids(client)) == raised(first) + raised(second)
        kept = seqs(client)[: before + left]
        assert kept == sorted(kept)
    assert not list(tmp_path.glob("*.jsonl"))
