"""A clock and a network that exist only in this process.

Three things make a test of network faults slow and fickle: it waits, the
kernel has its own idea of when bytes arrive, and tasks that are ready together
run in whatever order they became ready. `VirtualLoop` has none of them:

    time     jumps to the next timer whenever nothing is ready
    bytes    go from one end to the other in memory, by a `Way` that may delay,
             edit, swallow or cut them
    order    of the tasks that are ready together is drawn from a seed

The real server and the real client run on it unchanged, and a seed is a whole
history: who fails once fails again.
"""

import asyncio
import errno
import random
import selectors
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast
from unittest.mock import patch

import picows.api

T = TypeVar("T")
Protocol = asyncio.Protocol | asyncio.BufferedProtocol
Edit = Callable[[bytes], list[bytes]]

TURN_SECONDS = 1e-6  # what a turn of the loop takes, or polling would last for ever
LONGEST_SECONDS = 900.0  # a story that is not over by then hangs
SOCKET_BYTES = 256 << 10  # what two kernels hold between two programs
HIGH_WATER, LOW_WATER = 64 << 10, 16 << 10  # asyncio's own
RESET = None  # on its way like bytes; b"" is a goodbye, as from a socket


class JumpingSelector(selectors.DefaultSelector):
    """Never waits: its clock jumps to the time that it was asked to wait for."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """What is ready; the only place where time passes by itself."""
        events = super().select(0)
        if timeout is None and not events:
            raise RuntimeError("every task waits, and nothing is under way")
        self.now += (not events and timeout) or TURN_SECONDS
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop with its own time, its own order and its own network.

    Attributes:
        draw: all that is random here; tests draw from it, too.
        connections: as they were made; `plan` may change each at its start.
        trace: (time, way, bytes) of all that has arrived.
        errors: what callbacks raised and nobody awaited.
    """

    def __init__(self, seed: int) -> None:
        self._clock = JumpingSelector()
        super().__init__(self._clock)
        self.draw = random.Random(seed)
        self.listening: dict[int, Callable[[], Protocol]] = {}
        self.connections: list[Connection] = []
        self.plan: Callable[[Connection], None] = lambda connection: None
        self.trace: list[tuple[float, str, int]] = []
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.errors.append(context))

    def time(self) -> float:
        """Seconds of this loop, which no other clock knows."""
        return self._clock.now

    def hold(self, seconds: float) -> None:
        """Time passes and no task runs: a call that holds the loop."""
        self._clock.now += seconds

    def _run_once(self) -> None:
        """Before each turn, let the tasks that are ready change places.

        All else keeps its place: transports rely on the order of their calls.
        """
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        at = [i for i, handle in enumerate(ready) if _steps_a_task(handle)]
        shuffled = [ready[i] for i in self.draw.sample(at, len(at))]
        for i, handle in zip(at, shuffled, strict=True):
            ready[i] = handle
        super()._run_once()  # type: ignore[misc]

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Call it at once: a thread would have a time of its own."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    async def create_server(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        """Listen on the next port; whatever host and port were asked for."""
        port = 1 + max(self.listening, default=0)
        return Listening(self, port, protocol_factory)

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        """Connect two transports in memory, or refuse."""
        if port not in self.listening:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody at {port}")
        connection = Connection(self, len(self.connections) + 1)
        self.connections.append(connection)
        self.plan(connection)
        connection.server.open(self.listening[port]())
        connection.client.open(protocol := protocol_factory())
        return connection.client, protocol


def _steps_a_task(handle: asyncio.Handle) -> bool:
    callback = handle._callback  # type: ignore[attr-defined]
    return isinstance(getattr(callback, "__self__", None), asyncio.Task)


def run(story: Callable[[VirtualLoop], Awaitable[T]], seed: int = 0) -> T:
    """Run a story to its end on a loop of its own."""

    async def told() -> T:
        loop = cast(VirtualLoop, asyncio.get_running_loop())
        async with asyncio.timeout(LONGEST_SECONDS):
            result = await story(loop)
        assert not loop.errors, loop.errors
        return result

    # picows would make its own sockets where aiofastnet is installed.
    with (
        patch.object(picows.api, "_HAS_AIOFASTNET", False),
        asyncio.Runner(loop_factory=lambda: VirtualLoop(seed)) as runner,
    ):
        return runner.run(told())


# -- the network -----------------------------------------------------------------


class Listening:
    """What `create_server` returns."""

    def __init__(
        self, loop: VirtualLoop, port: int, factory: Callable[[], Protocol]
    ) -> None:
        self._listening, self._port = loop.listening, port
        self._listening[port] = factory
        self.sockets = [NoSocket(port)]

    def close(self) -> None:
        """Refuse from now on; connections go on."""
        self._listening.pop(self._port, None)
        self.sockets = []


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


class Connection:
    """Two ends, and a way for each direction: `up` to the server, `down` from it."""

    def __init__(self, loop: VirtualLoop, number: int) -> None:
        self.number = number
        self.client, self.server = End(loop), End(loop)
        self.up = Way(loop, f"{number} up", self.client, self.server)
        self.down = Way(loop, f"{number} down", self.server, self.client)

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
        edit: from a whole WebSocket frame to those that go on in its place.
    """

    def __init__(self, loop: VirtualLoop, name: str, source: "End", target: "End"):
        self.loop, self.name = loop, name
        self.source, self.target = source, target
        source.way, target.arriving = self, self
        self.sent = self.held = 0  # held: bytes not handed over yet
        self.delay: Callable[[], float] = lambda: 0.0
        self.cut_after = self.swallow_after = float("inf")
        self.stalled = False
        self.edit: Edit | None = None
        self._unedited = bytearray()
        self._answered = False  # the HTTP answer, which comes before all frames
        self._last = 0.0  # when the latest bytes arrive
        self._under_way: deque[bytes | None] = deque()
        self._arrived: deque[bytes | None] = deque()

    def write(self, data: bytes) -> None:
        """Take bytes in; what the faults leave of them will arrive."""
        data = b"".join(self._edited(data)) if self.edit else data
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
        self.loop.trace.append((self.loop.time(), self.name, len(data or b"")))
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

    def _edited(self, data: bytes) -> Iterator[bytes]:
        assert self.edit is not None
        self._unedited += data
        if not self._answered:
            head, end, rest = self._unedited.partition(b"\r\n\r\n")
            if not end:
                return
            self._answered, self._unedited = True, rest
            yield bytes(head + end)
        for frame in whole_frames(self._unedited):
            yield from self.edit(frame)


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

    def __init__(self, loop: VirtualLoop) -> None:
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
        return max(0, self.way.held - SOCKET_BYTES)

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
