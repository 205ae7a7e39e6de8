"""A clock and a network that exist only in this process.

Three things make a test of network faults slow and fickle: it waits, the
kernel has its own idea of when bytes arrive, and tasks that are ready together
run in whatever order they became ready. `VirtualLoop` has none of them:

    time     jumps to the next timer whenever nothing is ready
    bytes    go from one end to the other in memory (see `network`)
    order    of the tasks that are ready together is drawn from a seed

The real server and the real client run on it unchanged, and a seed is a whole
history: who fails once fails again.
"""

import asyncio
import errno
import random
import selectors
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast
from unittest.mock import patch

import picows.api

from tests.network import Connection, NoSocket, Protocol, Trace

T = TypeVar("T")
TURN_SECONDS = 1e-6  # what a turn of the loop takes, or polling would last for ever
THREAD_SECONDS = 0.01  # what a call in a thread takes at most
LONGEST_SECONDS = 300.0  # a story that is not over by then hangs


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
        trace: what has arrived, and when.
        errors: what callbacks raised and nobody awaited.
    """

    def __init__(self, seed: int) -> None:
        self._clock = JumpingSelector()
        super().__init__(self._clock)
        self.draw = random.Random(seed)
        self.listening: dict[int, Callable[[], Protocol]] = {}
        self.connections: list[Connection] = []
        self.plan: Callable[[Connection], None] = lambda connection: None
        self.trace: Trace = []
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
        """Call it here, some time later: a thread would have a time of its own."""
        done: asyncio.Future[T] = self.create_future()

        def call() -> None:
            try:
                result = func(*args)
            except Exception as error:
                if not done.cancelled():
                    done.set_exception(error)
            else:
                if not done.cancelled():
                    done.set_result(result)

        self.call_later(self.draw.random() * THREAD_SECONDS, call)
        return done

    async def create_server(self, protocol_factory: Any, *_: Any, **__: Any) -> Any:
        """Listen on the next port; whatever host and port were asked for."""
        port = 1 + max(self.listening, default=0)
        return Listening(self, port, protocol_factory)

    async def create_connection(
        self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any
    ) -> Any:
        """Connect two transports in memory, or refuse."""
        connection = Connection(self, len(self.connections) + 1, self.trace)
        self.connections.append(connection)
        self.plan(connection)  # which may refuse it, too
        if port not in self.listening:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody at {port}")
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
