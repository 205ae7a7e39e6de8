"""A proxy on loopback between a client and a feed, with the faults of a network.

It hands real bytes over real sockets, until it is told to cut, to swallow, to
dawdle, or to send something else than what it was given.
"""

import asyncio
from typing import Self

from quants.feed_server import FeedServer
from tests.network import Edit, FrameEditor


class Proxy:
    """Hands bytes on from a feed, until it is told not to.

    Attributes:
        cuts: how many bytes each connection lets through, one after the other;
            then, or where there is none, all of them.
        swallowing: keeps connections open and hands nothing on.
        delay_seconds: what each piece takes, one after the other.
        edit: from a whole WebSocket frame of the feed to those sent in its place.
    """

    def __init__(self, server: FeedServer, cuts: list[int] | None = None) -> None:
        self.server, self.cuts = server, cuts or []
        self.swallowing = False
        self.delay_seconds = 0.0
        self.edit: Edit | None = None
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._listening.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}/"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut_now(self) -> None:
        """Reset every connection."""
        for task in self._tasks:
            task.cancel()

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        budget = self.cuts.pop(0) if self.cuts else -1
        there = await asyncio.open_connection("127.0.0.1", self.server.port)
        ends = [writer, there[1]]
        for source, target, limit, edit in [
            (reader, there[1], -1, None),
            (there[0], writer, budget, self.edit),
        ]:
            hand_on = self._hand_on(source, target, limit, edit, ends)
            self._tasks.add(asyncio.create_task(hand_on))

    async def _hand_on(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        budget: int,
        edit: Edit | None,
        ends: list[asyncio.StreamWriter],
    ) -> None:
        edited = FrameEditor(edit)
        try:
            while budget and (some := await source.read(65_536)):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                some = edited(some)
                some = some[:budget] if budget > 0 else some
                budget -= len(some) if budget > 0 else 0
                if not self.swallowing:
                    target.write(some)
                    await target.drain()
        except ConnectionError:
            pass
        finally:
            for end in ends:
                if budget:
                    end.close()
                else:
                    end.transport.abort()  # a reset, not a goodbye
