"""A Redis that takes its time: a gate on loopback before a real one.

Each question waits at the gate before it goes on; its answer comes back at
once. So any Redis gets slow, or well again, from one moment to the next.
"""

import asyncio
from collections.abc import Callable
from typing import Self
from urllib.parse import urlsplit

from quants.lab.session import end
from quants.redis_server import RedisServer

PIECE_BYTES = 65_536


class SlowRedis:
    """Hands questions on to a Redis, each of them after a pause.

    Args:
        url: the Redis behind it.

    Attributes:
        url: where clients find it, within its block.
        pause: the seconds that the next question waits; may be set at any time.
        questions: how many came; several sent at once are one.
    """

    def __init__(self, url: str, pause: Callable[[], float] = float) -> None:
        behind = urlsplit(url)
        self._behind = behind.hostname, behind.port
        self.url, self.pause, self.questions = url, pause, 0
        self._tasks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        return f"<SlowRedis {self.url}, {self.questions} questions>"

    async def __aenter__(self) -> Self:
        self._listening = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._listening.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._listening.close()
        await end(*self._tasks)

    def takes(self, seconds: float) -> None:
        """Each question waits so long from now on."""
        self.pause = lambda: seconds

    async def _accept(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        host, port = self._behind
        redis, to_redis = await asyncio.open_connection(host, port)
        for hand_on in (self._ask(client, to_redis), answer(redis, to_client)):
            task = asyncio.create_task(hand_on)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(
        self, client: asyncio.StreamReader, to_redis: asyncio.StreamWriter
    ) -> None:
        try:
            while question := await client.read(PIECE_BYTES):
                self.questions += 1
                await asyncio.sleep(self.pause())
                to_redis.write(question)
        except ConnectionError:
            pass  # a client that gave up
        finally:
            to_redis.close()


def answers(server: RedisServer) -> str:
    """Who it is that answers, for a picture: a Redis, or a stand-in."""
    who = server.how.partition(" on port")[0]
    return f"answers: {who.rpartition(': ')[2].rpartition('/')[2]}"


async def answer(redis: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    """Hand answers on as they come."""
    try:
        while piece := await redis.read(PIECE_BYTES):
            to_client.write(piece)
            await to_client.drain()
    except ConnectionError:
        pass
    finally:
        to_client.close()
