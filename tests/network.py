"""Connections in memory, and what a network may do to the bytes on their way.

An `End` is a transport like asyncio's own: what its protocol writes goes into a
`Way`, which is one direction of a `Connection`, and comes out at the other end
when its time has come. A way may delay, edit, swallow, stall or cut; it never
reorders, as TCP does not. Both ends see full buffers, resets and goodbyes as
they would see them from the kernel, only that nothing else runs in between.
"""

import asyncio
import errno
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

Protocol = asyncio.Protocol | asyncio.BufferedProtocol
Edit = Callable[[bytes], list[bytes]]  # from a frame to those in its place
Trace = list[tuple[float, str, int]]  # time, way, bytes

SOCKET_BYTES = 256 << 10  # what two kernels hold between two programs
HIGH_WATER, LOW_WATER = 64 << 10, 16 << 10  # asyncio's own
RESET = None  # on its way like bytes; b"" is a goodbye, as from a socket


class Connection:
    """Two ends, and a way for each direction: `up` to the server, `down` from it."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, number: int, trace: Trace
    ) -> None:
        self.number = number
        self.client, self.server = End(loop), End(loop)
        self.up = Way(loop, trace, f"{number} up", self.client, self.server)
        self.down = Way(loop, trace, f"{number} down", self.server, self.client)

    def cut(self) -> None:
        """Reset both ends, after what is under way."""
        self.up.send(RESET)
        self.down.send(RESET)

    def swallow(self) -> None:
        """From now on nothing arrives, and nobody is told."""
        for way in self.up, self.down:
            way.swallow_after = way.sent


class Way:
    """One direction: what goes in at one end comes out at the other, later.

    Attributes:
        sent: bytes that were given to it.
        delay: asked for the seconds that some bytes take; none overtakes another.
        cut_after: so many bytes go through, then both ends are reset.
        swallow_after: so many go through, and nobody hears of the rest.
        stalled: holds what has arrived back.
        editor: changes whole frames, so that a test may drop or repeat some.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        trace: Trace,
        name: str,
        source: "End",
        target: "End",
    ) -> None:
        self.loop, self.trace, self.name = loop, trace, name
        self.source, self.target = source, target
        source.way, target.arriving = self, self
        self.sent = self.held = 0  # held: bytes not handed over yet
        self.delay: Callable[[], float] = lambda: 0.0
        self.cut_after = self.swallow_after = float("inf")
        self.stalled = False
        self.editor = FrameEditor(None)
        self._last = 0.0  # when the latest bytes arrive
        self._under_way: deque[bytes | None] = deque()
        self._arrived: deque[bytes | None] = deque()

    def write(self, data: bytes) -> None:
        """Take bytes in; what the faults leave of them will arrive."""
        data = self.editor(data)
        whole = int(min(len(data), self.cut_after - self.sent))
        kept = int(min(whole, max(0, self.swallow_after - self.sent)))
        self.sent += len(data)
        if kept:
            self.send(data[:kept])
        if whole < len(data) and kept == whole:
            self.cut_after = float("inf")
            self.send(RESET)
            self.loop.call_at(self._last, self.source.lose, ConnectionResetError())

    def send(self, data: bytes | None) -> None:
        """Put bytes, b"" or a reset on the way."""
        if not data and self.sent >= self.swallow_after:
            return
        self._under_way.append(data)
        self.held += len(data or b"")
        self._last = max(self._last, self.loop.time() + self.delay())
        self.loop.call_at(self._last, self._arrive)

    def _arrive(self) -> None:
        data = self._under_way.popleft()  # timers of one moment have no order
        self.trace.append((self.loop.time(), self.name, len(data or b"")))
        self._arrived.append(data)
        self.hand_over()

    def hand_over(self) -> None:
        """Give the target what it can take, and the source its room back."""
        while self._arrived and self.target.reading and not self.stalled:
            data = self._arrived.popleft()
            self.held -= len(data or b"")
            self.target.take(data)
        self.source.make_room()

    def resume(self) -> None:
        """End a stall."""
        self.stalled = False
        self.hand_over()


