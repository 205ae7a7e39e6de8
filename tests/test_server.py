"""quants/server.py with a real server, a real client and a real promtool."""

import asyncio
import json
import shutil
import subprocess
from itertools import count

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

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
