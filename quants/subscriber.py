"""The server's side of one subscription: a channel, a socket, a writer.

Only `_send` writes, under a lock, and it keeps the number that comes next. A
batch that starts beyond it follows dropped ones, so a gap goes out first. An
idle channel sends a heartbeat, which also tells a client what it has missed.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence

import msgspec
from aiohttp import WSCloseCode, web

from quants.channel import Channel
from quants.feed import SUBPROTOCOLS, Wire
from quants.frame import Kind, encode
from quants.messages import Request, as_json, text_frames
from quants.tick import NO_ROWS, Batch, Symbol, gap

SOCKET_BYTES = 1 << 20  # what a transport may hold unsent before its writer waits
History = Callable[[int, int], Iterable[tuple[Kind, Batch]]]


class Subscriber:
    """One client: what it is sent, and from where it may resume.

    Args:
        ws: its WebSocket, prepared.
        transport: the socket below, for writes of many messages at once.
        channel: what the publisher puts its batches into.
        next_seq: the first number it will be sent.
        symbols: the feed's table.
        history: what was published in [first, last) of the sequence.
        heartbeat_seconds: the longest silence.
    """

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        channel: Channel,
        next_seq: int,
        symbols: Sequence[Symbol],
        history: History,
        heartbeat_seconds: float,
    ) -> None:
        self.ws, self.transport, self.channel = ws, transport, channel
        self.next_seq, self.symbols, self.history = next_seq, symbols, history
        self.heartbeat_seconds = heartbeat_seconds
        json = ws.ws_protocol == SUBPROTOCOLS["json"]
        self.wire: Wire = "json" if json else "binary"
        self.ended = False  # set when the feed is over
        self._told = False  # set when the client knows it
        self._writing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Subscriber {self.wire}, next {self.next_seq}, {self.channel!r}>"

    async def run(self, welcome: str) -> None:
        """Write what the channel brings until it closes or the client leaves."""
        listener = asyncio.create_task(self._listen())
        try:
            await self.ws.send_str(welcome)
            await self._write()
            if self._told:  # who was cut off before the end may still ask
                await asyncio.wait([listener], timeout=self.heartbeat_seconds)
            await self.ws.close(code=WSCloseCode.OK)
        except ConnectionError:
            pass  # the ordinary end of a client that left
        finally:
            listener.cancel()
            self.channel.close()  # the publisher may be waiting for room

    def end(self) -> None:
        """The feed is over: after what is queued comes an `end` frame."""
        self.ended = True
        self.channel.close()

    def abort(self) -> None:
        """Let go of a client that does not read; nothing more can reach it."""
        self.transport.abort()
        self.channel.close()

    async def _write(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.heartbeat_seconds):
                    batch = await anext(self.channel)
            except TimeoutError:
                await self._send(Kind.HEARTBEAT, self._bare(Kind.HEARTBEAT))
            except StopAsyncIteration:
                break
            else:
                await self._send(Kind.TICKS, batch)
        if self.ended:
            await self._send(Kind.END, self._bare(Kind.END))
            self._told = True

    async def _listen(self) -> None:
        """Serve requests to resume; the end of the messages is a goodbye."""
        try:
            async for message in self.ws:
                request = msgspec.json.decode(message.data, type=Request)
                await self._resume(request.from_seq)
        except (msgspec.MsgspecError, TypeError):
            await self.ws.close(code=WSCloseCode.POLICY_VIOLATION)
        except ConnectionError:
            pass  # it left in the middle of what it had asked for
        self.channel.close()

    async def _resume(self, from_seq: int) -> None:
        async with self._writing:
            for kind, batch in self.history(from_seq, self.next_seq):
                await self._put(self.encoded(kind, batch).frame)
            if self._told:
                await self._put(self._bare(Kind.END).frame)

    async def _send(self, kind: Kind, batch: Batch) -> None:
        async with self._writing:
            if missing := max(0, batch.first_seq - self.next_seq):
                hole = self.encoded(Kind.GAP, gap(self.next_seq, missing))
                await self._put(hole.frame)
            self.next_seq = max(self.next_seq, batch.next_seq)
            await self._put(batch.frame)

    async def _put(self, frame: bytes) -> None:
        if self.wire == "binary":
            return await self.ws.send_bytes(frame)
        self.transport.write(frame)
        # aiohttp drains by what it wrote itself, and these bytes went past it.
        while self.transport.get_write_buffer_size() > SOCKET_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        if self.transport.is_closing():
            raise ConnectionResetError

    def _bare(self, kind: Kind) -> Batch:
        return self.encoded(kind, Batch(NO_ROWS, self.next_seq, 0, 0))

    def encoded(self, kind: Kind, batch: Batch) -> Batch:
        """The batch with the bytes that this client's wire sends for it."""
        if self.wire == "json":
            frame = text_frames(as_json(kind, batch, self.symbols))
        elif batch.frame:
            return batch
        else:
            frame = encode(kind, batch.first_seq, batch.span, batch.sent_ns)
        return Batch(batch.rows, batch.first_seq, batch.span, batch.sent_ns, frame)
