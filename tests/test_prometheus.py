"""A real Prometheus scrapes the running pump, and scrapers that misbehave too.

The server is Debian's package `prometheus`: its data in a temporary folder, on
a loopback port of its own, ended with the test.
"""

import asyncio
import json
import shutil
import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from math import isfinite
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from quants.histogram import Histogram
from quants.host import free_port, running
from quants.pipeline import Pipeline
from quants.report import Report, report_of
from quants.settings import Settings

PROMETHEUS = shutil.which("prometheus")
Ask = Callable[[str], Awaitable[list[float]]]

SECONDS = 60  # to wait for what takes two on a quiet machine

# JSON is YAML; half a second between two scrapes.
CONFIG = {
    "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
    "scrape_configs": [{"job_name": "quants", "static_configs": [{"targets": []}]}],
}
PROCESSED = "quants_ticks_processed_total"
P99 = "histogram_quantile(0.99, {})"
LATENCY = "quants_vwap_latency_seconds_bucket"


@asynccontextmanager
async def pump(settings: Settings):
    """A pump at work; it is stopped and its end awaited."""
    pipeline = Pipeline(settings)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(pipeline.run())
        await pipeline.ready.wait()
        yield pipeline
        pipeline.stop()


@asynccontextmanager
async def prometheus(target: str, folder: Path):
    """A Prometheus that scrapes one target; yields what asks it."""
    assert PROMETHEUS is not None
    port, config = free_port(), json.loads(json.dumps(CONFIG))
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    command = [PROMETHEUS, f"--config.file={folder}/prometheus.yml"]
    command += [f"--storage.tsdb.path={folder}/tsdb", "--log.level=warn"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("wb") as log:
        found = running(command, stdout=log, stderr=log)
        await asyncio.to_thread(found.__enter__)
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
                yield lambda query: asked(session, query)
        finally:
            await asyncio.to_thread(found.__exit__, None, None, None)


async def asked(session: aiohttp.ClientSession, query: str) -> list[float]:
    """The values that an instant query finds; none while it starts."""
    try:
        where = "/api/v1/query"
        async with session.get(where, params={"query": query}) as answer:
            if answer.status == 503:
                return []
            told = await answer.json()
    except aiohttp.ClientConnectionError:
        return []
    assert told["status"] == "success", told
    return [float(row["value"][1]) for row in told["data"]["result"]]


async def until(ask: Ask, query: str, fact: Callable[[float], bool]) -> float:
    """The one value of a query, once the fact is true of it."""
    async with asyncio.timeout(SECONDS):
        while True:
            values = await ask(query)
            if len(values) == 1 and fact(values[0]):
                return values[0]
            await asyncio.sleep(0.1)


@dataclass
class Seen:
    """What Prometheus answered, and what the pump says of itself."""

    up: float
    p99_lately: float  # of the scrapes while ticks came
    p99_in_all: float
    counters: dict[str, float]
    latency: Histogram
    report: Report


COUNTERS = {
    "processed": PROCESSED,
    "logged": "quants_log_ticks_total",
    "checked": 'quants_consumer_ticks_total{consumer="risk",outcome="processed"}',
    "dropped": 'sum(quants_consumer_ticks_total{outcome="dropped"})',
    "missing": "quants_gap_ticks_total",
    "written": "quants_log_written_seq",
    "timed": "quants_vwap_latency_seconds_count",
    "alerts": "sum(quants_alerts_total)",
}


async def watched(folder: Path) -> Seen:
    """Let Prometheus scrape a pump: at work, and then with all ticks done."""
    settings = Settings(tick_rate=20_000, metrics_port=0, log_file=folder / "ticks.log")
    async with pump(settings) as pipeline:
        target = f"127.0.0.1:{pipeline.metrics.port}"
        async with prometheus(target, folder) as ask:
            up = await until(ask, "up", lambda up: up == 1)
            await until(ask, f"count_over_time({PROCESSED}[1m])", lambda n: n >= 3)
            rate = P99.format(f"rate({LATENCY}[10s])")
            lately = await until(ask, rate, isfinite)
            # No tick for days: what Prometheus has seen catches up.
            assert pipeline.own_feed is not None
            pipeline.own_feed.tick_rate = 1e-6
            async with asyncio.timeout(SECONDS):
                while pipeline.log.durable_seq < pipeline.own_feed.sent:
                    await asyncio.sleep(0.05)
            sent = pipeline.own_feed.sent
            await until(ask, PROCESSED, lambda ticks: ticks == sent)
            await until(ask, COUNTERS["written"], lambda seq: seq == sent)
            counters = {n: (await ask(query))[0] for n, query in COUNTERS.items()}
            in_all = (await ask(P99.format(LATENCY)))[0]
    report = report_of(pipeline)
    return Seen(up, lately, in_all, counters, pipeline.vwap.latency, report)


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Seen:
    if PROMETHEUS is None:
        pytest.skip("prometheus is not on PATH (Debian: apt install prometheus)")
    return asyncio.run(watched(tmp_path_factory.mktemp("prometheus")))


def test_the_pump_is_up(seen: Seen):
    assert seen.up == 1


def test_the_counters_are_those_of_the_report(seen: Seen):
    report, counters = seen.report, seen.counters
    consumers = report["counts"]["consumers"]
    assert counters["processed"] == consumers["vwap"]["processed"] > 0
    assert counters["checked"] == consumers["risk"]["processed"]
    assert counters["logged"] == report["log"]["ticks"]
    assert counters["written"] == report["log"]["written_seq"]
    assert counters["timed"] == report["counts"]["sent"] == seen.latency.count
    assert counters["dropped"] == counters["missing"] == 0
    raised = sum(counts["raised"] for counts in report["alerts"].values())
    assert counters["alerts"] == raised > 0


def test_prometheus_computes_the_p99_that_the_pump_reports(seen: Seen):
    """Its buckets are powers of two: it may be off by one of them."""
    ours = seen.report["latency_seconds"]["p99"]
    assert ours / 2 <= seen.p99_in_all <= ours * 2


def test_prometheus_computes_a_p99_of_the_last_seconds(seen: Seen):
    assert 0 < seen.p99_lately <= 2 * seen.latency.maximum


# Scrapers that misbehave ------------------------------------------------------

ASK = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n"
STALLED = {
    "asks and never reads": ASK,
    "asks a hundred times and never reads": 100 * ASK,
    "sends half a request": ASK[:40],
    "says nothing": b"",
}


def stalled(port: int, request: bytes) -> socket.socket:
    """A connection that sends this and is then silent."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", port))
    connection.sendall(request)
    return connection


def closed(connection: socket.socket) -> bool:
    """Whether the server has closed it, once all it had sent is read."""
    connection.settimeout(5)
    try:
        while connection.recv(1 << 20):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


async def scraped(pipeline: Pipeline, times: int) -> list[Any]:
    """The sizes of good scrapes, of all three forms in turn."""
    accepts, found = cycle(["*/*", "text/plain", "application/openmetrics-text"]), []
    async with aiohttp.ClientSession() as session:
        for accept in (next(accepts) for _ in range(times)):
            where, headers = f"{pipeline.metrics.url}metrics", {"Accept": accept}
            async with session.get(where, headers=headers) as answer:
                assert answer.status == 200
                found.append(len(await answer.read()))
    return found


async def test_stalled_scrapers_cost_the_pump_and_the_others_nothing(tmp_path: Path):
    settings = Settings(
        tick_rate=20_000, metrics_port=0, log_file=tmp_path / "ticks.log"
    )
    async with pump(settings) as pipeline:
        port = pipeline.metrics.port
        connections = [
            await asyncio.to_thread(stalled, port, request)
            for request in 5 * list(STALLED.values())
        ]
        sizes = await scraped(pipeline, 12)
        held = [
            t.get_write_buffer_size() for t in pipeline.metrics._listener.transports()
        ]
    assert sum(held) <= 5 * (max(sizes) + 100_000)  # of those who asked too much
    for connection in connections:
        assert await asyncio.to_thread(closed, connection)
        connection.close()
    now = pipeline.snapshot()
    assert now.sent == now.received
    assert all(s.processed == now.sent for s in now.consumers.values())
    assert report_of(pipeline)["problems"] == []
