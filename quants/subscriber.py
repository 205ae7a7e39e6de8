"""The server's side of one subscription: a channel, a socket, a writer.

Only `_send` and `_resume` write batches, under a lock, and they keep the number
that comes next. A batch that starts beyond it follows dropped ones, so a gap
goes out first. An idle channel sends a heartbeat, which also tells a client
what it has missed.

Signs of life go both ways. A client that vanished without a goodbye leaves a
half-open socket, to which one can write for many minutes: so it is pinged, and
let go when nothing has come from it for two heartbeats. Others' clients do not
beat, and may answer a ping only when they read: they get ten times as long.
"""

import asyncio
from collections.abc import Sequence

import msgspec
from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from quants.channel import Channel
from quants.feed import BEAT, SUBPROTOCOLS, Wire
from quants.frame import UNREADABLE, Kind, encode
from quants.history import History
from quants.messages import Request, as_json, text_frames
from quants.tick import NO_ROWS, Batch, Symbol, gap

SOCKET_BYTES = 1 << 20  # what a transport may hold unsent before its writer waits
PINGS_PER_HEARTBEAT = 2
SILENT_PINGS = 3  # unanswered by one that beats: between 1.5 and 2 heartbeats
STRANGERS_PINGS = 40


class Subscriber:
    """One client: what it is sent, and from where it may resume.

    Args:
        ws: its WebSocket, prepared.
        transport: the socket below, for writes of many messages at once.
        channel: what the publisher puts its batches into.
        symbols: the feed's table.
        history: what was published so far; it begins with what comes next.
        heartbeat_seconds: the longest silence.

    Attributes:
        live: the publisher shall put batches into the channel.
        fault: why the client was let go: slow, silent or refused; else "".
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        channel: Channel,
        symbols: Sequence[Symbol],
        history: History,
        heartbeat_seconds: float,
    ) -> None:
        self.ws, self.transport, self.channel = ws, transport, channel
        self.next_seq, self.symbols = history.next_seq, symbols
        self.history, self.heartbeat_seconds = history, heartbeat_seconds
        json = ws.ws_protocol == SUBPROTOCOLS["json"]
        self.wire: Wire = "json" if json else "binary"
        self.live, self.fault = True, ""
        self.ended = False  # set when the feed is over
        self._told = False  # set when the client knows it
        self._silent_pings = 0
        self._beats = False  # whether it has ever sent a beat of its own
        self._resuming: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Subscriber {self.wire}, next {self.next_seq}, {self.channel!r}>"

    async def run(self, welcome: str) -> None:
        """Write what the channel brings until it closes or the client leaves."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                listening = self._tasks.create_task(self._listen())
                pinging = self._tasks.create_task(self._ping())
                await self.ws.send_str(welcome)
                await self._write()
                if self._told:  # who was cut off before the end may still ask
                    await asyncio.wait([listening], timeout=self.heartbeat_seconds)
                async with self._writing:
                    await self.ws.close(code=WSCloseCode.OK)
                listening.cancel()
                pinging.cancel()
        except* ConnectionError:
            pass  # the ordinary end of a client that left
        finally:
            self.channel.close()  # the publisher may be waiting for room

    def end(self) -> None:
        """The feed is over: after what is queued comes an `end` frame."""
        self.ended = True
        self.channel.close()

    def abort(self, fault: str) -> None:
        """Let go of a client; nothing more can reach it."""
        self.fault = fault
        self.transport.abort()
        self.channel.close()

    # -- what the client says ---------------------------------------------------

    async def _ping(self) -> None:
        """Ask for a sign of life; let go of a client that gives none.

        It counts pings, not seconds: a loop that stood still has not listened.
        """
        while self._silent_pings < (SILENT_PINGS if self._beats else STRANGERS_PINGS):
            # A full socket says that it reads slowly, the policy's matter. A
            # client of ours beats all the same.
            full = self.transport.get_write_buffer_size() > 0
            self._silent_pings += self._beats or not full
            if not full:
                await self.ws.ping()
            await asyncio.sleep(self.heartbeat_seconds / PINGS_PER_HEARTBEAT)
        self.abort("silent")

    async def _listen(self) -> None:
        """Take what the client says; the end of it is a goodbye."""
        try:
            async for message in self.ws:
                self._silent_pings = 0
                await self._answer(message)
        except (*UNREADABLE, TypeError):
            self.fault = "refused"
            await self.ws.close(code=WSCloseCode.POLICY_VIOLATION)
        self.channel.close()

    async def _answer(self, message: WSMessage) -> None:
        if message.type is WSMsgType.PING:
            await self.ws.pong(message.data)
        elif message.type is WSMsgType.PONG:
            self._beats = self._beats or message.data == BEAT
        else:
            request = msgspec.json.decode(message.data, type=Request)
            if self._resuming is not None and not self._resuming.done():
                raise TypeError("it asks again before it was answered")
            # Not awaited: that may take long, and it has signs of life to send.
            self._resuming = self._tasks.create_task(self._resume(request.from_seq))

    # -- what it is sent --------------------------------------------------------

    async def _write(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.heartbeat_seconds):
                    batch = await anext(self.channel)
            except TimeoutError:
                await self._send_bare(Kind.HEARTBEAT)
            except StopAsyncIteration:
                break
            else:
                await self._send(batch)
        if self.ended:
            await self._send_bare(Kind.END)
            self._told = True

    async def _send(self, batch: Batch) -> None:
        async with self._writing:
            if batch.next_seq <= self.next_seq:
                return  # it was resent from the history
            if missing := max(0, batch.first_seq - self.next_seq):
                await self._put(gap(self.next_seq, missing))
            self.next_seq = batch.next_seq
            await self._write_frame(batch.frame)

    async def _send_bare(self, kind: Kind) -> None:
        async with self._writing:
            bare = Batch(NO_ROWS, self.next_seq, 0, 0)
            await self._write_frame(self.encoded(kind, bare).frame)

    async def _resume(self, from_seq: int) -> None:
        """Send what was published from a number on, then go on live.

        As long as it reads the archive, nothing is put into the channel. What
        is in memory is noted in one step with going live: no tick falls between.
        """
        async with self._writing:
            self.live = False
            async for batch in self.history.older(from_seq):
                await self._put(batch)
                from_seq = batch.next_seq
            latest = list(self.history.latest(from_seq))
            self.next_seq, self.live = self.history.next_seq, True
            for batch in latest:
                await self._put(batch)
        if self._told:
            await self._send_bare(Kind.END)

    async def _put(self, batch: Batch) -> None:
        kind = Kind.GAP if batch.is_gap else Kind.TICKS
        await self._write_frame(self.encoded(kind, batch).frame)

    async def _write_frame(self, frame: bytes) -> None:
        if self.wire == "binary":
            return await self.ws.send_bytes(frame)
        self.transport.write(frame)
        # aiohttp drains by what it wrote itself, and these bytes went past it.
        while self.transport.get_write_buffer_size() > SOCKET_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if self.transport.is_closing():
            raise ConnectionResetError

    def encoded(self, kind: Kind, batch: Batch) -> Batch:
        """The batch with the bytes that this client's wire sends for it."""
        if self.wire == "json":
            frame = text_frames(as_json(kind, batch, self.symbols))
        elif batch.frame:
            return batch
        else:
            frame = encode(kind, batch.first_seq, batch.span, batch.sent_ns)
        return Batch(batch.rows, batch.first_seq, batch.span, batch.sent_ns, frame)