class FrameEditor:
    """Bytes of a server in, bytes out, with whole WebSocket frames edited."""

    def __init__(self, edit: Edit | None) -> None:
        self.edit = edit
        self._unread = bytearray()
        self._answered = False  # past the HTTP answer, which comes first

    def __call__(self, data: bytes) -> bytes:
        """What goes on in the place of some bytes; parts of a frame wait."""
        if self.edit is None:
            return data
        self._unread += data
        return b"".join(self._edited(self.edit))

    def _edited(self, edit: Edit) -> Iterator[bytes]:
        if not self._answered:
            head, end, rest = self._unread.partition(b"\r\n\r\n")
            if not end:
                return
            self._answered, self._unread = True, rest
            yield bytes(head + end)
        for frame in whole_frames(self._unread):
            yield from edit(frame)


def whole_frames(unread: bytearray) -> Iterator[bytes]:
    """Take whole WebSocket frames of a server from a buffer (RFC 6455, 5.2)."""
    while len(unread) >= 2:
        size, start = unread[1], 2
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(unread[2:start])
        if len(unread) < start + size:
            return
        yield bytes(unread[: start + size])
        del unread[: start + size]


class End(asyncio.Transport):
    """One end of a connection, as a protocol sees it."""

    way: Way  # for what it writes
    arriving: Way

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"socket": NoSocket(0), "peername": ("127.0.0.1", 0)})
        self._loop = loop
        self.reading = True
        self._closing = self._lost = self._paused = False

    def open(self, protocol: Protocol) -> None:
        """Begin: the protocol learns of its transport."""
        self._protocol = protocol
        protocol.connection_made(self)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def write(self, data: Any) -> None:
        if self._closing:
            return
        self.way.write(bytes(data))
        if self.get_write_buffer_size() > HIGH_WATER and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return 0 if self._lost else max(0, self.way.held - SOCKET_BYTES)

    def make_room(self) -> None:
        """Called when some of what was written has been taken."""
        if self._closing and not self.get_write_buffer_size():
            self.lose(None)
        elif self._paused and self.get_write_buffer_size() <= LOW_WATER:
            self._paused = False
            self._protocol.resume_writing()

    def take(self, data: bytes | None) -> None:
        """Give the protocol what has arrived; a closed end takes no more."""
        if data is RESET:
            self.lose(ConnectionResetError(errno.ECONNRESET, "reset by the network"))
        elif self._closing:
            return
        elif not data:
            if not self._protocol.eof_received():
                self.close()
        elif isinstance(self._protocol, asyncio.BufferedProtocol):
            self._fill(self._protocol, data)
        else:
            self._protocol.data_received(data)

    def _fill(self, protocol: asyncio.BufferedProtocol, data: bytes) -> None:
        while data and not self._closing:
            buffer = memoryview(protocol.get_buffer(len(data)))[: len(data)]
            buffer[:] = data[: len(buffer)]
            data = data[len(buffer) :]
            protocol.buffer_updated(len(buffer))

    def lose(self, error: Exception | None) -> None:
        """The connection is over; its protocol hears of it once."""
        self._closing = True
        if not self._lost:
            self._lost = True
            self._loop.call_soon(self._protocol.connection_lost, error)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.way.send(b"")
            self.make_room()

    def abort(self) -> None:
        if not self._lost:
            self.way.send(RESET)
            self.lose(None)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
        self._loop.call_soon(self.arriving.hand_over)


class NoSocket:
    """What programs ask a transport's socket for."""

    family = None

    def __init__(self, port: int) -> None:
        self.port = port

    def fileno(self) -> int:
        """No file: picows then writes to the transport instead."""
        return -1

    def getsockname(self) -> tuple[str, int]:
        """Where somebody listens."""
        return "127.0.0.1", self.port

    def setsockopt(self, *_: Any) -> None:
        """Nothing to set."""

    def getsockopt(self, *_: Any) -> int:
        """Nothing is set."""
        return 0
