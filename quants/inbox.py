"""The messages of a WebSocket that have arrived and were not taken yet.

picows parses WebSocket frames in C and calls back once for each: 0.6 µs a
message, where an awaited `receive()` costs 1.4 (benchmarks/receive.py). What
has arrived by the time the task wakes up is taken together, as one list.
"""

import asyncio

from picows import (
    WSError,
    WSFrame,
    WSListener,
    WSMsgType,
    WSProtocolError,
    WSTransport,
)

from quants.errors import FrameError

INBOX_BYTES = 4 << 20  # arrived and not taken: then the socket is not read
DATA = WSMsgType.BINARY, WSMsgType.TEXT


class Inbox(WSListener):
    """Messages that arrived and were not taken yet."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closed = False  # set once, when the socket is gone
        self.fault: FrameError | None = None  # set when the peer broke the protocol
        self._size = 0  # bytes in `messages`
        self._paused = False
        self._news = asyncio.Event()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the transport; called once by picows."""
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Keep a message; called by picows for each frame."""
        if frame.msg_type in DATA and frame.fin:
            message = frame.get_payload_as_bytes()
            self.messages.append(message)
            self._size += len(message)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()
        elif not frame.fin or frame.msg_type == WSMsgType.CONTINUATION:
            self.fault = FrameError("message", "one WebSocket frame", "a fragment")
            transport.disconnect(graceful=False)
        if frame.last_in_buffer:
            self._news.set()
            if self._size > INBOX_BYTES and not self._paused:
                transport.underlying_transport.pause_reading()
                self._paused = True

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Wake the reader for the last time; called once by picows."""
        self.closed = True
        self._news.set()

    async def take(self) -> list[bytes]:
        """All that has arrived, at least one message; none at the end."""
        while not self.messages and not self.closed:
            self._news.clear()
            await self._news.wait()
        if not self.messages:
            await self._ended()
        taken, self.messages, self._size = self.messages, [], 0
        if self._paused and not self.closed:
            self.transport.underlying_transport.resume_reading()
            self._paused = False
        return taken

    async def _ended(self) -> None:
        """Raise what the peer did wrong, unless it only left."""
        if self.fault is not None:
            raise self.fault
        try:
            await self.transport.wait_disconnected()
        except WSProtocolError as error:
            raise FrameError("message", "WebSocket frames", error) from error
        except (WSError, OSError):
            pass  # a cut
