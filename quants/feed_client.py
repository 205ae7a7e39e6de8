"""The feed's client: an endless subscription that yields batches in order.

The socket may break; the subscription goes on from the next number it needs.
The first try after a cut is made at once, later ones after a pause that grows,
is capped and is drawn at random ("full jitter"), so that a thousand clients of
one server do not all come back in the same instant. A message that breaks the
protocol is counted and closes the connection; it is asked for again, and if
that does not help the fault is raised.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from typing import Self

from picows import WSError, WSMsgType, ws_connect

from quants.errors import EnvironmentFault, FrameError
from quants.feed import BEAT, SUBPROTOCOLS, Receiver, Wire
from quants.frame import MAX_FRAME
from quants.inbox import Inbox
from quants.quiet import Quiet
from quants.tick import Batch, Symbol

log = logging.getLogger(__name__)

SILENT_HEARTBEATS = 2  # then the peer is taken for gone
REFUSALS = 3  # in a row, without a batch between them: then it will not heal
CONNECT_SECONDS = WELCOME_SECONDS = 5.0  # a host that drops packets says nothing


def pause_seconds(failures: int, chance: float) -> float:
    """How long to wait before a further try: none, then up to 5 s.

    Args:
        failures: tries since the last one that helped.
        chance: uniform in [0, 1).
    """
    return 0.0 if failures == 0 else min(5.0, 0.1 * 2.0 ** min(failures, 10)) * chance


class Subscription:
    """Batches of a feed until its `end`, over as many connections as it takes.

    `async with` connects, so that symbols and stream are known before the
    first batch; `async for` then yields batches whose numbers have no hole
    that a gap batch does not tell.

    Args:
        url: ws://host:port/ of a feed.
        wire: how it shall send: binary frames, or JSON.
        token: for a feed that asks for one.

    Raises:
        EnvironmentFault: nobody answers there at the start.
        FrameError: the peer broke the protocol.
    """

    def __init__(
        self,
        url: str,
        wire: Wire = "binary",
        *,
        token: str | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.url, self.token = url, token
        self.receiver = Receiver(wire)
        self.reconnects = 0
        self._sleep, self._chance = sleep, chance
        self._inbox: Inbox | None = None  # of the connection, while there is one
        self._beating: asyncio.Task[None] | None = None  # as long
        self._stopped = asyncio.Event()  # set once, by stop()

    def __repr__(self) -> str:
        known = self.receiver
        return f"<Subscription {self.url} {known.stream}, next {known.expected}>"

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The feed's symbol table."""
        return self.receiver.symbols

    @property
    def stream(self) -> str:
        """The feed's id; another id is another sequence of numbers."""
        return self.receiver.stream

    async def __aenter__(self) -> Self:
        try:
            await self._connect()
        except (WSError, OSError, TimeoutError, ValueError) as error:
            raise EnvironmentFault(
                f"feed {self.url}: {error or 'no answer'}; is one running there?"
            ) from error
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._disconnect()

    def stop(self) -> None:
        """End the iteration after the batches that have arrived."""
        self._stopped.set()
        if self._inbox is not None:
            self._inbox.transport.disconnect(graceful=False)

    async def __aiter__(self) -> AsyncIterator[Batch]:
        failures = refusals = 0
        while not (self.receiver.ended or self._over()):
            try:
                messages = await self._messages()
                failures = 0
                for batch in self.receiver.receive(messages):
                    refusals = 0
                    yield batch
            except FrameError as refused:
                self.receiver.refused += 1
                refusals += 1
                if refusals == REFUSALS:
                    raise
                await self._try_again(refusals - 1, refused)
            except (WSError, OSError, TimeoutError) as error:
                await self._try_again(failures, error)
                failures += 1

    async def _try_again(self, failures: int, error: Exception) -> None:
        log.debug("feed %s, failure %d: %r", self.url, failures, error)
        self._disconnect()
        await self._pause(pause_seconds(failures, self._chance()))

    def _over(self) -> bool:
        return self._stopped.is_set() and self._inbox is None

    async def _pause(self, seconds: float) -> None:
        """Sleep, or until somebody stops the subscription."""
        sleeping = asyncio.ensure_future(self._sleep(seconds))
        stopped = asyncio.ensure_future(self._stopped.wait())
        either = asyncio.FIRST_COMPLETED
        try:
            await asyncio.wait([sleeping, stopped], return_when=either)
            if sleeping.done():
                sleeping.result()
        finally:
            sleeping.cancel()
            stopped.cancel()

    async def _messages(self) -> list[bytes]:
        """What arrives next, over a new connection if the last one broke."""
        if self._inbox is None:
            await self._connect()
            self.reconnects += 1
        assert self._inbox is not None
        # Two waits, not one of twice the time: a loop that stood still for long
        # has not listened, and finds in the second what came meanwhile.
        for _ in range(SILENT_HEARTBEATS):
            with suppress(TimeoutError):
                async with asyncio.timeout(self.receiver.heartbeat_seconds):
                    messages = await self._inbox.take()
                if not messages:
                    raise ConnectionResetError("the feed closed the connection")
                return messages
        raise TimeoutError("the feed fell silent")

    async def _connect(self) -> None:
        headers = {"Sec-WebSocket-Protocol": SUBPROTOCOLS[self.receiver.wire]}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        async with asyncio.timeout(CONNECT_SECONDS):
            _, inbox = await ws_connect(
                Inbox,
                self.url,
                extra_headers=headers,
                max_frame_size=2 * MAX_FRAME,
                logger_name=Quiet(__name__),
            )
        if not isinstance(inbox, Inbox):
            raise ConnectionResetError("closed in its handshake")
        self._inbox = inbox
        with ExitStack() as failed:
            failed.callback(self._disconnect)
            async with asyncio.timeout(WELCOME_SECONDS):
                arrived = await inbox.take()
            if not arrived:
                raise ConnectionResetError("closed before its welcome")
            if request := self.receiver.greet(arrived[0]):
                inbox.transport.send(WSMsgType.TEXT, request)
            failed.pop_all()
        log.debug("connected: %s", self)
        inbox.messages[:0] = arrived[1:]  # they came in one burst with the welcome
        self._beating = asyncio.create_task(self._beat(inbox))

    async def _beat(self, inbox: Inbox) -> None:
        """Tell the feed again and again that we are here, even if we do not read."""
        while not inbox.closed:
            inbox.transport.send_pong(BEAT)
            await asyncio.sleep(self.receiver.heartbeat_seconds)

    def _disconnect(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
        if self._inbox is not None:
            self._inbox.transport.disconnect(graceful=False)
        self._beating = self._inbox = None


subscribe = Subscription  # reads as what it does: async with subscribe(url)
