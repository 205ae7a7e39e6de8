"""The HTTP server: /metrics for scrapers and people, /healthz, the live page.

Reading all metrics takes about a millisecond of the event loop's time, which
is time the ticks do not get. So a body is kept for a fifth of a second, and
however many ask, each form is built at most five times a second. The page is
fed so too: its viewers share each event, and a slow one skips some.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from quants.access import allowed, token_for
from quants.listener import Listener
from quants.metrics import Registry, wants_exposition

Form = Literal[
    "application/json", "application/openmetrics-text", "text/plain",
    "text/event-stream",
]  # fmt: skip
Look = Callable[[], Mapping[str, Any] | None]

KEEP_SECONDS = 0.2
EVENT_SECONDS = 0.25
DRAIN_SECONDS = 0.5  # for answers under way at the end

PAGE = Path(__file__).with_name("page.html")
LINKS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Quants-in-Motion</title>
<h1>Quants-in-Motion</h1>
<ul>
<li><a href="metrics?format=json{token}">metrics as JSON</a>
<li><a href="metrics?format=prometheus{token}">metrics as Prometheus reads them</a>
<li><a href="healthz?{token}">health</a>
</ul>
</html>
"""

# The browser itself keeps the page from asking anybody else for anything.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",  # it would tell the token
    "Cache-Control": "no-store",
}
EVENT_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # a proxy passes each event on at once
}


def form_of(accept: str, format: str | None) -> Form:
    """The form of /metrics that answers an Accept header and a `?format=`."""
    if not wants_exposition(accept, format):
        return "application/json"
    if "application/openmetrics-text" in accept.lower():
        return "application/openmetrics-text"
    return "text/plain"


class MetricsServer:
    """Serves the metrics of one registry while entered.

    Args:
        registry: read when somebody asks.
        host: loopback, or an address others can reach; then with a token.
        port: 0 takes a free one, which `port` tells once entered.
        token: what others must show, as Bearer or as `?token=`.
        look: what the live page shows, None before there is something;
            without it the page is a list of links.

    Raises:
        SettingsError: the host can be reached from elsewhere, without token.
        EnvironmentFault: on entering, if the address cannot be had.
    """

    def __init__(
        self,
        registry: Registry,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
        look: Look | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.registry, self.host, self.port = registry, host, port
        self.token = token_for(host, token)
        self.look = look
        self._clock, self._sleep = clock, sleep
        self._built: dict[Form, tuple[float, bytes, str]] = {}
        self._closing = asyncio.Event()

    def __repr__(self) -> str:
        return f"<MetricsServer {self.url}>"

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the page."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    async def __aenter__(self) -> Self:
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/", self._page)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._health)
        if self.look is not None:
            app.router.add_get("/events", self._events, allow_head=False)
        self._listener = Listener(
            app,
            self.host,
            self.port,
            what=("metrics server,", "--metrics-port 0 takes a free port"),
            drain_seconds=DRAIN_SECONDS,
            sleep=self._sleep,
        )
        await self._listener.__aenter__()
        self.port = self._listener.port
        return self

    async def __aexit__(self, *error: object) -> None:
        self._built.clear()  # the last event tells the end
        self._closing.set()
        for transport in self._listener.transports():
            if transport.get_write_buffer_size():
                transport.abort()  # it does not read; the others get their last
        await self._listener.__aexit__(*error)

    # -- what is served ------------------------------------------------------

    def body(self, form: Form) -> tuple[bytes, str]:
        """A body and its Content-Type, at most 0.2 s old."""
        now = self._clock()
        built_at, body, content_type = self._built.get(form, (-1e9, b"", ""))
        if now - built_at >= KEEP_SECONDS:
            body, content_type = self._build(form)
            self._built[form] = now, body, content_type
        return body, content_type

    def _build(self, form: Form) -> tuple[bytes, str]:
        if form == "application/json":
            return self.registry.json_body(), form
        if form == "text/event-stream":
            assert self.look is not None
            return b"data: %b\n\n" % msgspec.json.encode(self.look()), form
        return self.registry.exposition(form)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        body, content_type = self.body(form_of(accept, request.query.get("format")))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _page(self, request: web.Request) -> web.Response:
        # Who sees this page has shown the token; its links take it along.
        token = f"&token={quote(self.token, safe='')}" if self.token else ""
        page = LINKS if self.look is None else PAGE.read_text(encoding="utf-8")
        return web.Response(
            text=page.replace("{token}", token),
            content_type="text/html",
            headers=PAGE_HEADERS,
        )

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Tell a viewer how things are, four times a second, until the end.

        A write waits when some 64 kB are not read yet; then events are skipped.
        """
        response = web.StreamResponse(headers=EVENT_HEADERS)
        with suppress(ConnectionResetError):  # the viewer has left
            await response.prepare(request)
            while not self._closing.is_set():
                await response.write(self.body("text/event-stream")[0])
                self._listener.has_moved(request)
                await self._closes_within(EVENT_SECONDS)
            await response.write(b"event: end\n" + self.body("text/event-stream")[0])
        return response

    async def _closes_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    # -- connections ---------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        self._listener.has_moved(request)
        if not allowed(request.headers, request.query, self.token):
            raise web.HTTPForbidden(text="only with its token, only from its pages\n")
        return await handler(request)
