"""The HTTP server: /metrics for scrapers and people, /healthz, a small page.

Reading all metrics takes about a millisecond of the event loop's time, which
is time the ticks do not get. So a body is kept for a fifth of a second, and
however many ask, each of the three forms is built at most five times a second.
"""

import time
from collections.abc import Callable
from typing import Literal, Self
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from quants.access import allowed, token_for
from quants.errors import EnvironmentFault
from quants.metrics import Registry, wants_exposition

Form = Literal["application/json", "application/openmetrics-text", "text/plain"]

KEEP_SECONDS = 0.2

PAGE = """<!doctype html>
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry, self.host, self.port = registry, host, port
        self.token = token_for(host, token)
        self._clock = clock
        self._built: dict[Form, tuple[float, bytes, str]] = {}

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
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise EnvironmentFault(
                f"metrics server, {self.host}:{self.port}: {error.strerror}; "
                "--metrics-port 0 takes a free port"
            ) from error
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    def body(self, form: Form) -> tuple[bytes, str]:
        """A body of /metrics and its Content-Type, at most 0.2 s old."""
        now = self._clock()
        built_at, body, content_type = self._built.get(form, (-1e9, b"", ""))
        if now - built_at >= KEEP_SECONDS:
            body, content_type = self._build(form)
            self._built[form] = now, body, content_type
        return body, content_type

    def _build(self, form: Form) -> tuple[bytes, str]:
        if form == "application/json":
            return self.registry.json_body(), form
        return self.registry.exposition(form)

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        if not allowed(request.headers, request.query, self.token):
            raise web.HTTPForbidden(text="only with its token, only from its pages\n")
        return await handler(request)

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        body, content_type = self.body(form_of(accept, request.query.get("format")))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _page(self, request: web.Request) -> web.Response:
        # Who sees this page has shown the token; its links take it along.
        token = f"&token={quote(self.token, safe='')}" if self.token else ""
        return web.Response(text=PAGE.format(token=token), content_type="text/html")
