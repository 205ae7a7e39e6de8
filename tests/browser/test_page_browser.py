"""The live page of a real pump in a real Chromium, and behind a proxy's prefix.

Every test drives the page by what it shows. The browser's console, and every
request that the page makes, are kept from its first byte on.
"""

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.lab_page import CHROMIUM, FLAGS, photograph, until

pytestmark = pytest.mark.browser

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    assert CHROMIUM, "no Chromium on PATH: apt-get install chromium"
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def pump(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A pump in a process of its own, and the URL of its page."""
    command = [sys.executable, "-m", "quants", "run", "--metrics-port", "0", *options]
    quiet: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=folder, text=True, **quiet) as process:
        try:
            assert process.stderr is not None
            lines = iter(process.stderr.readline, "")
            url = next(line.split()[1] for line in lines if line.startswith("metrics:"))
            Thread(target=lambda: list(lines), daemon=True).start()
            yield process, url
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a pump that runs for as long as the tests need it."""
    folder = tmp_path_factory.mktemp("pump")
    with pump(folder, "--tick-rate", "20000", "--cores", "2") as (_, url):
        yield url


class Watched:
    """A page with all that it said to the console and asked the network for."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.page: Page = browser.new_page(**options)
        self.console: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.console.append(message.text))
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def text(self, name: str) -> str:
        """What an element shows."""
        return self.page.inner_text(f"#{name}")

    def figure(self, name: str) -> int:
        """The first number that an element shows; 0 if it has none yet."""
        found = re.search(r"[\d,]+", self.text(name))
        return int(found[0].replace(",", "")) if found else 0


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    seen = Watched(browser, **options)
    seen.page.goto(url)
    yield seen
    seen.page.close()


def grown(seen: Watched, name: str, before: int) -> bool:
    return seen.figure(name) > before


def moves(seen: Watched, name: str) -> None:
    """Wait until a figure has grown twice."""
    for _ in range(2):
        until(partial(grown, seen, name, seen.figure(name)), 20, f"{name} stands")


def test_the_numbers_move_and_nobody_else_is_asked(chromium: Browser, url: str):
    with watched(chromium, url, viewport=WIDE) as seen:
        until(lambda: seen.text("state") == "● Running", 20, "not running")
        moves(seen, "received")
        moves(seen, "vwap tr:first-child td:last-child")
        until(lambda: seen.figure("rate") > 10_000, 20, "no rate")
        points = seen.page.get_attribute("#line polyline", "points")
        until(
            lambda: seen.page.get_attribute("#line polyline", "points") != points,
            20,
            "the line stands still",
        )
        assert seen.text("losses-title") == "Nothing is lost so far"
        photograph(seen.page, "page")
        assert seen.console == []
        own = [asked for asked in seen.requests if asked.startswith((url, "data:"))]
        assert own == seen.requests
        assert f"{url}events?" in own


def test_every_part_of_the_page_shows_something(chromium: Browser, url: str):
    with watched(chromium, url, viewport=WIDE) as seen:
        moves(seen, "received")
        until(lambda: seen.text("latest").strip(), 20, "no alert")
        for name in ("stages", "queues", "engine", "vwap", "rules", "notes"):
            assert seen.text(name).strip(), name
        assert "shared" in seen.text("engine")
        assert "2, busy" in seen.text("engine")
        assert re.search(r"AAPL\s+\d+\.\d{10,}", seen.text("vwap"))
        for name in ("line", "latency", "lag", "gc"):
            label = seen.page.get_attribute(f"#{name}", "aria-label")
            assert label, f"{name} says nothing to those who do not see it"
            assert re.search(r"\d", label)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_small_screen_never_scrolls_sideways(
    chromium: Browser, url: str, width: int, scheme: Any
):
    size = {"width": width, "height": 800}
    with watched(chromium, url, viewport=size, color_scheme=scheme) as seen:
        moves(seen, "received")
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
        lefts = "[...document.querySelectorAll('section')].map(s => s.offsetLeft)"
        columns = set(seen.page.evaluate(lefts))
        assert (len(columns) == 1) == (width < 600)


def test_the_layout_does_not_jump_while_the_numbers_grow(chromium: Browser, url: str):
    where = (
        "JSON.stringify([...document.querySelectorAll('section, th, .track')]"
        ".map(e => [e.offsetLeft, e.offsetTop, e.offsetWidth]))"
    )
    with watched(chromium, url, viewport=WIDE) as seen:
        until(lambda: seen.page.locator("#latest tr").count() == 5, 30, "few alerts")
        before = seen.page.evaluate(where)
        for _ in range(3):
            moves(seen, "received")
            assert seen.page.evaluate(where) == before


def test_who_wants_little_motion_gets_one_drawing_a_second(chromium: Browser, url: str):
    drawings = """() => new Promise(done => {
        let drawn = 0
        const line = document.querySelector("#line polyline")
        const seen = new MutationObserver(() => drawn++)
        seen.observe(line, {attributes: true})
        setTimeout(() => done(drawn), 4000)
    })"""
    counts = {}
    for motion in ("reduce", "no-preference"):
        with watched(chromium, url, reduced_motion=motion) as seen:
            moves(seen, "received")
            counts[motion] = seen.page.evaluate(drawings)
    assert 0 < counts["reduce"] < counts["no-preference"] / 2


# What goes wrong ----------------------------------------------------------------

LOSSY = """
import asyncio, sys
from pathlib import Path
from quants.pipeline import Pipeline
from quants.settings import Settings

async def main():
    pipeline = Pipeline(Settings(metrics_port=0, log_file=Path("ticks.log")))
    running = asyncio.create_task(pipeline.run())
    await pipeline.ready.wait()
    print("metrics:", pipeline.metrics.url, file=sys.stderr, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    receiver = pipeline.subscription.receiver
    receiver.gaps, receiver.gap_ticks = 2, 300
    await running

asyncio.run(main())
"""


def test_a_loss_stands_out_by_more_than_its_colour(chromium: Browser, tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-c", LOSSY],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert process.stdin is not None
        url = process.stderr.readline().split()[1]
        with watched(chromium, url, viewport=PHONE) as seen:
            moves(seen, "received")
            assert seen.text("missing") == "0"
            border = "getComputedStyle(document.querySelector('#losses')).borderWidth"
            thin = seen.page.evaluate(border)
            print("lose", file=process.stdin, flush=True)
            until(lambda: seen.text("missing") == "▲ 300, 2 gaps", 20, "no word")
            assert seen.text("losses-title") == "▲ Something is lost"
            assert seen.text("vwap-title").startswith("▲ VWAP, incomplete")
            assert seen.page.evaluate(border) != thin
            photograph(seen.page, "page-loss")
        process.kill()


def test_the_page_says_that_the_pump_has_ended(chromium: Browser, tmp_path: Path):
    with (
        pump(tmp_path, "--tick-rate", "5000") as (process, url),
        watched(chromium, url, viewport=WIDE) as seen,
    ):
        moves(seen, "received")
        process.send_signal(signal.SIGINT)
        until(lambda: seen.text("state")[0] == "■", 20, "the end is not told")
        assert process.wait(20) == 0
        last = seen.figure("received")
        time.sleep(3)  # a page that asks again would say so in the console
        assert seen.text("state").startswith("■ The pump has ended")
        assert seen.figure("received") == last
        assert seen.console == []
        photograph(seen.page, "page-ended")


def test_the_page_says_that_the_connection_is_gone_and_comes_back(
    chromium: Browser, tmp_path: Path
):
    with (
        pump(tmp_path) as (first, url),
        watched(chromium, url, viewport=WIDE) as seen,
    ):
        moves(seen, "received")
        first.kill()  # no end is told
        until(lambda: seen.text("state")[0] == "▲", 20, "a lost one is not told")
        photograph(seen.page, "page-gone")
        port = url.rstrip("/").rpartition(":")[2]
        with pump(tmp_path, "--metrics-port", port):
            until(lambda: seen.text("state")[0] == "●", 30, "it does not come back")
            moves(seen, "received")


# Behind a proxy, as jupyter-server-proxy is one -----------------------------------


async def proxied(request: web.Request, target: str) -> web.StreamResponse:
    """Hand a request on, and the answer back as it comes."""
    url = f"{target}{request.match_info['path']}?{request.query_string}"
    headers = {"Accept": request.headers.get("Accept", "*/*")}
    kept = ("Content-Type", "Content-Security-Policy", "Cache-Control")
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=headers) as answer,
    ):
        said = {name: answer.headers[name] for name in kept if name in answer.headers}
        response = web.StreamResponse(status=answer.status, headers=said)
        await response.prepare(request)
        async for part in answer.content.iter_any():
            await response.write(part)
        return response


@contextmanager
def proxy(target: str) -> Iterator[str]:
    """A proxy that serves a target below a prefix, and nothing elsewhere."""
    ready, stop, ports = Event(), Event(), []

    async def serve() -> None:
        app = web.Application()
        handler = partial(proxied, target=target)
        app.router.add_get("/user/me/proxy/8080/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
        ready.set()
        await asyncio.to_thread(stop.wait)
        await runner.cleanup()

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield f"http://127.0.0.1:{ports[0]}/user/me/proxy/8080/"
    finally:
        stop.set()
        thread.join()


def test_the_page_works_below_a_prefix(chromium: Browser, url: str):
    with proxy(url) as below, watched(chromium, below, viewport=WIDE) as seen:
        moves(seen, "received")
        hrefs = "links => links.map(link => link.href)"
        links = seen.page.eval_on_selector_all("a", hrefs)
        assert [link for link in links if not link.startswith(below)] == []
        assert [r for r in seen.requests if not r.startswith((below, "data:"))] == []
        assert seen.console == []
