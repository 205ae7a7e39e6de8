"""quants/server.py with a real server, a real client and a real promtool."""

import asyncio
import json
import logging
import shutil
import socket
import subprocess
from contextlib import AsyncExitStack, suppress
from itertools import count

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from quants import server as server_module
from quants.errors import EnvironmentFault, SettingsError
from quants.metrics import Registry
from quants.server import MetricsServer

SCRAPER = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


class Asked:
    """The answer to one GET, read to its end."""

    def __init__(self, status, content_type, body):
        self.status, self.content_type, self.body = status, content_type, body


@pytest.fixture
def readings():
    """How often the registry was read: its only metric counts them."""
    return count(1)


@pytest.fixture
def registry(readings):
    registry = Registry()
    registry.json_field("ticks_processed", lambda: 41)
    registry.counter("quants_readings_total", "Readings.", lambda: next(readings))
    return registry


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


async def get(client, server, path="metrics", accept=None, **headers):
    if accept is not None:
        headers["Accept"] = accept
    async with client.get(server.url + path, headers=headers) as response:
        return Asked(
            response.status, response.headers["Content-Type"], await response.text()
        )


@pytest.mark.parametrize(
    ("path", "accept", "content_type"),
    [
        ("metrics", None, "application/json"),  # aiohttp and curl send */*
        ("metrics", BROWSER, "application/json"),
        ("metrics", "application/json", "application/json"),
        ("metrics", SCRAPER, "application/openmetrics-text; version=1.0.0"),
        ("metrics", "text/plain", "text/plain; version=0.0.4"),
        ("metrics?format=prometheus", BROWSER, "text/plain; version=0.0.4"),
        ("metrics?format=json", SCRAPER, "application/json"),
    ],
)
async def test_the_accept_header_decides_unless_a_person_does(
    client, registry, path, accept, content_type
):
    async with MetricsServer(registry, port=0) as server:
        asked = await get(client, server, path, accept)
    assert asked.status == 200
    assert asked.content_type.startswith(content_type)
    if content_type == "application/json":
        assert next(iter(json.loads(asked.body).items())) == ("ticks_processed", 41)
    else:
        assert "quants_readings_total 1.0\n" in asked.body


async def test_a_scraper_reads_the_exposition_to_its_end(client, registry):
    async with MetricsServer(registry, port=0) as server:
        asked = await get(client, server, accept=SCRAPER)
    names = {family.name for family in text_string_to_metric_families(asked.body)}
    assert {"quants_readings", "python_gc_collections"} <= names


async def test_several_accept_headers_count_as_one(registry):
    async with MetricsServer(registry, port=0) as server:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(
            b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Accept: text/html\r\nAccept: text/plain\r\n\r\n"
        )
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert b"Content-Type: text/plain; version=0.0.4" in answer


async def test_a_body_is_built_at_most_five_times_a_second(client, registry):
    seconds = 0.0
    async with MetricsServer(registry, port=0, clock=lambda: seconds) as server:
        seen = []
        for eighth in range(8):
            seconds = eighth / 8
            asked = await get(client, server)
            seen.append(json.loads(asked.body)["quants_readings_total"])
    assert seen == [1, 1, 2, 2, 3, 3, 4, 4]


async def test_each_form_has_its_own_body(client, registry):
    async with MetricsServer(registry, port=0, clock=lambda: 0.0) as server:
        for accept in (SCRAPER, "text/plain", "*/*", SCRAPER, "text/plain", "*/*"):
            await get(client, server, accept=accept)
        last = await get(client, server)
    assert json.loads(last.body)["quants_readings_total"] == 3


@pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool, of Prometheus, is not on PATH"
)
async def test_promtool_finds_nothing_to_say_about_what_is_served(client, registry):
    async with MetricsServer(registry, port=0) as server:
        asked = await get(client, server, accept="text/plain")
    checked = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=asked.body.encode(),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


async def test_health_is_a_small_json_object(client, registry):
    async with MetricsServer(registry, port=0) as server:
        asked = await get(client, server, "healthz")
    assert (asked.status, json.loads(asked.body)) == (200, {"status": "ok"})


async def test_the_page_links_to_what_there_is(client, registry):
    async with MetricsServer(registry, port=0) as server:
        page = await get(client, server, "")
        assert page.content_type == "text/html; charset=utf-8"
        links = [part.split('"')[0] for part in page.body.split('href="')[1:]]
        assert len(links) == 3
        for link in links:
            assert (await get(client, server, link)).status == 200


async def test_a_busy_port_is_named_with_the_way_out(registry):
    async with MetricsServer(registry, port=0) as first:
        second = MetricsServer(registry, port=first.port)
        with pytest.raises(
            EnvironmentFault, match=rf":{first.port}: .*in use; --metrics-port 0 takes"
        ) as caught:
            await second.__aenter__()
        assert "\n" not in str(caught.value)


