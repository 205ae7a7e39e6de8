"""Listening: an aiohttp application on an address, that waits for nobody.

Who connects and then neither asks nor reads would keep a socket for ever. So a
connection on which nothing has moved between two sweeps, half a request or an
answer that is not read, is cut.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

from aiohttp import web

from quants.errors import EnvironmentFault
from quants.quiet import Quiet

SWEEP_SECONDS = 60.0  # longer than scrapers leave a connection unused


class Listener:
    """Serves an application while entered.

    Args:
        what: the address is called in an error, and the way out of it.
        port: 0 takes a free one, which `port` tells once entered.
        drain_seconds: for answers under way at the end.

    Attributes:
        kept: connections that somebody else looks after; no sweep cuts them.

    Raises:
        EnvironmentFault: on entering, if the address cannot be had.
    """

    def __init__(
        self,
        app: web.Application,
        host: str,
        port: int,
        *,
        what: tuple[str, str],
        drain_seconds: float,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.host, self.port, self._what, self._sleep = host, port, what, sleep
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=Quiet(__name__),
            shutdown_timeout=drain_seconds,
        )
        self.kept = set[asyncio.Transport]()
        self._seen = set[asyncio.Transport]()  # by the last sweep
        self._moved = set[asyncio.Transport]()  # since then

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            what, way_out = self._what
            raise EnvironmentFault(
                f"{what} {self.host}:{self.port}: {error.strerror}; {way_out}"
            ) from error
        self.port = self._runner.addresses[0][1]
        self._sweeping = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._sweeping.cancel()
        left = self.transports() | self._seen
        await self._runner.cleanup()
        for transport in left:
            transport.abort()  # does nothing to one that has ended

    def transports(self) -> set[asyncio.Transport]:
        """The connections of this moment; none once it is left."""
        server = self._runner.server
        connections = server.connections if server is not None else []
        return {c.transport for c in connections if c.transport is not None}

    def has_moved(self, request: web.Request) -> None:
        """Somebody asked, or was answered: no sweep cuts that connection yet."""
        if request.transport is not None:
            self._moved.add(request.transport)

    async def _sweep(self) -> None:
        """Cut, again and again, every connection that stood still since before."""
        while True:
            await self._sleep(SWEEP_SECONDS)
            for transport in self._seen - self._moved - self.kept:
                transport.abort()
            self._seen, self._moved = self.transports(), set()