async def test_the_port_is_free_again_after_the_end(client, registry):
    async with MetricsServer(registry, port=0) as server:
        await get(client, server)  # leaves a connection open
    async with MetricsServer(registry, port=server.port) as again:
        assert (await get(client, again)).status == 200


def test_loopback_is_the_default_and_others_need_a_token(registry):
    assert MetricsServer(registry).host == "127.0.0.1"
    with pytest.raises(SettingsError, match="QUANTS_TOKEN"):
        MetricsServer(registry, "0.0.0.0")


async def test_a_server_others_can_reach_answers_to_its_token(client, registry):
    secret = "s&cret"
    async with MetricsServer(registry, "0.0.0.0", 0, secret) as server:
        for path in ("", "metrics", "healthz"):
            assert (await get(client, server, path)).status == 403
            bearer = await get(client, server, path, Authorization=f"Bearer {secret}")
            assert bearer.status == 200
        page = await get(client, server, "?token=s%26cret")
        links = [part.split('"')[0] for part in page.body.split('href="')[1:]]
        for link in links:
            assert (await get(client, server, link)).status == 200


async def test_a_page_of_another_site_is_refused(client, registry):
    async with MetricsServer(registry, port=0) as server:
        foreign = await get(client, server, Origin="http://evil.example")
        own = await get(client, server, Origin=server.url.rstrip("/"))
    assert (foreign.status, own.status) == (403, 200)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/"),
        ("::1", "http://[::1]:80/"),
        ("0.0.0.0", "http://127.0.0.1:80/"),
        ("::", "http://[::1]:80/"),
    ],
)
def test_the_url_is_one_that_a_browser_here_can_open(registry, host, url):
    assert MetricsServer(registry, host, 80, "secret").url == url


# The live page ---------------------------------------------------------------


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    """Events come a hundred times a second, not four times."""
    monkeypatch.setattr(server_module, "EVENT_SECONDS", 0.01)


class Hand:
    """A sleep for the sweeper that lasts until the test moves on."""

    def __init__(self):
        self.asleep, self.go = asyncio.Event(), asyncio.Event()

    async def sleep(self, seconds):
        self.asleep.set()
        await self.go.wait()
        self.go.clear()

    async def sweep(self):
        """Return when the sweep is over."""
        await self.asleep.wait()
        self.asleep.clear()
        self.go.set()
        await self.asleep.wait()


async def events(response):
    """What a viewer is told: the event's name and its object."""
    name = "message"
    async for line in response.content:
        field, _, value = line.decode().strip().partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
            name = "message"


async def seen(client, server, many):
    """The objects of the first few events."""
    async with client.get(f"{server.url}events") as response:
        found = []
        async for _, now in events(response):
            found.append(now)
            if len(found) == many:
                return found


def ask(server, request, times=1):
    """A connection that sends this and never reads a byte."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((server.host, server.port))
    connection.sendall(request * times)
    return connection


def is_cut(connection):
    """Whether the server has let go, once all it had sent is read."""
    connection.settimeout(5)
    try:
        with suppress(ConnectionResetError):
            while connection.recv(1 << 20):
                pass
    except TimeoutError:
        return False
    return True


EVENTS = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
METRICS = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"GET /metrics HTTP/1.1\r\nHost: local"


async def test_a_viewer_is_told_again_and_again(client, registry):
    ticks, nan = count(1), float("nan")
    seconds = count()
    server = MetricsServer(
        registry,
        port=0,
        look=lambda: {"ticks": next(ticks), "p99": nan},
        clock=lambda: float(next(seconds)),
    )
    async with server:
        found = await seen(client, server, 3)
    assert found == [{"ticks": n, "p99": None} for n in (1, 2, 3)]


async def test_all_viewers_share_what_was_built(client, registry):
    looks = count(1)
    server = MetricsServer(
        registry, port=0, look=lambda: {"look": next(looks)}, clock=lambda: 0.0
    )
    async with server:
        viewers = [seen(client, server, 5) for _ in range(8)]
        found = await asyncio.gather(*viewers)
    assert found == [[{"look": 1}] * 5] * 8


async def test_before_there_is_something_to_see_a_viewer_is_told_so(client, registry):
    async with MetricsServer(registry, port=0, look=lambda: None) as server:
        assert await seen(client, server, 1) == [None]


async def test_the_last_event_tells_the_end_as_it_is_then(client, registry):
    now = {"ticks": 1}
    server = MetricsServer(registry, port=0, look=lambda: now)
    async with AsyncExitStack() as open_server:
        await open_server.enter_async_context(server)
        response = await client.get(f"{server.url}events")
        told = events(response)
        assert await anext(told) == ("message", {"ticks": 1})
        now["ticks"] = 2  # a kept body would not say so
        closing = asyncio.create_task(open_server.pop_all().aclose())
        last = [each async for each in told][-1]
        await closing
    assert last == ("end", {"ticks": 2})


async def test_a_viewer_who_leaves_is_no_error(client, registry, caplog):
    caplog.set_level(logging.WARNING)
    async with MetricsServer(registry, port=0, look=dict) as server:
        for _ in range(3):
            await seen(client, server, 2)
        while server._listener.transports():
            await asyncio.sleep(0.01)
    assert caplog.records == []


async def test_a_viewer_who_does_not_read_makes_no_queue_and_is_cut(client, registry):
    hand, size = Hand(), 500_000
    server = MetricsServer(
        registry, port=0, look=lambda: {"much": "x" * size}, sleep=hand.sleep
    )
    async with server:
        stalled = await asyncio.to_thread(ask, server, EVENTS)
        while not any(t.get_write_buffer_size() for t in server._listener.transports()):
            await asyncio.sleep(0.01)
        (transport,) = server._listener.transports()
        others = await seen(client, server, 30)  # 15 MB, had they been queued
        assert len(others) == 30
        assert transport.get_write_buffer_size() < 2 * size
        for _ in range(3):
            await hand.sweep()
        assert await asyncio.to_thread(is_cut, stalled)
    stalled.close()


@pytest.mark.parametrize("request_", [b"", HALF, METRICS, METRICS * 9 + HALF])
async def test_a_connection_that_stands_still_is_cut_by_the_sweeps(registry, request_):
    hand = Hand()
    registry.gauge("quants_much", "Much.", lambda: {("x" * 99_999,): 1}, ("x",))
    async with MetricsServer(registry, port=0, sleep=hand.sleep) as server:
        stalled = await asyncio.to_thread(ask, server, request_)
        while not server._listener.transports():
            await asyncio.sleep(0.01)
        async with asyncio.timeout(30):
            while server._listener.transports():
                await hand.sweep()
                await asyncio.sleep(0.01)
        assert await asyncio.to_thread(is_cut, stalled)
    stalled.close()


async def test_a_viewer_who_reads_is_not_cut(client, registry):
    hand = Hand()
    look = count().__next__
    server = MetricsServer(
        registry, port=0, look=lambda: {"look": look()}, sleep=hand.sleep
    )
    async with server, client.get(f"{server.url}events") as response:
        told = events(response)
        for _ in range(5):
            for _ in range(2):
                await anext(told)
            await hand.sweep()
        assert (await anext(told))[0] == "message"


@pytest.mark.parametrize("request_", [EVENTS, HALF, METRICS * 99])
async def test_the_end_waits_for_nobody_and_leaves_no_connection(
    registry, request_, monkeypatch
):
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", 3600)
    registry.gauge("quants_much", "Much.", lambda: {("x" * 99_999,): 1}, ("x",))
    look = {"much": "x" * 500_000}
    async with MetricsServer(registry, port=0, look=lambda: look) as server:
        stalled = await asyncio.to_thread(ask, server, request_)
        for _ in range(1000):
            held = [t.get_write_buffer_size() for t in server._listener.transports()]
            if any(held) or (held and request_ is HALF):
                break
            await asyncio.sleep(0.01)
        else:
            pytest.fail("the connection does not stand still")
    assert await asyncio.to_thread(is_cut, stalled)
    stalled.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_last_event_that_is_not_read_is_not_kept(registry, monkeypatch):
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", 0.1)
    now, size = {"much": ""}, 20_000_000
    async with MetricsServer(registry, port=0, look=lambda: now) as server:
        stalled = await asyncio.to_thread(ask, server, EVENTS)
        while not server._listener.transports():
            await asyncio.sleep(0.01)
        now["much"] = "x" * size
    found = 0
    with suppress(ConnectionResetError):
        while part := await asyncio.to_thread(stalled.recv, 1 << 20):
            found += len(part)
    stalled.close()
    assert found < size


async def test_without_a_pump_there_are_links_and_no_events(client, registry):
    async with MetricsServer(registry, port=0) as server:
        assert (await get(client, server, "events")).status == 404
        assert "EventSource" not in (await get(client, server, "")).body


async def test_the_live_page_takes_its_token_along(client, registry):
    server = MetricsServer(registry, "0.0.0.0", 0, "s&cret", look=dict)
    async with server:
        assert (await get(client, server, "events")).status == 403
        page = await get(client, server, "?token=s%26cret")
        assert "{token}" not in page.body
        source = page.body.split('const events = "')[1].split('"')[0]
        assert (await client.head(server.url + source)).status == 405  # a GET only
        async with client.get(server.url + source) as response:
            assert await anext(events(response)) == ("message", {})
        links = [part.split('"')[0] for part in page.body.split('<a href="')[1:]]
        assert len(links) == 3
        for link in links:
            assert (await get(client, server, link)).status == 200


async def test_a_browser_is_told_to_ask_nobody_else(client, registry):
    async with (
        MetricsServer(registry, port=0, look=dict) as server,
        client.get(server.url) as response,
    ):
        policy = response.headers["Content-Security-Policy"]
        assert response.headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'; connect-src 'self'" in policy
